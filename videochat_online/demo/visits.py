"""One open page and the session behind it: what its visitor may do, and what is shown. No gradio.

Mistakes are ValueErrors. What is shown is one small document of plain values, sent with every tick; page.js draws it.
It holds numbers and words only: pictures have addresses of their own and are fetched once.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..serve.limits import NotAllowed, SessionSettings, TooLarge, UnknownSession
from ..serve.live_session import LiveSession
from ..serve.sessions import Sessions
from ..serve.sources import SourceRequest, open_source
from ..serve.track import HeldPicture
from ..streaming.standing import LEAD, Standing, StandingEvent

BACK_SECONDS = 12.0
"""A page that is loaded again is back by then, and finds its session; after that the place is given to others."""


class Visit:
    """One open page. A place is taken when something is started, and given back when the page has been left."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.has_ended = False
        """Whether it had a session that ended for being idle, and none since."""
        self._settings: SessionSettings | None = None
        self.key: str | None = None  # of the session; None before something was started, and after it ended
        self.num_asking = 0
        """Questions of this page that are being answered."""
        self.num_cancelled = 0
        """How often what was being answered was no longer wanted."""
        self._lock = threading.RLock()

    @property
    def session(self) -> LiveSession | None:
        """The session, where there is one now."""
        with self._lock:
            try:
                return self.sessions.get(self.key) if self.key else None
            except UnknownSession:
                self.key, self.has_ended = None, True
                return None

    def running(self) -> LiveSession:
        """The session; NotAllowed without one."""
        if (session := self.session) is None:
            raise NotAllowed("start a stream first (or start it again: a session that is not used ends after a while)")
        return session

    def _begun(self) -> LiveSession:
        with self._lock:
            session = self.session or self.sessions.create(self._settings)
            self.key, self.has_ended = session.key, False
            return session

    def start(self, request: SourceRequest) -> LiveSession:
        """Watch something from now on; errors as `open_source`, LimitReached where all places are taken."""
        stream = open_source(request, self.sessions.limits)
        try:
            session = self._begun()
        except BaseException:
            stream.source.close()
            raise
        session.start(stream)
        return session

    def start_upload(self, path: str, name: str) -> None:
        """Watch a file that the visitor's browser has sent (see door.py); it moves into the session's own folder."""
        arrived = Path(path)
        if not arrived.is_file():  # somebody else sent the same file under the same name, and is watching it
            raise NotAllowed(f"{name} is gone: send it again")
        size, most = arrived.stat().st_size, self.sessions.limits.max_upload_bytes
        if size > most:
            arrived.unlink()
            raise TooLarge(f"{name} has {size:,} bytes, at most {most:,} are taken")
        session = self._begun()
        kept = session.upload_path()
        shutil.move(arrived, kept)
        session.start_file(kept, name)

    def camera_frame(self, image: Any, *, begins: bool) -> bool:
        """A frame of the browser's camera; whether it starts a stream, as only one that `begins` does.

        Frames that come after its visitor chose something else, or pressed Stop, are not listened to.
        """
        session = self.session
        is_new = session is None or not session.watches_pushes
        if is_new and not begins:
            return False
        if session is None or is_new:
            session = self.start(SourceRequest("push"))
        session.push(image)
        return is_new

    def resume(self, key: str) -> LiveSession:
        """Go on with a session that a page has begun and knows by its id; UnknownSession where it is gone."""
        session = self.sessions.get(key)
        with self._lock:
            self.key, self._settings, self.has_ended = key, session.settings, False
        session.keep()
        return session

    def rule(self, key: str, **changes: Any) -> None:
        """Another threshold, ... of an instruction, from the next frame on. ValueError for one that cannot be."""
        standing = next((one for one in self.running().session.standing if one.key == key), None)
        if standing is None:
            raise NotAllowed("this instruction does not stand any more")
        is_paused = changes.pop("paused", standing.is_paused)
        standing.rule, standing.is_paused = replace(standing.rule, **changes), is_paused

    def change(self, settings: SessionSettings) -> None:
        """Settings from now on, also for the session that there may be already."""
        settings.check(self.sessions.limits, self.sessions.model)
        self._settings = settings
        if (session := self.session) is not None:
            session.change(settings)


class Visits:
    """The open pages, each by the id that gradio gives it."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._open: dict[str, Visit] = {}

    def look(self, page: str) -> Visit:
        """The page's visit. One that has done nothing yet is not remembered: ids can be made up."""
        return self._open.get(page) or Visit(self._sessions)

    def enter(self, page: str) -> Visit:
        """The page's visit, remembered until it is left."""
        return self._open.setdefault(page, Visit(self._sessions))

    def leave(self, page: str) -> None:
        """The page was closed, or is being loaded again: its session ends when it does not come back."""
        visit = self._open.pop(page, None)
        if visit is not None and visit.key is not None:
            waits = threading.Timer(BACK_SECONDS, self._end_unless_back, [visit.key])
            waits.daemon = True
            waits.start()

    def _end_unless_back(self, key: str) -> None:
        if all(visit.key != key for visit in list(self._open.values())):
            self._sessions.end_if_there(key)


def parse_levels(text: str) -> tuple[int, ...] | None:
    """
    >>> parse_levels("2/2/12"), parse_levels("")
    ((2, 2, 12), None)
    """
    if not text.strip():
        return None
    try:
        return tuple(int(part) for part in text.replace(",", "/").split("/"))
    except ValueError as error:
        raise ValueError(f"frames a level holds are written as 2/2/12, got {text!r}") from error


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
