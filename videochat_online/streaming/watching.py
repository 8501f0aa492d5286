"""Work beside questions: a session is shown a file or a live stream, and its cache is kept up to date.

A file is shown as fast as it goes; a live stream in its own time, in a thread, while others ask.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import islice

import torch

from ..media.live import LiveStream
from ..media.readers import VideoReader
from ..media.source import Frame
from ..model.placement import MemoryEvents
from .session import StreamingSession
from .threads import stream_pieces

log = logging.getLogger(__name__)

CLOSE_SECONDS = 0.4
OnSeen = Callable[[list[Frame], MemoryEvents], None]


def watch(
    session: StreamingSession,
    video: VideoReader,
    indices: Sequence[int],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Show the session the frames of `indices` as fast as it goes, in batches of its encoder.

    The next batches are decoded and transformed in another thread while one is encoded.

    Args:
        on_progress: called with the number of frames after each batch.
    """

    def prepare(emit: Callable[[tuple[torch.Tensor, list[float]]], None], stop: threading.Event) -> None:
        frames = video.read(indices)
        while not stop.is_set() and (batch := list(islice(frames, session.encode_batch_size))):
            emit((session.prepare([f.image for f in batch]), [f.timestamp for f in batch]))

    # an error here ends the other thread before the video is closed
    with closing(stream_pieces(prepare, depth=2)) as ready:
        for pixels, timestamps in ready:
            session.see_prepared(pixels, timestamps)
            if on_progress:
                on_progress(len(timestamps))


class LiveWatcher:
    """Shows a session the frames of a live stream as they come, in a thread of its own, while others ask it.

    Where encoding lags, frames that wait go through the encoder together; what the stream's queue drops stays unseen.
    `on_seen` is called in that thread with each batch of frames and what writing them changed in the memory.
    """

    def __init__(self, session: StreamingSession, stream: LiveStream, *, on_seen: OnSeen | None = None) -> None:
        self.session, self.stream, self.on_seen = session, stream, on_seen
        self.error: Exception | None = None
        """Why watching ended, where the stream did not end by itself."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="videochat-online-watch", daemon=True)

    def start(self) -> LiveWatcher:
        self.stream.start()
        self._thread.start()
        return self

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def lag(self) -> float:
        """Seconds by which the newest frame seen is older than the newest one that came, beyond one period."""
        newest, seen = self.stream.latest, self.session.stats()["last_timestamp"]
        if newest is None or seen is None:
            return 0.0
        period = 0.0 if self.stream.fps is None else 1 / self.stream.fps
        return max(0.0, newest.timestamp - seen - period)

    def close(self) -> None:
        """Stop stream and watching, without waiting long for either: a batch that is being encoded ends by itself.

        May be called again; never raises.
        """
        self._stop.set()
        self.stream.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def __enter__(self) -> LiveWatcher:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        try:
            while not self._stop.is_set() and (frames := self._batch()):
                events = self.session.see_many([f.image for f in frames], [f.timestamp for f in frames])
                if self.on_seen:
                    self.on_seen(frames, events)
        except Exception as error:  # kept for the owner of the session: the end of one stream is not the program's
            self.error = error
            self.stream.source.problem = str(error)
            self.stream.source.stop()

    def _batch(self) -> list[Frame]:
        """The frames that wait now, at least one; empty when the stream is over."""
        frames = [self.stream.take()]
        while frames[-1] and self.stream.num_waiting and len(frames) < self.session.encode_batch_size:
            frames.append(self.stream.take(timeout=0))
        return [frame for frame in frames if frame is not None]


class IdlePrefill:
    """Brings the caches of live sessions up to their newest frame while nobody asks, in one thread for all of them, and
    reads their standing instructions out there.

    A question to any of them goes first, and so does whatever else the caller names. Runs while the `with` block does;
    an error in the thread is raised when the block is left.
    """

    def __init__(
        self,
        sessions: Callable[[], Iterable[StreamingSession]],
        *,
        interval: float = 0.02,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            sessions: gives those to look after; called again and again, from the thread.
            interval: seconds between two looks at them.
            is_busy: whether the machine has other work now.
        """
        self.sessions, self.interval, self.is_busy = sessions, interval, is_busy
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="videochat-online-prefill", daemon=True)

    def start(self) -> IdlePrefill:
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread, and raise what went wrong in it. May be called again."""
        self._stop.set()
        self._thread.join()
        for session in self.sessions():
            session.is_tended = False
        if self._error is not None:
            raise self._error

    def __enter__(self) -> IdlePrefill:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _has_to_wait(self) -> bool:
        return self._stop.is_set() or self.is_busy() or any(session.is_asked for session in self.sessions())

    def _work(self) -> None:
        try:
            while not self._stop.wait(self.interval):
                for session in self.sessions():
                    session.is_tended = True
                    if session.needs_prefill and not self._has_to_wait():
                        session.prefill(give_way=self._has_to_wait)
                    if session.needs_reading and not self._has_to_wait():
                        session.read_standing(give_way=self._has_to_wait)
        except BaseException as error:  # raised by close(), which may come much later
            log.exception("prefill in idle time has ended: questions will be slower")
            self._error = error
