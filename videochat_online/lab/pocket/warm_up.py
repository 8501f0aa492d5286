"""Stage 0 of the pocket model: its encoder learns, from ShapeWorld's dense labels, what is where in a frame.

    python -m videochat_online.lab.pocket.warm_up OUTPUT [--steps N] [--seed N]

Later stages freeze the encoder, as published, so this is where it must learn everything. Two read-outs teach it:
each patch gives its cell's shape, colour, action and the way to the thing's centre; and the pooled map, as coarse as
the memory's last level keeps it, gives for each of nine regions what is there. (A frame deep in the memory is one
token: what does not survive pooling is lost to it. That read-out is linear, so each position learns its own share;
behind a layer norm and an MLP nothing was learnt in 800 steps.) The read-outs are thrown away. Resumes where it was.

B frames of a batch, P patches (8x8), C channels after the pixel shuffle, R regions (3x3).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ...command_line import CommandParser
from ...files import locked, whole
from ...model.videochat import VideoChatOnline
from ...model.vision_encoder import pixel_shuffle
from ...processing import Processor
from ..shapeworld.crowd import sample_crowd
from ..shapeworld.labels import dense_labels, visible_things
from ..shapeworld.render import render_frames
from ..shapeworld.scenes import Scene
from ..shapeworld.simulate import sample_stream
from ..shapeworld.vocabulary import ACTION_NAMES, COLOUR_NAMES, SHAPE_NAMES, region_at
from .align import SCENES_PER_SEED, AlignSettings, align, check_seed, check_steps
from .build import HERE, pocket_config

FACTS = {"shape": len(SHAPE_NAMES) + 1, "colour": len(COLOUR_NAMES) + 1, "action": len(ACTION_NAMES) + 1}
"""What is read out of a patch or region and how many values it has, "nothing" included."""
NUM_REGIONS = 9
FRAMES_PER_SCENE = 16
SCENE_SECONDS = 30.0


@dataclass(frozen=True)
class WarmUpSettings:
    """All that decides the result, beside the code."""

    steps: int = 4500
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up_steps: int = 100
    bfloat16: bool = False
    """Matrix products in bfloat16: twice as fast on a CPU that has it, far slower on one that has not."""
    seed: int = 0
    levels: tuple[int, ...] = (1, 2, 2, 3, 3, 4)
    """Difficulties of the scenes, drawn evenly."""
    save_every: int = 250
    align: AlignSettings = field(default_factory=AlignSettings)
    """How the connector is taught afterwards to say it in words."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_steps(self.steps)


