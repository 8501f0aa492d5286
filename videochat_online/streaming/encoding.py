"""Frames to feature maps, for one session or for many at once.

`FrameEncoder` is the plain way. `SharedEncoder` collects what several sessions bring at the same moment and sends it
through the model in one batch. Neither holds any state of a stream.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from ..media.transforms import Picture
    from ..model.videochat import VideoChatOnline
    from ..processing import Processor

Item = TypeVar("Item")


class FrameEncoder:
    """The model's encoder behind the processor's transform."""

    def __init__(self, model: VideoChatOnline, processor: Processor) -> None:
        self.model, self.processor = model, processor
        self._uploads = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def prepare(self, frames: Sequence[Picture]) -> torch.Tensor:
        """Frames -> pixels (T, 3, S, S). On a GPU they are on their way there, while it may be encoding others."""
        pixels = self.processor.frames(frames)
        if self._uploads is None:
            return pixels
        with torch.cuda.stream(self._uploads):
            return pixels.pin_memory().to(self.model.device, non_blocking=True)

    def arrived(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels on the model's device: what is computed from here on waits for them to be there."""
        if self._uploads is None:
            return pixels
        computing = torch.cuda.current_stream(self.model.device)
        computing.wait_stream(self._uploads)
        pixels = pixels.to(self.model.device)
        pixels.record_stream(computing)
        return pixels

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -> features (T, C, g, g) as the memory takes them, on the model's device."""
        return self.model.encode_frames(self.arrived(pixels))


class SharedEncoder(FrameEncoder):
    """One encoder for several sessions: what they bring goes through the model together.

    While one batch is encoded the next gathers; with `wait`, each also waits so many seconds for others to join it.
    Give it to each session as `encoder=`; close it, or use it as a context manager, when the last has ended.
    """

    def __init__(
        self, model: VideoChatOnline, processor: Processor, *, max_batch: int = 32, wait: float = 0.005
    ) -> None:
        super().__init__(model, processor)
        self.max_batch, self.wait = max_batch, wait
        self._queue: queue.Queue[tuple[torch.Tensor, Future[torch.Tensor]] | None] = queue.Queue()
        self.num_batches = 0
        """Times the model has run."""
        self._is_encoding = False
        self._door = threading.Lock()  # nothing may be queued behind the mark that ends the thread
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="videochat-online-encoder", daemon=True)
        self._thread.start()

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `FrameEncoder.encode`; waits until the batch it was put into is done."""
        done: Future[torch.Tensor] = Future()
        with self._door:
            if self._is_closed:
                raise ValueError("the shared encoder is closed")
            self._queue.put((pixels, done))
        return done.result()

    @property
    def is_busy(self) -> bool:
        """Whether frames wait or are being encoded."""
        return self._is_encoding or not self._queue.empty()

    def close(self) -> None:
        """End the thread; what waits is still encoded. May be called again."""
        with self._door:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> SharedEncoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _work(self) -> None:
        closing = False
        while not closing:
            first = self._queue.get()
            if first is None:
                return
            self._is_encoding = True
            waiting, size, until = [first], len(first[0]), time.monotonic() + self.wait
            while size < self.max_batch:
                try:
                    more = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if more is None:
                    closing = True
                    break
                waiting.append(more)
                size += len(more[0])
            self._encode_together(waiting)
            self._is_encoding = False

    def _encode_together(self, waiting: list[tuple[torch.Tensor, Future[torch.Tensor]]]) -> None:
        try:
            features = super().encode(torch.cat([self.arrived(pixels) for pixels, _ in waiting]))
            self.num_batches += 1
        except BaseException as error:  # each session learns of it; the thread goes on for the others
            for _, done in waiting:
                done.set_exception(error)
            return
        for part, (_, done) in zip(features.split([len(pixels) for pixels, _ in waiting]), waiting, strict=True):
            done.set_result(part)


def ahead(items: Iterable[Item], *, depth: int = 2) -> Generator[Item, None, None]:
    """The items, made up to `depth` ahead in a thread of their own, so that making and using them overlap.

    An error in making one comes out in its place. Leaving the iterator early ends the thread.
    """
    made: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    left = threading.Event()

    def put(entry: tuple[bool, Item | BaseException | None]) -> bool:
        while not left.is_set():
            try:
                made.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # handed to whoever iterates
            put((False, error))

    thread = threading.Thread(target=work, name="videochat-online-ahead", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = made.get()
            if is_item:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        left.set()
        thread.join()
