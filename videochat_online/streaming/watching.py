"""Showing a session a source: a file as fast as it goes, or a stream in its own time while others ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice

import torch

from ..media.live import LiveStream
from ..media.readers import VideoReader
from ..media.source import Frame
from ..model.placement import MemoryEvents
from .session import StreamingSession
from .threads import read_ahead

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

    def batches() -> Iterator[tuple[torch.Tensor, list[float]]]:
        frames = video.read(indices)
        while batch := list(islice(frames, session.options.encode_batch_size)):
            yield session.encoder.prepare([frame.image for frame in batch]), [frame.timestamp for frame in batch]

    with closing(read_ahead(batches())) as ready:  # an error here ends the other thread before the video is closed
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

    def join(self, timeout: float | None = None) -> None:
        """Wait until the stream is over and everything that came was seen."""
        self._thread.join(timeout)

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
        first = self.stream.take()
        frames = [] if first is None else [first]
        while frames and self.stream.num_waiting and len(frames) < self.session.options.encode_batch_size:
            following = self.stream.take(timeout=0)
            frames += [following] if following is not None else []
        return frames
