"""Who is served next: in turn, by what each client had, within bounds; all of it without looking at a clock."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable

import pytest

from videochat_online.serve import turns as module
from videochat_online.serve.limits import LimitReached, Overloaded
from videochat_online.serve.turns import CLIENT, Place, Turns


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """clock(seconds): time goes on by so much, and by nothing else."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


def make(places: int = 1, **limits: int) -> Turns:
    return Turns(places, **{"most_waiting": 100, "most_of_session": 8, "most_alone": 8} | limits)


def enter(turns: Turns, client: str, session: str) -> Place:
    CLIENT.set(client)
    return turns.enter(session)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_had_least_goes_first_and_a_session_does_one_after_another(clock):
    async def run() -> None:
        turns, order = make(places=2), []

        async def work(place: Place, name: str) -> None:
            await place.turn()
            order.append(name)

        first = [enter(turns, "rude", "a"), enter(turns, "rude", "a"), enter(turns, "rude", "b")]
        tasks = [asyncio.create_task(work(place, name)) for place, name in zip(first, ("a1", "a2", "b1"), strict=True)]
        await settled()
        assert order == ["a1", "b1"], "a2 is of the session that is being served, though a place is free"
        clock(1.0)
        polite = enter(turns, "polite", "c")
        tasks.append(asyncio.create_task(work(polite, "c1")))
        await settled()
        assert order == ["a1", "b1"] and turns.num_waiting == 2 and turns.num_held == 2
        first[0].release()
        await settled()
        assert order == ["a1", "b1", "c1"], "it came last, and had least"
        polite.release()
        await asyncio.gather(*tasks)
        assert order[-1] == "a2"
        for place in first:
            place.release()
        assert turns.num_entered == 0

    asyncio.run(run())


def test_a_session_that_had_much_waits_no_longer_than_that(clock):
    """Though others of the same client, who had nothing, never stop coming."""

    async def run() -> None:
        turns = make(most_waiting=1000)
        long = enter(turns, "one", "long")
        await long.turn()
        clock(5.0)
        held = enter(turns, "one", "first")
        long.release()
        waits = asyncio.create_task(held.turn())
        await settled()
        again = enter(turns, "one", "long")
        served, seconds = asyncio.create_task(again.turn()), 0.0
        while not served.done():
            other = enter(turns, "one", f"another-{seconds:.1f}")
            task = asyncio.create_task(other.turn())
            await settled()
            clock(0.1)
            seconds += 0.1
            held.release()
            await settled()
            await waits
            held, waits = other, task
            assert seconds < 5.0, "it had 5 s, half of them long ago"
        assert seconds > 2.0
        waits.cancel()

    asyncio.run(run())


def test_a_long_work_gives_way_in_its_middle_and_goes_on(clock):
    async def run() -> None:
        turns = make()
        long, begun, over = enter(turns, "rude", "a"), threading.Event(), threading.Event()
        await long.turn()
        long.pause()
        assert long.state == "held", "nobody waits"
        clock(5.0)
        short = enter(turns, "polite", "b")
        waiting = asyncio.create_task(short.turn())
        await settled()

        def work() -> None:
            begun.set()
            long.pause()
            over.set()

        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.wait_for(waiting, 60)
        assert short.state == "held" and long.state == "waiting" and begun.is_set() and not over.is_set()
        short.release()
        thread.join(60)
        assert over.is_set() and long.state == "held"

    asyncio.run(run())


def test_while_a_seldom_question_is_served_whoever_had_far_more_stands_aside(clock, monkeypatch):
    slept = []
    real = asyncio.sleep
    monkeypatch.setattr(module.asyncio, "sleep", lambda seconds: real(slept.append(seconds) or 0))

    async def run() -> None:
        turns = make(places=2)
        rude = [enter(turns, "rude", name) for name in "ab"]
        for place in rude:
            await place.turn()
        clock(5.0)
        for place in rude:
            place.pause()
        assert turns.num_held == 2 and not turns.is_favouring, "both are of one client"
        polite = enter(turns, "polite", "d")
        await polite.turn()
        assert polite.state == "held" and turns.is_favouring, "it waited for nobody's next word"
        # 1. who makes an answer stands aside between two words
        over = threading.Event()
        thread = threading.Thread(target=lambda: (rude[0].pause(), over.set()))
        thread.start()
        while rude[0].state != "waiting":
            await real(0)
        assert not over.is_set()
        # 2. what it sends is read later, and what others send at once
        slept.clear()
        await turns.let_pass()
        assert slept == []
        CLIENT.set("rude")
        await turns.let_pass()
        assert slept == [module.ASIDE_SECONDS]
        # 3. that is over with the answer
        polite.release()
        thread.join(60)
        assert over.is_set() and not turns.is_favouring and turns.num_held == 2
        await turns.let_pass()
        assert len(slept) == 1

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_nobody_waits_beside_a_free_place_and_all_are_served(clock, seed):
    rng, awake, places = random.Random(seed), set(), []
    turns = make(places=rng.choice((1, 2)), most_waiting=9, most_of_session=3, most_alone=3)

    def step(place: Place, is_done: bool) -> bool:
        """Whether it went one step; what wakes it is in `awake`."""
        if place.state == "new":
            turns._wait(place, lambda: awake.add(place))
        elif place.state == "held":
            awake.discard(place)
            if not is_done and not turns._gave_way(place, lambda: awake.add(place)):
                awake.add(place)
        if is_done:
            place.release()
        held = [one for one in turns._entered if one.state == "held"]
        assert turns._num_free == turns._num_places + 1 - len(held) >= 0
        assert held or not turns._ready(), "somebody waits beside free places"
        assert all(one in awake for one in held), "one is served and does not know of it"
        return place.state == "held"

    for _ in range(200):
        clock(rng.choice((0.0, 0.02, 0.3, 2.0)))
        if rng.random() < 0.4 or not turns._entered:
            try:
                places.append(enter(turns, rng.choice("aaaab"), rng.choice(["", "1", "2", "3"])))
            except (LimitReached, Overloaded):
                continue
        step(rng.choice(turns._entered), is_done=rng.random() < 0.15)
    while turns._entered:
        for place in list(turns._entered):  # each does a piece or two, and time stands still
            step(place, is_done=False)
        for _ in range(3):
            num_held = sum(step(place, is_done=False) for place in list(turns._entered))
        assert num_held <= turns._num_places, "one more is served only while another is about to stand aside"
        clock(0.2)
        step(rng.choice([one for one in turns._entered if one.state == "held"]), is_done=True)
    assert turns._num_free == turns._num_places + 1 and not turns.is_favouring
    assert all(place.state == "over" for place in places)


