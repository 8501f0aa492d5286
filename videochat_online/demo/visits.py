"""Which session belongs to which open page, and what its visitor may do. No gradio; mistakes are ValueErrors."""

from __future__ import annotations

import math
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..serve.limits import NotAllowed, SessionSettings, TooLarge, UnknownSession
from ..serve.live_session import LiveSession
from ..serve.sessions import Sessions
from ..serve.sources import SourceRequest, open_source

CAMERA_PAUSE = 3.0
"""Seconds without a frame after which a browser's camera counts as started again."""


@dataclass
class Visit:
    """One open page."""

    key: str | None = None
    """Of its session; None before something was started, or after it ended for being idle."""
    has_ended: bool = False
    """Whether it had a session that ended for being idle, and none since."""
    settings: SessionSettings | None = None
    camera_seconds: float = -math.inf
    """When its camera last sent a frame."""


class Visits:
    """A visitor is one open page. A place is taken when something is started, and given back when the page is left."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._visits: dict[str, Visit] = {}
        self._lock = threading.RLock()

    def session(self, visitor: str) -> LiveSession | None:
        """The visitor's session, where there is one now."""
        with self._lock:
            visit = self._visits.get(visitor)
            if visit is None or visit.key is None:
                return None
            try:
                return self.sessions.get(visit.key)
            except UnknownSession:
                visit.key, visit.has_ended = None, True
                return None

    def _session_for(self, visitor: str) -> LiveSession:
        with self._lock:
            session = self.session(visitor)
            if session is None:
                visit = self._visit(visitor)
                session = self.sessions.create(visit.settings)
                visit.key, visit.has_ended = session.key, False
            return session

    def _visit(self, visitor: str) -> Visit:
        return self._visits.setdefault(visitor, Visit())

    def has_ended(self, visitor: str) -> bool:
        """Whether the visitor had a session that was ended for being idle."""
        visit = self._visits.get(visitor)
        return visit is not None and visit.has_ended

    def running(self, visitor: str) -> LiveSession:
        """The visitor's session; NotAllowed without one."""
        session = self.session(visitor)
        if session is None:
            raise NotAllowed("start a stream first (or start it again: a session that is not used ends after a while)")
        return session

    def start(self, visitor: str, request: SourceRequest) -> LiveSession:
        """Watch something from now on; errors as `open_source`, LimitReached where all places are taken."""
        stream = open_source(request, self.sessions.limits)
        try:
            session = self._session_for(visitor)
        except BaseException:
            stream.source.close()
            raise
        session.start(stream)
        return session

    def start_upload(self, visitor: str, path: str, name: str) -> LiveSession:
        """Watch a file that the visitor's browser has sent (see door.py); it moves into the session's own folder."""
        arrived = Path(path)
        if not arrived.is_file():  # somebody else sent the same file under the same name, and is watching it
            raise NotAllowed(f"{name} is gone: send it again")
        size, most = arrived.stat().st_size, self.sessions.limits.max_upload_bytes
        if size > most:
            arrived.unlink()
            raise TooLarge(f"{name} has {size:,} bytes, at most {most:,} are taken")
        session = self._session_for(visitor)
        kept = session.upload_path()
        shutil.move(arrived, kept)
        session.start_file(kept, name)
        return session

    def camera_frame(self, visitor: str, image: Any) -> LiveSession | None:
        """A frame of the browser's camera; the session, where this one begins a stream.

        A camera that keeps sending after its visitor chose something else, or pressed Stop, is not listened to until
        it is started again.
        """
        visit, now = self._visit(visitor), time.monotonic()
        is_new = now - visit.camera_seconds > CAMERA_PAUSE
        visit.camera_seconds = now
        session = self.session(visitor)
        if session is not None and session.watches_pushes:
            session.push(image)
            return None
        if not is_new:
            return None
        session = self.start(visitor, SourceRequest("push"))
        session.push(image)
        return session

    def change(self, visitor: str, settings: SessionSettings) -> LiveSession | None:
        """Settings for this visitor, from now on; the session, where there is one already."""
        settings.check(self.sessions.limits, self.sessions.model)
        self._visit(visitor).settings = settings
        if (session := self.session(visitor)) is not None:
            session.change(settings)
        return session

    def leave(self, visitor: str) -> None:
        """The page was closed."""
        with self._lock:
            visit = self._visits.pop(visitor, None)
            if visit is not None and visit.key is not None:
                self.sessions.end_if_there(visit.key)
