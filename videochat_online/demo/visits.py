"""One open page and the session behind it: what its visitor may do. No gradio; mistakes are ValueErrors."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..serve.limits import NotAllowed, SessionSettings, TooLarge, UnknownSession
from ..serve.live_session import LiveSession
from ..serve.sessions import Sessions
from ..serve.sources import SourceRequest, open_source

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
