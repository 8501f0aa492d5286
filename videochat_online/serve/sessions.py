"""All sessions of one server: making them within limits, finding them, ending those that nobody uses any more."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING

from ..streaming.encoding import SharedEncoder
from ..streaming.watching import IdlePrefill
from .limits import LimitReached, Limits, RequestError, SessionSettings, UnknownSession
from .live_session import LiveSession
from .uploads import ServerFolder

if TYPE_CHECKING:
    from ..model.backbone import Backbone
    from ..processing import Processor

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOOK_SECONDS = 2.0
BROKEN_SECONDS = 300.0
"""An upload to the page that grows no more for so long has broken off."""
log = logging.getLogger(__name__)


class Sessions:
    """One model, many sessions. A context manager: leaving it ends them all and removes their files."""

    def __init__(
        self, model: Backbone, processor: Processor, *, limits: Limits | None = None, model_name: str = "pocket"
    ) -> None:
        self.model, self.processor, self.model_name = model, processor, model_name
        self.limits = limits or Limits()
        self.created = int(time.time())
        self._sessions: dict[str, LiveSession] = {}
        self._lock = threading.Lock()  # of the number of places
        self._names: dict[str, str] = {}  # of sessions that clients named -> their ids
        self._naming = threading.Lock()
        self._alone = threading.BoundedSemaphore(self.limits.max_sessions)
        self.files = ServerFolder()
        self.encoder = SharedEncoder(model, processor)
        self._idle = IdlePrefill(
            lambda: [one.session for one in list(self._sessions.values())], is_busy=lambda: self.encoder.is_busy
        ).start()
        self._stop = threading.Event()
        self._reaper = threading.Thread(target=self._work, name="videochat-online-idle", daemon=True)
        self._reaper.start()

    def create(self, settings: SessionSettings | None = None) -> LiveSession:
        """A new session under an id nobody can guess; LimitReached where there are too many."""
        key = secrets.token_urlsafe(18)
        folder = self.files.sessions / key
        with self._lock:
            if self._stop.is_set():
                raise LimitReached("the server is being stopped")
            if len(self._sessions) >= self.limits.max_sessions:
                raise LimitReached(
                    f"all {self.limits.max_sessions} places are taken; try again when somebody has left, "
                    f"at the latest when a session was idle for {self.limits.idle_seconds:g} s"
                )
            session = LiveSession(
                key, self.model, self.processor, settings or SessionSettings(),
                limits=self.limits, folder=folder, encoder=self.encoder,
            )  # fmt: skip
            folder.mkdir()
            self._sessions[key] = session
        return session

    def get(self, key: str) -> LiveSession:
        if (session := self._sessions.get(key)) is None:
            raise UnknownSession(f"there is no session {key!r:.60}; it may have ended after being idle")
        return session

    def named(self, name: str) -> LiveSession:
        """The session that clients call so; the first to name it begins it. Its id, as of every session, is secret."""
        if not NAME.fullmatch(name):
            raise RequestError(f"a session's name has 1 to 64 letters, digits or any of ._-, got {name!r:.80}", "name")
        with self._naming:
            session = self._sessions.get(self._names.get(name, ""))
            if session is None:
                session = self.create()
                self._names = {known: key for known, key in self._names.items() if key in self._sessions}
                self._names[name] = session.key
            return session

    def check_model(self, name: str) -> None:
        """RequestError for another model than the one that runs here."""
        if name != self.model_name:
            what = f"this server runs {self.model_name!r}, not {name!r:.80}"
            raise RequestError(what, "model", "model_not_found", status=404)

    def place_alone(self) -> threading.BoundedSemaphore:
        """A place, to be released, for a question without a session; LimitReached where all are taken."""
        if not self._alone.acquire(blocking=False):
            raise LimitReached(f"{self.limits.max_sessions} questions without a session are being answered; try again")
        return self._alone

    def end(self, key: str) -> None:
        """End a session and remove its files; UnknownSession where there is none."""
        session = self.get(key)
        self._sessions.pop(key, None)
        session.close()

    def __len__(self) -> int:
        return len(self._sessions)

    def end_if_there(self, key: str) -> None:
        """End a session that somebody else may be ending at the same moment. One that cannot end is logged, no more."""
        try:
            with contextlib.suppress(UnknownSession):
                self.end(key)
        except Exception:
            log.exception("a session could not be ended cleanly")

    def _work(self) -> None:
        """End what was idle for too long, again and again."""
        while not self._stop.wait(min(LOOK_SECONDS, self.limits.idle_seconds / 2)):
            before = time.monotonic() - self.limits.idle_seconds
            for session in list(self._sessions.values()):
                if session.last_used < before:
                    self.end_if_there(session.key)
            self.files.remove_broken_uploads(BROKEN_SECONDS)

    def close(self) -> None:
        self._stop.set()
        self._reaper.join()
        for key in list(self._sessions):
            self.end_if_there(key)
        with contextlib.suppress(Exception):  # what ended it early was logged then
            self._idle.close()
        self.encoder.close()
        self.files.remove()

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
