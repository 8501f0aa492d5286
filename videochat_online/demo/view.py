"""What the page shows of a session, as one small document of plain values; page.js draws it.

Pure functions; no gradio. A document is sent with every tick, so it holds numbers and words only: pictures have
addresses of their own and are fetched once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..serve.live_session import LiveSession
from ..serve.track import HeldPicture
from ..streaming.standing import LEAD, Standing, StandingEvent

State = dict[str, Any]
LEVEL_NAMES = {1: ("Sharp",), 2: ("Sharp", "Coarse"), 3: ("Sharp", "Medium", "Coarse")}
MOST_POINTS = 160
"""Of a curve: as many as its axis has places to tell apart."""
SHOWN_EVENTS = 40


def stamp(seconds: float) -> str:
    """
    >>> stamp(75.25)
    '1:15.2'
    """
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths % 600 // 10:02d}.{tenths % 10}"


def page_view(session: LiveSession) -> State:
    """All that changes while a stream runs: the stream, the memory, the dialogue, the instructions. Seconds, 0 to 1."""
    state = session.state()
    told = session.session.watchlist.after(session.num_told_before)[-SHOWN_EVENTS:]
    for event in told:
        session.track.keep_moment(event.id, event.time)
    return {
        **{name: state[name] for name in ("id", "run", "source", "state", "problem", "duration", "speed", "truth")},
        "live": state["speed"] is None,
        "position": round(state["position"], 2),
        "seen": state["stats"]["frames_seen"],
        "levels": levels_view([(one["rows"], one["columns"], one["capacity"]) for one in state["levels"]]),
        "held": held_view(session.track.held.values()),
        "talk": talk_view(session, told),
        "wishes": [wish_view(one, told) for one in session.session.standing],
        "numbers": numbers_view(state),
    }


def levels_view(levels: Sequence[tuple[int, int, int]]) -> list[State]:
    """Of (rows, columns, capacity), finest first."""
    names = LEVEL_NAMES.get(len(levels)) or [f"Level {number}" for number in range(len(levels))]
    return [
        {"name": name, "rows": rows, "columns": columns, "capacity": capacity}
        for name, (rows, columns, capacity) in zip(names, levels, strict=True)
    ]


def held_view(held: Iterable[HeldPicture]) -> list[tuple[int, float, int]]:
    """(number, seconds, level) of each frame."""
    return [(one.number, round(one.timestamp, 2), one.level) for one in held]


def talk_view(session: LiveSession, told: Sequence[StandingEvent]) -> list[State]:
    """Questions with their answers, and what was said unasked, in order of time."""
    # "done" is read before "a", which another thread writes: what is said to be done is whole
    asked: list[State] = [
        {"done": one.is_done, "turn": one.number, "t": one.timestamp, "q": one.question, "a": one.answer}
        for one in session.track.turns
    ]
    said: list[State] = [
        {"event": one.id, "t": one.time, "key": one.standing, "wish": wish_words(one.instruction), "a": one.text,
         "quiet": one.quiet}
        for one in told
    ]  # fmt: skip
    return sorted(asked + said, key=lambda one: float(one["t"]))


def wish_words(text: str) -> str:
    """An instruction without its beginning, which the page says itself.

    >>> wish_words("Tell me when two shapes touch."), wish_words("Is the door open?")
    ('two shapes touch', 'Is the door open?')
    """
    return LEAD.sub("", text.strip()).rstrip(".!")


def wish_view(one: Standing, told: Sequence[StandingEvent]) -> State:
    """An instruction, its rule, P as it was and is, and where it spoke."""
    fired = [(round(event.time, 2), round(event.probability, 3)) for event in told if event.standing == one.key]
    return {
        "key": one.key, "text": wish_words(one.text), "threshold": one.rule.threshold, "once": one.rule.once,
        "paused": one.is_paused, "p": one.probability, "curve": thinned(list(one.curve)), "fired": fired,
    }  # fmt: skip


def thinned(curve: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about `most` points, the highest of each piece of time and the newest; the pieces do not move.

    >>> thinned([(k / 2, k / 8) for k in range(8)], most=4)
    [(0.5, 0.125), (1.5, 0.375), (2.5, 0.625), (3.5, 0.875)]
    """
    if not curve:
        return []
    width = 0.25
    while (curve[-1][0] - curve[0][0]) / width > most:
        width *= 2
    highest: dict[int, tuple[float, float]] = {}
    for point in curve[:-1]:
        place = int(point[0] / width)
        highest[place] = max(highest.get(place, point), point, key=lambda one: one[1])
    last = int(curve[-1][0] / width)
    if last in highest and highest[last][1] <= curve[-1][1]:
        del highest[last]
    return [(round(seconds, 2), round(p, 3)) for seconds, p in (*highest.values(), curve[-1])]


def numbers_view(state: State) -> State:
    """Counters of the session, name -> value in words."""

    def number(value: float | None, unit: str, digits: int = 1) -> str:
        return "–" if value is None else f"{value:.{digits}f}{unit}"

    stats = state["stats"]
    return {
        "frames seen": f"{stats['frames_seen']:,}",
        "visual tokens": f"{stats['tokens']:,}",
        "memory": number(stats["bytes"] / 2**20, " MiB", 2),
        "encoding": number(stats["encode_fps"], " fps"),
        "lag": number(state["lag"], " s"),
        "newest picture": number(state["age"], " s ago"),
        "dropped": f"{state['frames_dropped']:,}",
        "damaged": f"{state['frames_damaged']:,}",
        "reconnects": f"{state['reconnects']:,}",
        "first token": number(stats["time_to_first_token"], " s", 2),
        "prompt reused": f"{stats['cached_tokens']} of {stats['prompt_tokens']}" if stats["prompt_tokens"] else "–",
    }
