"""Frames of one video made ready before they are shown: decoded in one thread, encoded in another.

While a question is answered, the frames of the next ones are on their way. Batches follow from what is shown alone,
never from which questions are still open, so that a run that was cut off gives the very same answers. Knows no model:
whoever asks gives what makes a batch ready.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from ..media.readers import MediaError, VideoReader
from ..streaming.threads import Pieces

BATCH = 16
"""Frames read and encoded together at most."""
AHEAD = 8
"""Encoded batches that wait to be shown, at most: some seconds of video, which are encoded while an answer is made."""

Batch = tuple[int, Sequence[Any] | MediaError]
"""Of which showing, and frames as `ready` gives them; the error where the rest of that showing cannot be read."""
Emit = Callable[[Batch], None]


class FramesAhead:
    """Makes the frames of several showings ready, in their order, from now on. Close it before the reader."""

    def __init__(
        self,
        reader: VideoReader,
        showings: Sequence[Sequence[int]],
        ready: Callable[[Sequence[np.ndarray]], Sequence[Any]] | None = None,
    ) -> None:
        """`showings`: frame numbers of each, ascending. `ready`: what is shown of uint8 (H, W, 3); None: themselves."""
        self._reader, self._showings, self._ready = reader, showings, ready
        self._showing = 0
        self._rest: Batch | None = None
        self._batches = Pieces(self._read, depth=1) if ready is None else Pieces(self._make_ready, depth=AHEAD)

    def take(self, showing: int, num: int) -> Iterator[Sequence[Any]]:
        """The next `num` frames of a showing, in pieces; showings before it are left. Raises MediaError."""
        self._showing = showing
        while num > 0:
            number, piece = self._rest or next(self._batches)
            self._rest = None
            if number < showing:
                continue
            if isinstance(piece, MediaError):
                raise piece
            if len(piece) > num:
                self._rest = number, piece[num:]
            yield piece[:num]
            num -= len(piece)

    def close(self) -> None:
        self._batches.close()

    def _read(self, emit: Emit, stop: threading.Event) -> None:
        for number, indices in enumerate(self._showings):
            batch: list[np.ndarray] = []
            error: MediaError | None = None
            try:
                for frame in self._reader.read(indices):
                    if stop.is_set() or number < self._showing:  # nobody waits for these any more
                        batch = []
                        break
                    batch.append(frame.image)
                    if len(batch) == BATCH:
                        emit((number, batch))
                        batch = []
            except MediaError as found:
                error = found
            if batch:
                emit((number, batch))
            if error:
                emit((number, error))

    def _make_ready(self, emit: Emit, stop: threading.Event) -> None:
        assert self._ready is not None
        with closing(Pieces(self._read, depth=1)) as batches:
            for number, batch in batches:
                if stop.is_set():
                    return
                if number >= self._showing:
                    emit((number, batch if isinstance(batch, MediaError) else self._ready(batch)))
