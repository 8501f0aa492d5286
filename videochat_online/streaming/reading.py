"""One pass over a video that only reads instructions out: what the model thinks of each at every frame.

Nothing fires and nothing is said, so that thresholds can be tried, and gates trained, on what is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..files import whole
from ..media.find import VideoLibrary
from ..media.readers import VideoReader, open_video
from ..media.sampling import sample_pass
from ..model.backbone import Backbone
from .session import StreamingSession
from .standing import MOST_STANDING, Readout


class InstructionRow(Protocol):
    """What is to be told of a video, as `StreamingSession.watch_for` takes it."""

    @property
    def video(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def question(self) -> str | None: ...
    @property
    def expect(self) -> str: ...


Row = TypeVar("Row", bound=InstructionRow)


class Listener:
    """A scorer that keeps every readout and never says that the moment has come."""

    seconds = inf

    def __init__(self, layers: Sequence[int] = ()) -> None:
        self.layers = layers

    def __call__(self, now: Readout, earlier: Sequence[Readout]) -> float:
        return 0.0


def read_video(
    session: StreamingSession,
    video: VideoReader,
    instructions: Sequence[InstructionRow],
    *,
    fps: float,
    layers: Sequence[int],
) -> tuple[list[list[Readout]], list[float]]:
    """Readouts of each instruction at every frame, and how much each frame differs from the one before (of 255).

    More instructions than stand at a time are read in further passes. The session is reset before each.
    """
    indices = sample_pass(video.timestamps, fps, video_fps=video.fps)
    found: list[list[Readout]] = []
    changes: list[float] = []
    session.scorer = Listener(layers)
    for first in range(0, len(instructions), MOST_STANDING):
        session.reset()
        part = instructions[first : first + MOST_STANDING]
        standing = [session.watch_for(one.text, question=one.question, expect=one.expect) for one in part]
        before: np.ndarray | None = None
        changes = []
        for frame in video.read(indices):
            session.see(frame.image, frame.timestamp)
            now = np.asarray(frame.image, np.float32)
            changes.append(0.0 if before is None else float(np.abs(now - before).mean()))
            before = now
        found += [each.readouts for each in standing]
    return found, changes


@dataclass(frozen=True)
class VideoReadouts:
    """R instructions at T frames of one video; L layers of width D."""

    times: torch.Tensor
    """(T,) seconds."""
    yes: torch.Tensor
    """(R, T)"""
    hidden: torch.Tensor
    """(R, T, L, D) float16; L may be 0."""
    changes: torch.Tensor
    """(T,)"""

    def of(self, row: int) -> list[Readout]:
        """Of one instruction."""
        hidden = self.hidden[row].float()
        rows = zip(self.times.tolist(), self.yes[row].tolist(), strict=True)
        return [Readout(time, yes, hidden[n]) for n, (time, yes) in enumerate(rows)]


def weights_mark(model: Backbone) -> str:
    """Of the weights: whoever trains a model on gets another."""
    sums = [float(p.detach().double().abs().sum()) for part in model.parts.values() for p in part.parameters()]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]


def _stored(
    folder: Path,
    session: StreamingSession,
    path: Path,
    instructions: Sequence[InstructionRow],
    *,
    fps: float,
    layers: Sequence[int],
    weights: str,
) -> VideoReadouts:
    """`read_video` of a file; what was read before, of the same weights and settings, comes from `folder`."""
    asked = [{name: getattr(one, name) for name in ("text", "question", "expect")} for one in instructions]
    settings = asked, fps, list(layers), weights, session.memory.config.to_dict()
    about = json.dumps([path.name, path.stat().st_size, *settings])
    file = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.safetensors"
    if not file.is_file():
        with open_video(path) as video:
            found, changes = read_video(session, video, instructions, fps=fps, layers=layers)
        none = torch.zeros(0, 0)
        hidden = [torch.stack([none if one.hidden is None else one.hidden for one in row]) for row in found]
        tensors = {
            "times": torch.tensor([one.time for one in found[0]], dtype=torch.float64),
            "yes": torch.tensor([[one.yes for one in row] for row in found]),
            "hidden": torch.stack(hidden).half(),
            "changes": torch.tensor(changes),
        }
        folder.mkdir(parents=True, exist_ok=True)
        with whole(file, durable=False) as beside:
            save_file(tensors, beside)
    return VideoReadouts(**load_file(file))


def readouts_of(
    rows: Sequence[Row],
    library: VideoLibrary,
    session: StreamingSession,
    folder: Path,
    *,
    fps: float,
    layers: Sequence[int],
) -> list[tuple[list[Row], VideoReadouts]]:
    """Of all rows, those of a video together: one pass a video; what `folder` holds is not read again."""
    from tqdm import tqdm

    videos = [(name, list(group)) for name, group in groupby(rows, key=lambda row: row.video)]
    paths = {name: library.find([name]) for name, _ in videos}  # all of them, before hours of work
    weights, found = weights_mark(session.model), []
    for name, group in tqdm(videos, unit="video", desc="readouts", disable=None, leave=False):
        found.append((group, _stored(folder, session, paths[name], group, fps=fps, layers=layers, weights=weights)))
    return found
