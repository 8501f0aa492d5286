"""Who is served next: in turn, by what each client had, within bounds; all of it without looking at a clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from videochat_online.serve import turns as module
from videochat_online.serve.limits import LimitReached, Overloaded
from videochat_online.serve.turns import CLIENT, Place, Refusals, Turns


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


def test_refusals_of_one_client_come_one_after_another(clock, monkeypatch):
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(round(seconds, 3))

    monkeypatch.setattr(module.asyncio, "sleep", sleep)

    async def run() -> None:
        refusals = Refusals()
        for client in ("rude", "rude", "rude", "polite"):
            CLIENT.set(client)
            await refusals.moment()

    asyncio.run(run())
    assert waited == [0.5, 0.7, 0.9, 0.5]
