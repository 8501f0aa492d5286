"""Which session belongs to which open page, and what its buttons do. No gradio: plain calls that raise ValueError."""

from __future__ import annotations

import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from ..serve.limits import NotAllowed, UnknownSession
from ..serve.live_session import LiveSession
from ..serve.sessions import Sessions
from ..serve.settings import SessionSettings
from ..serve.sources import Opened, open_push
from ..serve.track import Moment
from ..serve.upload import TooLarge, upload_path

CAMERA_PAUSE = 3.0
"""Seconds without a frame after which a browser's camera counts as started again."""
View = tuple[dict[str, Any] | None, list[Moment], Moment | None]


class Visits:
    """A visitor is one open page. A place is taken when something is started, and given back when the page is left."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._keys: dict[str, str] = {}
        self._settings: dict[str, SessionSettings] = {}
        self._ended: set[str] = set()
        self._camera: dict[str, float] = {}  # when each visitor's camera last sent a frame
        self._lock = threading.Lock()

    def session(self, visitor: str) -> LiveSession | None:
        """The visitor's session; None before something was started, or after it ended for being idle."""
        key = self._keys.get(visitor)
        if key is None:
            return None
        try:
            return self.sessions.get(key)
        except UnknownSession:
            if self._keys.pop(visitor, None) is not None:
                self._ended.add(visitor)
            return None

    def _session_for(self, visitor: str) -> LiveSession:
        with self._lock:
            session = self.session(visitor)
            if session is None:
                session = self.sessions.create(self._settings.get(visitor))
                self._keys[visitor] = session.key
                self._ended.discard(visitor)
            return session

    def has_ended(self, visitor: str) -> bool:
        """Whether the visitor had a session that was ended for being idle."""
        return visitor in self._ended

    def running(self, visitor: str) -> LiveSession:
        """The visitor's session; NotAllowed without one."""
        session = self.session(visitor)
        if session is None:
            raise NotAllowed("start a stream first (or start it again: a session that is not used ends after a while)")
        return session

    def start(self, visitor: str, opened: Opened) -> LiveSession:
        try:
            session = self._session_for(visitor)
        except BaseException:
            opened.source.close()
            raise
        session.start(opened)
        return session

    def start_upload(self, visitor: str, path: str, name: str) -> LiveSession:
        """Watch a file that the visitor's browser has sent (see door.py); it moves into the session's own folder."""
        arrived = Path(path)
        if not arrived.is_file():  # somebody else sent the same file under the same name, and is watching it
            raise NotAllowed(f"{name} is gone: send it again")
        if arrived.stat().st_size > self.sessions.limits.max_upload_bytes:
            size = arrived.stat().st_size
            arrived.unlink()
            raise TooLarge(f"{name} has {size:,} bytes, at most {self.sessions.limits.max_upload_bytes:,} are taken")
        session = self._session_for(visitor)
        kept = upload_path(session)
        shutil.move(arrived, kept)
        session.start_file(kept, name)
        return session

    def camera_frame(self, visitor: str, image: Any) -> LiveSession | None:
        """A frame of the browser's camera; the session, where this one begins a stream.

        A camera that goes on sending after its visitor chose something else, or pressed Stop, is not listened to until
        it is started again.
        """
        now = time.monotonic()
        is_new = now - self._camera.get(visitor, -math.inf) > CAMERA_PAUSE
        self._camera[visitor] = now
        session = self.session(visitor)
        if session is not None and session.watches_pushes:
            session.push(image)
            return None
        if not is_new:
            return None
        session = self.start(visitor, open_push())
        session.push(image)
        return session

    def change(self, visitor: str, settings: SessionSettings) -> None:
        """Settings for this visitor, from now on."""
        settings.check(self.sessions.limits, self.sessions.model)
        self._settings[visitor] = settings
        if (session := self.session(visitor)) is not None:
            session.change(settings)

    def leave(self, visitor: str) -> None:
        """The page was closed."""
        with self._lock:
            self._settings.pop(visitor, None)
            self._ended.discard(visitor)
            self._camera.pop(visitor, None)
            if (key := self._keys.pop(visitor, None)) is not None:
                self.sessions.end_if_there(key)

    def view(self, visitor: str, moment: int | None = None) -> View:
        """The session's state, its questions, and the one whose number is `moment`."""
        session = self.session(visitor)
        if session is None:
            return None, [], None
        moments = list(session.track.moments)
        shown = next((found for found in moments if found.number == moment), None)
        return session.state(), moments, shown


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