def test_who_is_served_alone_is_favoured_only_until_it_had_as_much(clock):
    async def run() -> None:
        turns = make()
        rude = enter(turns, "rude", "a")
        await rude.turn()
        clock(3.0)
        rude.release()
        polite = enter(turns, "polite", "b")
        await polite.turn()
        assert turns.is_favouring
        clock(2.0)
        polite.pause()
        assert polite.state == "held" and not turns.is_favouring

    asyncio.run(run())


def test_an_equal_share_is_not_interrupted_at_every_word(clock):
    async def run() -> None:
        turns = make()
        one = enter(turns, "x", "a")
        await one.turn()
        other = enter(turns, "y", "b")
        waiting = asyncio.create_task(other.turn())
        await settled()
        clock(module.SLICE_SECONDS / 2)
        one.pause()
        assert one.state == "held" and not waiting.done()
        one.release()
        await asyncio.wait_for(waiting, 60)

    asyncio.run(run())


def test_what_nobody_wants_any_more_leaves_the_queue(clock):
    async def run() -> None:
        turns = make()
        held, left = enter(turns, "x", "a"), enter(turns, "x", "a")
        await held.turn()
        waiting = asyncio.create_task(left.turn())
        await settled()
        turns.empty()  # not what has begun
        with pytest.raises(Overloaded, match="being stopped"):
            await asyncio.wait_for(waiting, 60)
        assert turns.num_entered == 1
        with pytest.raises(ZeroDivisionError), turns.entered("b"):
            raise ZeroDivisionError
        assert turns.num_entered == 1
        held.release()
        held.release()
        assert turns.num_entered == 0 and turns.num_held == 0

    asyncio.run(run())


def test_who_asks_for_many_things_at_once_waits_longer_for_each(clock):
    async def run() -> None:
        turns = make()
        for client, seconds in (("rude", 1.0), ("polite", 3.0)):
            place = enter(turns, client, client)
            await place.turn()
            clock(seconds)
            place.release()
        held, order = enter(turns, "x", "x"), []
        await held.turn()

        async def work(place: Place) -> None:
            await place.turn()
            order.append(place.client)
            place.release()

        places = [enter(turns, "rude", f"r{number}") for number in range(4)] + [enter(turns, "polite", "p")]
        tasks = [asyncio.create_task(work(place)) for place in places]
        await settled()
        held.release()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert order[:2] == ["polite", "rude"], "it had three times as much, and asks for a fourth"

    asyncio.run(run())


def test_a_full_queue_lets_the_newest_of_the_client_who_has_most_go(clock):
    async def run() -> None:
        turns = make(most_alone=3)
        rude = [enter(turns, "rude", "") for _ in range(3)]
        await rude[0].turn()
        waiting = asyncio.create_task(rude[1].turn())
        await settled()
        polite = enter(turns, "polite", "")
        with pytest.raises(Overloaded, match="who asked for less"):  # its pictures were still being read
            await asyncio.wait_for(rude[2].turn(), 60)
        assert turns.num_entered == 3 and not waiting.done()
        for client in ("rude", "polite"):  # who would have as much as the one who has most displaces nobody
            with pytest.raises(LimitReached, match="3 questions without a session"):
                enter(turns, client, "")
        for place in (rude[0], rude[1], polite):
            place.release()
        with pytest.raises(Overloaded, match="being stopped"):
            await asyncio.wait_for(waiting, 60)
        assert turns.num_entered == 0

    asyncio.run(run())


def test_a_place_that_is_given_back_before_its_turn_is_waited_for_does_not_wait_for_ever(clock):
    async def run() -> None:
        turns = make()
        place = enter(turns, "x", "a")
        turns.empty()  # the server is being stopped while the pictures are read
        with pytest.raises(Overloaded, match="being stopped"):
            await asyncio.wait_for(place.turn(), 60)
        assert turns.num_held == 0

    asyncio.run(run())


def test_bounds_and_when_to_come_again(clock):
    turns = make(most_waiting=5, most_of_session=2, most_alone=1)
    for session in ("a", "a", ""):
        enter(turns, "x", session)
    for session, words in (("a", "2 questions of this session"), ("", "1 questions without a session")):
        with pytest.raises(LimitReached, match=words) as caught:
            turns.enter(session)
        assert caught.value.status == 429 and caught.value.retry >= 1
    turns.enter("b")
    turns.enter("b")
    with pytest.raises(Overloaded, match="5 requests wait") as caught:
        turns.enter("c")
    assert caught.value.status == 503
    turns.is_closed = True
    with pytest.raises(Overloaded, match="being stopped"):
        turns.enter("d")
