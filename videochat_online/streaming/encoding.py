"""Frames to feature maps, for one session or for many at once.

`FrameEncoder` is the plain way. `SharedEncoder` collects what several sessions bring at the same moment and sends it
through the model in one batch. `encode_changed` leaves out frames that look like the one before. None of them holds
any state of a stream.

T frames of a batch, (H, W) the size of the transformed picture, C channels and (h, w) the grid of a map.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from ..config import Grid
    from ..media.transforms import Picture, Size
    from ..model.backbone import Backbone
    from ..processing import Processor

Encodings = Mapping[int, Callable[[torch.Tensor], torch.Tensor]]
"""By level of the memory, what makes its maps of pixels; where one map serves all levels, by a number of its own."""


CPU_BATCH = 4
"""Frames at once on a CPU, where more are no faster: between two batches a question may go first."""


class FrameEncoder:
    """The model's encoder behind the processor's transform."""

    def __init__(self, model: Backbone, processor: Processor) -> None:
        self.model, self.processor = model, processor
        self._uploads = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def prepare(self, frames: Sequence[Picture], size: Size | None = None) -> torch.Tensor:
        """Frames -> pixels (T, 3, H, W). On a GPU they are on their way there, while it may be encoding others."""
        pixels = self.processor.frames(frames, size)
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
        """Pixels -> features (T, C, h, w) as the memory takes them, on the model's device."""
        return self.model.encode_frames(self.on_device(pixels))


class SharedEncoder(FrameEncoder):
    """One encoder for several sessions: what they bring goes through the model together.

    While one batch is encoded the next gathers; with `wait`, each also waits so many seconds for others to join it.
    Give it to each session as `encoder=`; close it, or use it as a context manager, when the last has ended.
    """

    def __init__(self, model: Backbone, processor: Processor, *, max_batch: int = 32, wait: float = 0.005) -> None:
        super().__init__(model, processor)
        self.max_batch, self.wait = max_batch, wait
        self._queue: queue.Queue[tuple[torch.Tensor, Future[torch.Tensor]] | None] = queue.Queue()
        self.num_batches = 0
        """Times the model has run."""
        self.on_batch: Callable[[int, float], None] | None = None
        """Called after each of these with its frames and seconds, in the encoder's thread."""
        self.before_batch: Callable[[], None] = lambda: None
        """Called there before each: whoever goes first may make it wait."""
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
        while (first := self._queue.get()) is not None:
            self._is_encoding = True
            waiting, size, until = [first], len(first[0]), time.monotonic() + self.wait
            while size < self.max_batch:
                try:
                    more = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if more is None:
                    self._queue.put(None)  # the thread ends behind this batch
                    break
                waiting.append(more)
                size += len(more[0])
            for shape in dict.fromkeys(pixels.shape[1:] for pixels, _ in waiting):  # streams may differ in theirs
                self._encode_together([one for one in waiting if one[0].shape[1:] == shape])
            self._is_encoding = False

    def _encode_together(self, waiting: list[tuple[torch.Tensor, Future[torch.Tensor]]]) -> None:
        try:
            pixels = torch.cat([self.on_device(pixels) for pixels, _ in waiting])
            parts = []
            for part in pixels.split(CPU_BATCH if pixels.device.type == "cpu" else len(pixels)):
                self.before_batch()
                started = time.monotonic()  # behind the wait for others, which is no encoding
                parts.append(super().encode(part))
                self.num_batches += 1
                if self.on_batch is not None:
                    self.on_batch(len(part), time.monotonic() - started)
            features = parts[0] if len(parts) == 1 else torch.cat(parts)
        except BaseException as error:  # each session gets it; the thread continues for the others
            for _, done in waiting:
                done.set_exception(error)
            return
        for part, (_, done) in zip(features.split([len(pixels) for pixels, _ in waiting]), waiting, strict=True):
            done.set_result(part)


def encode_wanted(
    pixels: torch.Tensor, encodings: Encodings, wanted: Mapping[int, list[int]], grids: Sequence[Grid]
) -> dict[int, torch.Tensor]:
    """Level -> maps (n, C, h, w) of those of the pixels (T, 3, H, W) that it wants; `grids`: (h, w) of the levels."""
    coarsest = max(encodings)  # which wants all
    features = {coarsest: encodings[coarsest](pixels)}
    for level, places in wanted.items():
        if level != coarsest:
            none = features[coarsest].new_empty(0, features[coarsest].shape[1], *grids[level])
            features[level] = encodings[level](pixels[places]) if places else none
    return features


class EncodedFrame(NamedTuple):
    """The last frame that went through the encoder."""

    pixels: torch.Tensor
    """(3, H, W)"""
    features: dict[int, torch.Tensor]
    """(1, C, h, w) of each encoding."""


def encode_changed(
    pixels: torch.Tensor,
    last: EncodedFrame | None,
    encodings: Encodings,
    *,
    threshold: float,
    std: Sequence[float],
) -> tuple[dict[int, torch.Tensor], EncodedFrame | None, int]:
    """Features (T, C, h, w) of pixels (T, 3, H, W), on the model's device, by each encoding; frames that hardly differ
    from the last encoded one take its.

    Gives also the frame to compare the next batch with, and how many frames were not encoded.

    Args:
        last: what the call before gave.
        threshold: mean absolute difference over all pixels, of 255, from which on a frame is encoded.
        std: of the transform, to undo it.
    """
    scale = 255 * torch.tensor(std, device=pixels.device).view(3, 1, 1)
    # 1. which frames to encode; and for each frame its place among [last encoded frame, if any] + those
    newest = None if last is None else last.pixels
    parts = {k: [] if last is None else [last.features[k]] for k in encodings}
    changed: list[int] = []
    sources: list[int] = []
    for number, frame in enumerate(pixels):
        if newest is None or float(((frame - newest).abs() * scale).mean()) >= threshold:
            changed.append(number)
            newest = frame
        sources.append((last is not None) + len(changed) - 1)
    # 2. encode them, and give the others theirs
    if changed:
        for k, encode in encodings.items():
            parts[k].append(encode(pixels[changed]))
    features = {k: torch.cat(of_one)[sources] for k, of_one in parts.items()}
    if changed:
        newest_maps = {k: maps[changed[-1] : changed[-1] + 1].clone() for k, maps in features.items()}
        last = EncodedFrame(pixels[changed[-1]].clone(), newest_maps)
    return features, last, len(pixels) - len(changed)
