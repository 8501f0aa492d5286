"""Frames to feature maps, for one session or for many at once.

`FrameEncoder` is the plain way. `SharedEncoder` collects what several sessions bring at the same moment and sends it
through the model in one batch. Neither holds any state of a stream. `UnchangedFrames` does: frames that look like the
one before need not go through the encoder again, they take its features.

T frames of a batch, S the side of the transformed picture, C channels and (g, g) the grid of a map.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..media.transforms import Picture
    from ..model.videochat import VideoChatOnline
    from ..processing import Processor


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

    def on_device(self, pixels: torch.Tensor) -> torch.Tensor:
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
        return self.model.encode_frames(self.on_device(pixels))


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
            features = super().encode(torch.cat([self.on_device(pixels) for pixels, _ in waiting]))
            self.num_batches += 1
        except BaseException as error:  # each session gets it; the thread continues for the others
            for _, done in waiting:
                done.set_exception(error)
            return
        for part, (_, done) in zip(features.split([len(pixels) for pixels, _ in waiting]), waiting, strict=True):
            done.set_result(part)


class UnchangedFrames:
    """Compares each frame with the last one that was encoded. `threshold` None: every frame is encoded."""

    def __init__(self, threshold: float | None, std: Sequence[float]) -> None:
        """`threshold`: mean absolute difference over all pixels, of 255; `std` of the transform, to undo it."""
        if threshold is not None and not threshold > 0:
            raise ValueError(f"skip_below must be a difference of pixels above 0 (of 255), got {threshold!r}")
        self.threshold = threshold
        self._scale = 255 * torch.tensor(std).view(3, 1, 1)
        self.reset()

    def reset(self) -> None:
        self._pixels: torch.Tensor | None = None  # (3, S, S) of the last encoded frame
        self._features: torch.Tensor | None = None  # (1, C, g, g)

    def encode(self, pixels: torch.Tensor, encoder: FrameEncoder) -> tuple[torch.Tensor, int]:
        """Features (T, C, g, g) of pixels (T, 3, S, S), and how many frames were not encoded for them."""
        if self.threshold is None:
            return encoder.encode(pixels), 0
        pixels = encoder.on_device(pixels)
        changed, sources = self._changed(pixels)
        parts = [] if self._features is None else [self._features]
        parts += [encoder.encode(pixels[changed])] if changed else []
        return torch.cat(parts)[sources], len(pixels) - len(changed)

    def remember(self, pixels: torch.Tensor, features: torch.Tensor) -> None:
        """What the next batch is compared with; call it once the features have been taken in."""
        if self.threshold is None:
            return
        changed, _ = self._changed(pixels)
        if changed:
            self._pixels, self._features = pixels[changed[-1]].clone(), features[changed[-1] : changed[-1] + 1].clone()

    def _changed(self, pixels: torch.Tensor) -> tuple[list[int], list[int]]:
        """Frames to encode; and for each frame its place among [last encoded frame, if any] + those."""
        last, known, scale = self._pixels, int(self._pixels is not None), self._scale.to(pixels.device)
        changed: list[int] = []
        sources: list[int] = []
        for number, frame in enumerate(pixels):
            if last is None or float(((frame - last).abs() * scale).mean()) >= (self.threshold or 0.0):
                changed.append(number)
                last = frame
            sources.append(known + len(changed) - 1)
        return changed, sources
