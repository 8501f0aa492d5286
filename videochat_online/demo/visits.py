"""One open page and the session behind it: what its visitor may do. No gradio; mistakes are ValueErrors."""

from __future__ import annotations

import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from ..serve.limits import NotAllowed, SessionSettings, TooLarge, UnknownSession
from ..serve.live_session import LiveSession
from ..serve.sessions import Sessions
from ..serve.sources import SourceRequest, open_source

CAMERA_PAUSE = 3.0
"""Seconds without a frame after which a browser's camera counts as started again."""


class Visit:
    """One open page. A place is taken when something is started, and given back when the page is left."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.has_ended = False
        """Whether it had a session that ended for being idle, and none since."""
        self._settings: SessionSettings | None = None
        self._key: str | None = None  # of the session; None before something was started, and after it ended
        self._camera_seconds = -math.inf  # when the camera last sent a frame
        self._lock = threading.RLock()

    @property
    def session(self) -> LiveSession | None:
        """The session, where there is one now."""
        with self._lock:
            try:
                return self.sessions.get(self._key) if self._key else None
            except UnknownSession:
                self._key, self.has_ended = None, True
                return None

    def running(self) -> LiveSession:
        """The session; NotAllowed without one."""
        if (session := self.session) is None:
            raise NotAllowed("start a stream first (or start it again: a session that is not used ends after a while)")
        return session

    def _begun(self) -> LiveSession:
        with self._lock:
            session = self.session or self.sessions.create(self._settings)
            self._key, self.has_ended = session.key, False
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

    def camera_frame(self, image: Any) -> bool:
        """A frame of the browser's camera; whether it begins a stream.

        A camera that keeps sending after its visitor chose something else, or pressed Stop, is not listened to until
        it is started again.
        """
        now = time.monotonic()
        is_new, self._camera_seconds = now - self._camera_seconds > CAMERA_PAUSE, now
        session = self.session
        begins = session is None or not session.watches_pushes
        if begins and not is_new:
            return False
        if session is None or begins:
            session = self.start(SourceRequest("push"))
        session.push(image)
        return begins

    def change(self, settings: SessionSettings) -> None:
        """Settings from now on, also for the session that there may be already."""
        settings.check(self.sessions.limits, self.sessions.model)
        self._settings = settings
        if (session := self.session) is not None:
            session.change(settings)

    def leave(self) -> None:
        """The page was closed."""
        with self._lock:
            if self._key is not None:
                self.sessions.end_if_there(self._key)


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
        if (visit := self._open.pop(page, None)) is not None:
            visit.leave()


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
