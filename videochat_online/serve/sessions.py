"""All sessions of one server: making them within limits, finding them, ending those that nobody uses any more.

What visitors send lies in one folder, and is gone when the server ends. A server holds a lock on its folder, and the
system frees the lock with the process, however that ends. So a folder whose lock is free was left by a server that was
killed, and the next server removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..streaming.encoding import SharedEncoder
from ..streaming.standing import THRESHOLD, Standing
from ..streaming.together import SharedDecoder
from ..streaming.watching import IdlePrefill
from .limits import LimitReached, Limits, Overloaded, RequestError, SessionSettings, UnknownSession
from .live_session import LiveSession
from .turns import CLIENT, LET_GO_PAUSES, Refusals, Turns
from .webhooks import Webhooks

if TYPE_CHECKING:
    from ..model.backbone import Backbone
    from ..processing import Processor
    from ..streaming.gate import Gate

PREFIX = "videochat-online-server-"
CANNOT_LOCK = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF)
"""Some network file systems: their folders go with the server, but not where it is killed."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOOK_SECONDS = 2.0
BROKEN_SECONDS = 300.0
"""An upload to the page that grows no more for so long has broken off."""
FETCHES = 8
log = logging.getLogger(__name__)


class Sessions:
    """One model, many sessions. A context manager: leaving it ends them all and removes their files."""

    def __init__(
        self, model: Backbone, processor: Processor, *, limits: Limits | None = None, model_name: str = "pocket",
        gate: Gate | None = None, webhooks: Webhooks | None = None,
    ) -> None:  # fmt: skip
        """`gate` decides when to speak unasked, `webhooks` are told; closed with the sessions."""
        self.model, self.processor, self.model_name = model, processor, model_name
        self.limits = limits or Limits()
        self.created = int(time.time())
        self._sessions: dict[str, LiveSession] = {}
        self._lock = threading.Lock()  # of the number of places
        self._names: dict[str, str] = {}  # of sessions that clients named -> their ids
        self._naming = threading.Lock()
        most, alone = self.limits.max_waiting, self.limits.max_sessions
        own = self.limits.max_questions
        self.turns = Turns(self.limits.answers_at_once, most_waiting=most, most_of_session=own, most_alone=alone)
        half = max(1, (os.cpu_count() or 2) // 2) + (FETCHES if self.limits.allow_urls else 0)
        self.reading = Turns(half, most_waiting=most, most_of_session=own, most_alone=most, ledger=self.turns.ledger)
        """Of requests with pictures: decoding takes half of the machine; pictures behind slow addresses wait beside."""
        self.refusals, self.let_go = Refusals(), Refusals(LET_GO_PAUSES)
        self.running: set[Any] = set()
        """Answers that are being made for clients of the API; see `RunningAnswer`."""
        self.sockets: set[Any] = set()
        """Realtime connections."""
        self.moments: set[Any] = set()
        """Refusals that wait to be told."""
        self.on_first_piece: Callable[[float], None] = lambda seconds: None
        """Called with the seconds from a question to the first piece of its answer."""
        self.on_readout: Callable[[int, float], None] = lambda number, seconds: None
        """Called with the number of instructions that were read out together, and the seconds that took."""
        self.on_moment: Callable[[], None] = lambda: None
        """Called for each event of a standing instruction."""
        self.scorer, self.threshold = gate, gate.threshold if gate else THRESHOLD
        self.webhooks = webhooks or Webhooks()
        self._num_dropped = 0  # frames of sessions that have ended
        self.files = ServerFolder()
        self.encoder, self.decoder = SharedEncoder(model, processor), SharedDecoder(model)
        self.encoder.before_batch = self.turns.stand_aside
        self._idle = IdlePrefill(
            lambda: [one.session for one in list(self._sessions.values())],
            is_busy=lambda: self.encoder.is_busy or self.turns.is_favouring,
        ).start()
        self._stop = threading.Event()
        self._reaper = threading.Thread(target=self._work, name="videochat-online-idle", daemon=True)
        self._reaper.start()

    def create(self, settings: SessionSettings | None = None) -> LiveSession:
        """A new session under an id nobody can guess; LimitReached where there are too many."""
        key = secrets.token_urlsafe(18)
        folder = self.files.sessions / key
        with self._lock:
            if self._stop.is_set() or self.turns.is_closed:
                raise Overloaded("the server is being stopped")
            ours, most = CLIENT.get(), self.limits.max_client_sessions
            if ours and most and sum(one.client == ours for one in self._sessions.values()) >= most:
                raise LimitReached(f"{most} sessions are all that one client may have here; end one of them")
            if len(self._sessions) >= self.limits.max_sessions:
                raise LimitReached(
                    f"all {self.limits.max_sessions} places are taken; try again when somebody has left, "
                    f"at the latest when a session was idle for {self.limits.idle_seconds:g} s"
                )
            session = LiveSession(
                key, self.model, self.processor, settings or SessionSettings(),
                limits=self.limits, folder=folder, encoder=self.encoder, decoder=self.decoder, prepare=self._prepare,
            )  # fmt: skip
            session.client = ours
            folder.mkdir()
            self._sessions[key] = session
        return session

    def _prepare(self, live: LiveSession) -> None:
        """Who decides when a session speaks unasked, and who hears of it."""

        def tell(standing: Standing) -> None:
            self.on_moment()
            self.webhooks.send(live.key, standing)

        live.session.scorer, live.session.watchlist.on_event = self.scorer, tell
        live.session.on_readout = lambda number, seconds: self.on_readout(number, seconds)

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

    def end(self, key: str) -> None:
        """End a session and remove its files; UnknownSession where there is none."""
        session = self.get(key)
        if self._sessions.pop(key, None) is not None:
            session.close()
            self._num_dropped += session.num_dropped

    def all(self) -> list[LiveSession]:
        """Those that are there now."""
        return list(self._sessions.values())

    @property
    def num_dropped(self) -> int:
        """Frames that came faster than they could be encoded, of all sessions so far."""
        return self._num_dropped + sum(session.num_dropped for session in self.all())

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
        self.decoder.close()
        self.webhooks.close()
        self.files.remove()

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# ---- the folder -----------------------------------------------------------------------------------------------------


class ServerFolder:
    """A new folder among the system's temporary files; what killed servers left there is removed first."""

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir()).resolve()
        remove_left(parent)
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))  # not taken for one that was left: no lock yet
        lock = _opened(made)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in CANNOT_LOCK:
                raise
        self.path = made.rename(parent / made.name[1:])
        self.sessions, self.uploads = self.path / "sessions", self.path / "uploads"
        self.sessions.mkdir()
        self.uploads.mkdir()
        self.remove = weakref.finalize(self, _remove, self.path, lock)
        """Removes it, once; at the interpreter's end at the latest."""

    def remove_broken_uploads(self, older_than: float) -> None:
        """Remove what came of uploads to the page that broke off, if nothing was written to it for so many seconds.

        It lies beside the folders of whole uploads, which gradio knows and removes itself.
        """
        before = time.time() - older_than
        for path in self.uploads.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was whole in this moment, and got its name
                if path.is_file() and path.stat().st_mtime < before:
                    path.unlink()


def remove_left(parent: Path) -> None:
    """Remove the folders of servers that are not running any more. Only our own user's are looked at."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            if path.lstat().st_uid != os.getuid():
                continue
            lock = _opened(path)
        except OSError:  # it went in the meantime, or is none of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its server is running
            os.close(lock)
            continue
        _remove(path, lock)
        log.warning("removed the visitors' files in %s: its server was killed", path)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _remove(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
