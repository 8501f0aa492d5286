"""Feeding a session from a source: as fast as it goes, or in real time while somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

import torch

from ..media.readers import VideoReader
from .encoding import ahead
from .session import StreamingSession


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

    def batches() -> Iterator[tuple[torch.Tensor, list[float]]]:
        frames = video.read(indices)
        while batch := list(islice(frames, session.encode_batch_size)):
            yield session.encoder.prepare([frame.image for frame in batch]), [frame.timestamp for frame in batch]

    with closing(ahead(batches())) as ready:  # an error here ends the other thread before the video is closed
        for pixels, timestamps in ready:
            session.see_prepared(pixels, timestamps)
            if on_progress:
                on_progress(len(timestamps))


def watch_in_real_time(
    session: StreamingSession,
    video: VideoReader,
    indices: Iterable[int],
    *,
    speed: float = 1.0,
    stop: threading.Event | None = None,
) -> None:
    """Show each frame when its time has come; `speed` 2 plays twice as fast. Ends early when `stop` is set.

    Where encoding does not keep up, frames are shown late, none is left out.
    """
    if speed <= 0:
        raise ValueError(f"speed must be > 0, got {speed}")
    stop = stop or threading.Event()
    started: float | None = None
    for frame in video.read(indices):
        if started is None:
            started = time.monotonic() - frame.timestamp / speed
        if stop.wait(max(0.0, started + frame.timestamp / speed - time.monotonic())):
            return
        session.see(frame.image, frame.timestamp)


class IdlePrefill:
    """Keeps a live session's cache at the newest frame, in a thread of its own, while the `with` block runs.

    A question steps in at once; an error in the thread is raised when the block is left.
    """

    def __init__(self, session: StreamingSession, *, interval: float = 0.02) -> None:
        """`interval`: seconds between two looks at the session."""
        self.session, self.interval = session, interval
        self._stop = threading.Event()
        self._ready_for = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="videochat-online-prefill", daemon=True)

    def __enter__(self) -> IdlePrefill:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until the cache stands at the newest frame; False after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while self._ready_for < self.session.memory.num_written and self._error is None:
            if until is not None and time.monotonic() > until:
                return False
            time.sleep(self.interval)
        return self._error is None

    def _work(self) -> None:
        try:
            while not self._stop.wait(self.interval):
                seen = self.session.memory.num_written
                if seen > self._ready_for and self.session.prefill() is not None:
                    self._ready_for = seen
        except BaseException as error:  # raised by __exit__
            self._error = error
