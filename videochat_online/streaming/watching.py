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