class LabelledFrames(IterableDataset):
    """Endless frames with labels; worker w of n takes each n-th scene, from scene `first` on."""

    def __init__(self, settings: WarmUpSettings, first: int, patch_grid: int, size: int) -> None:
        self.settings, self.first, self.patch_grid, self.size = settings, first, patch_grid, size

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        number = self.first + start
        while True:
            yield self.scene(number)
            number += step

    def scene(self, number: int) -> dict[str, np.ndarray]:
        """Frames (16, S, S, 3) of one stream, or where `number` is odd of four crowds, and labels, each (16, ...)."""
        rng = np.random.default_rng([self.settings.seed, number])
        level = int(rng.choice(self.settings.levels))
        if number % 2:
            parts = [self._labelled(sample_crowd(rng, level), rng, FRAMES_PER_SCENE // 4) for _ in range(4)]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scene = sample_stream(self.settings.seed * SCENES_PER_SEED + number, "train", level, SCENE_SECONDS)
        return self._labelled(scene, rng, FRAMES_PER_SCENE)

    def _labelled(self, scene: Scene, rng: np.random.Generator, num_frames: int) -> dict[str, np.ndarray]:
        times = np.sort(rng.random(num_frames)) * (scene.seconds - 0.1)
        labels = [dense_labels(scene, float(moment), self.patch_grid) for moment in times]
        regions = np.zeros((num_frames, NUM_REGIONS, len(FACTS)), np.int64)
        for k, moment in enumerate(times):
            for thing in visible_things(scene, moment):
                region = region_at(*thing.position(moment))
                regions[k, region] = 1 + thing.shape, 1 + thing.colour(moment), 1 + thing.at(moment).action
        return {
            "frames": render_frames(scene, times, self.size),
            "shape": np.stack([label.shape for label in labels]),
            "colour": np.stack([label.colour for label in labels]),
            "action": np.stack([label.action for label in labels]),
            "offsets": np.stack([label.offsets for label in labels]),
            "regions": regions,
        }


class ReadOuts(nn.Module):
    """What the encoder is asked during warm-up."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(FACTS.values()) + 2)
        self.pooled = nn.Linear(channels, NUM_REGIONS * sum(FACTS.values()))


def losses(
    model: VideoChatOnline, heads: ReadOuts, pixels: torch.Tensor, labels: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Cross entropies of patches and regions and the offsets' error, by name, and accuracies beside them."""
    hidden = model.vision_model(pixels)[:, 1:]  # (B, P, width)
    answers = heads.patch(hidden)
    logits = answers[..., :-2].split(list(FACTS.values()), dim=-1)
    found: dict[str, torch.Tensor] = {}
    occupied = labels["shape"].flatten() > 0
    weight = torch.where(occupied, 1.0, 0.2)
    for name, scores in zip(FACTS, logits, strict=True):
        each = F.cross_entropy(scores.flatten(0, 1), labels[name].flatten(), reduction="none")
        found[f"patch {name}"] = (each * weight).sum() / weight.sum()
    error = (answers[..., -2:].flatten(0, 1) - labels["offsets"].flatten(0, 2)).abs().sum(-1)
    found["patch offset"] = 5 * (error * occupied).sum() / occupied.sum().clamp(min=1)
    side = pixels.shape[-1] // model.config.vision_config.patch_size
    maps = pixel_shuffle(hidden.unflatten(1, (side, side)), model.config.downsample_ratio, model.config.ps_version)
    pooled = heads.pooled(maps.sum((1, 2))).view(len(pixels), NUM_REGIONS, -1).split(list(FACTS.values()), dim=-1)
    region_weight = torch.where(labels["regions"][..., 0] > 0, 1.0, 0.3).flatten()
    for k, (name, scores) in enumerate(zip(FACTS, pooled, strict=True)):
        truth = labels["regions"][..., k].flatten()
        each = F.cross_entropy(scores.flatten(0, 1), truth, reduction="none")
        found[f"pooled {name}"] = (each * region_weight).sum() / region_weight.sum()
        right = scores.flatten(0, 1).argmax(-1) == truth
        found[f"accuracy pooled {name}"] = right[region_weight == 1].float().mean().detach()
    return found


def warm_up(output: Path, settings: WarmUpSettings, *, num_workers: int = 1) -> Path:
    """Train the encoder and write the model folder OUTPUT/model; resumes from OUTPUT/state.pt where there is one.

    Raises ValueError where another process writes to OUTPUT, or began there with other settings.
    """
    with locked(output):
        return _warm_up(output, settings, num_workers)


def _warm_up(output: Path, settings: WarmUpSettings, num_workers: int) -> Path:
    """1. a model and read-outs, or those of the last save 2. frames from worker processes 3. steps 4. the connector"""
    torch.manual_seed(settings.seed)
    # Eager attention: over sequences this short, torch's fused kernel takes longer than all the rest together.
    model = VideoChatOnline._from_config(pocket_config(), attn_implementation="eager")
    processor = Processor.from_pretrained(HERE, model.config)
    heads = ReadOuts(model.config.vision_config.hidden_size, model.config.feature_size)
    trained = nn.ModuleList([model.vision_model.train(), heads])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = _State.load(output / "state.pt", settings, trained, optimizer)
    (output / "settings.json").write_text(json.dumps(asdict(settings), indent=1) + "\n")
    side = model.config.image_size // model.config.vision_config.patch_size
    frames = LabelledFrames(settings, state.next_scene, side, model.config.image_size)
    scenes = iter(
        DataLoader(frames, batch_size=None, num_workers=num_workers, prefetch_factor=8 if num_workers else None)
    )
    started = time.monotonic() - state.seconds
    with (output / "log.jsonl").open("a") as log:
        for step in range(state.step, settings.steps):
            pixels, labels = _batch(scenes, settings.batch_size, processor)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
                found = losses(model, heads, pixels, labels)
            loss = torch.stack([value for name, value in found.items() if not name.startswith("accuracy")]).sum()
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            state.step, state.seconds = step + 1, time.monotonic() - started
            state.next_scene += settings.batch_size // FRAMES_PER_SCENE
            if state.step % 25 == 0:
                row = {"step": state.step, "seconds": state.seconds, "loss": float(loss.detach())}
                log.write(
                    json.dumps(row | {name: round(float(value.detach()), 4) for name, value in found.items()}) + "\n"
                )
                log.flush()
            if state.step % settings.save_every == 0 or state.step == settings.steps:
                state.save(output / "state.pt", settings, trained, optimizer)
    align(model.eval(), processor, settings.align)
    model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")
    return output / "model"


def _batch(
    scenes: Iterator[dict[str, torch.Tensor]], batch_size: int, processor: Processor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pixels (B, 3, S, S) and labels (B, ...) of several scenes."""
    found = [next(scenes) for _ in range(batch_size // FRAMES_PER_SCENE)]
    labels = {name: torch.cat([scene[name] for scene in found]) for name in found[0] if name != "frames"}
    pixels = processor.frames([frame.numpy() for scene in found for frame in scene["frames"]])
    return pixels, labels


def _schedule(step: int, settings: WarmUpSettings) -> float:
    """Share of the learning rate: a linear start, then a cosine."""
    if step < settings.warm_up_steps:
        return (step + 1) / settings.warm_up_steps
    done = (step - settings.warm_up_steps) / max(1, settings.steps - settings.warm_up_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class _State:
    """Where training stands."""

    step: int = 0
    next_scene: int = 0
    seconds: float = 0.0

    def save(self, path: Path, settings: WarmUpSettings, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        about = {"settings": asdict(settings), "state": asdict(self)}
        with whole(path) as beside:
            torch.save({**about, "trained": trained.state_dict(), "optimizer": optimizer.state_dict()}, beside)

    @classmethod
    def load(cls, path: Path, settings: WarmUpSettings, trained: nn.Module, optimizer: torch.optim.Optimizer) -> _State:
        if not path.exists():
            return cls()
        saved = torch.load(path, weights_only=True)
        if saved["settings"] != asdict(settings):
            raise ValueError(f"{path} was made with {saved['settings']}, not {asdict(settings)}: use another folder")
        trained.load_state_dict(saved["trained"])
        optimizer.load_state_dict(saved["optimizer"])
        return cls(**saved["state"])


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def main() -> None:
    parser = CommandParser(description="Stage 0 of the pocket model: warm its encoder up on ShapeWorld.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=WarmUpSettings.steps)
    parser.add_argument("--seed", type=int, default=WarmUpSettings.seed)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw frames")
    options = parser.parse_args()
    align = AlignSettings(seed=options.seed)
    settings = WarmUpSettings(steps=options.steps, seed=options.seed, align=align, bfloat16=has_bfloat16())
    print(warm_up(options.output, settings, num_workers=options.workers))


if __name__ == "__main__":
    main()
