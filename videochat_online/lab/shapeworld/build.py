"""Writes a world to disk: videos, OVBench annotations, training annotations. Safe to interrupt and to repeat.

DIR/manifest.json                     what was asked for, and what came out
DIR/videos/*.mp4                      one file a scene
DIR/ovbench/ava.json coin.json tao.json (flat layout), ovbench.json (streaming layout)
DIR/train/*.json                      only for split "train": samples, and the lists of LISTS that name them
DIR/images/*.png DIR/pictures/*.png DIR/frames/*/*.jpg   frames of the image and tracking samples
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...files import LOCK_FILE, locked, whole, write_json
from . import samples
from .annotations import VideoQuestions, flat_files, streaming_item
from .clips import CLIPS, clips
from .labels import visible_things
from .questions.context import Decks
from .questions.engine import ask_questions, default_times
from .questions.types import SUB_TASKS
from .render import render_frames
from .scenes import Scene
from .simulate import LEVELS, SPLITS, checked_pace, sample_stream
from .video import write_mp4

VERSION = 4
SEEDS_PER_WORLD = 1_000_000
TRACK_FPS = 2
TRACK_EVERY = 5
"""Each n-th video gets a tracking sample; prime to 2, 3 and 4, lest it be always one length or level."""
IMAGES_PER_VIDEO = 2
DATA_ROOT = "${DATA_ROOT}"
OFFLINE = {"offline_events": 0.15, "offline_log": 1, "offline_video": 1, "offline_qa": 1, "offline_image": 0.3}
PICTURES = {"pictures": 0.1, "claims_one": 0.3, "claims": 0.3, "routines": 0.3, "steps": 0.3}
STAGE1 = {**OFFLINE, **dict.fromkeys(CLIPS, 0.25), **PICTURES}
ONLINE = {"dialogue": 1, "narration": 0.3, "grounding": 1, "tracking": 1}
"""Set of samples -> share of it that an epoch takes: the loss is a mean over tokens, and whole events in words would
drown the answers of a word."""


def skill(name: str, others: Iterable[str]) -> dict[str, float]:
    """A set nearly alone: what can be taught so; the little of the others is there lest they be forgotten."""
    return {**dict.fromkeys(others, 0.05), name: 1}


LISTS: dict[str, dict[str, float]] = {
    "stage1_pictures": dict.fromkeys(PICTURES, 1),
    "stage1": {**STAGE1, **dict.fromkeys(CLIPS, 0.05)},
    **{f"skill_{name}": skill(name, PICTURES) for name in ("claims_one", "claims", "routines")},
    **{f"skill_{name}": skill(name, STAGE1) for name in ("steps", *CLIPS)},
    "stage2": {**STAGE1, **ONLINE},
    "stage2_single": {**STAGE1, "single": 0.25},
    "stage2_offline": STAGE1,
}
"""What each list of data sets names, with its shares. stage2_single and stage2_offline are to compare with: dialogues
taken apart into their questions, or left out."""
ROUTINES_EVERY = 4
"""Each n-th picture comes with questions about the routines."""


class BuildError(ValueError):
    """The folder cannot become the world that was asked for."""


@dataclass(frozen=True)
class WorldConfig:
    """What to build; the same values always give the same world."""

    videos: int
    seed: int = 0
    split: str = "train"
    seconds: tuple[float, ...] = (30.0,)
    """Lengths the videos take in turn."""
    level: tuple[int, ...] = (2,)
    """Levels the videos take in turn, each with every length."""
    pace: float | None = None
    fps: int = 8
    size: int = 128
    questions: int = 16
    """OVBench questions a video."""
    pictures: int = 0
    """Single pictures for training, each of a scene of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", tuple(float(value) for value in self.seconds))
        object.__setattr__(self, "level", tuple(self.level))
        if not 1 <= self.videos <= SEEDS_PER_WORLD:
            raise ValueError(f"videos must be from 1 to {SEEDS_PER_WORLD}, got {self.videos}")
        if not 0 <= self.pictures <= SEEDS_PER_WORLD - self.videos:
            most = SEEDS_PER_WORLD - self.videos
            raise ValueError(f"pictures must be from 0 to {most} beside {self.videos} videos, got {self.pictures}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.split not in SPLITS[:3]:
            raise ValueError(f"unknown split {self.split!r}, expected one of {', '.join(SPLITS[:3])}")
        if not self.seconds or min(self.seconds) < 10:
            raise ValueError(f"a world's videos last 10 seconds or more, got {self.seconds}")
        if not self.level or any(level not in LEVELS for level in self.level):
            raise ValueError(f"unknown level in {self.level}, expected some of {', '.join(map(str, LEVELS))}")
        if self.pace is not None:
            checked_pace(self.pace)
        if self.questions < 0:
            raise ValueError(f"questions must not be negative, got {self.questions}")
        if self.fps < 1 or self.size < 32 or self.size % 2:
            raise ValueError(f"need fps >= 1 and an even size >= 32, got fps {self.fps} and size {self.size}")

    def scene(self, number: int) -> Scene:
        """Scene of video `number`; worlds of different seeds share none."""
        seconds = self.seconds[number % len(self.seconds)]
        level = self.level[number // len(self.seconds) % len(self.level)]
        seed = self.seed * SEEDS_PER_WORLD + number
        return sample_stream(seed, self.split, level, seconds, pace=self.pace)

    def scenes(self) -> Iterator[tuple[Scene, str]]:
        """Every scene with the name of its video."""
        for number in range(self.videos):
            scene = self.scene(number)
            yield scene, f"{scene.key}.mp4"

    def rng(self, purpose: str, number: int = 0) -> np.random.Generator:
        """Chance for one purpose and video, independent of all others."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), number, *purpose.encode()])


def build_world(
    folder: str | Path, config: WorldConfig, *, samples: bool = True, progress: bool = True
) -> dict[str, Any]:
    """Build, as the only process in the folder; returns the manifest. Raises ValueError where another one is at it.

    A world that is complete and has all its videos is left as it is, but for its lists. `samples`: with those to train
    a model on, where its split has any.
    """
    with locked(Path(folder)):
        return _build(Path(folder), config, samples and config.split == "train", progress)


def _build(folder: Path, config: WorldConfig, trains: bool, progress: bool) -> dict[str, Any]:
    """1. Claim the folder. 2. Render missing videos. 3. Ask. 4. Training samples. 5. The manifest."""
    found = _claim(folder, config)
    is_whole = found.get("complete") and (found["samples"] or not trains)
    if is_whole and len(list((folder / "videos").glob("*.mp4"))) == config.videos:
        _write_lists(folder, found["samples"])
        return found
    for scene, video in _bar(config, "videos", progress):
        path = folder / "videos" / video
        if not path.exists():
            write_mp4(path, scene, fps=config.fps, size=config.size)
    asked = _ask(config, progress)
    _write_ovbench(folder, config, asked)
    counts = _write_training(folder, config, progress) if trains else {}
    _write_lists(folder, counts)
    manifest = {
        **_recipe(config),
        "complete": True,
        "questions": dict(Counter(question.sub_task for _, _, questions in asked for question in questions)),
        "samples": counts,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _recipe(config: WorldConfig) -> dict[str, Any]:
    return {"generator": "shapeworld", "version": VERSION, "config": json.loads(json.dumps(asdict(config)))}


def _name(recipe: dict[str, Any]) -> str:
    return f"version {recipe.get('version')} of {recipe.get('config')}"


def _claim(folder: Path, config: WorldConfig) -> dict[str, Any]:
    """Make the folder, or make sure that it holds this very world; its manifest so far."""
    path = folder / "manifest.json"
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise BuildError(f"{path} is not a world's manifest: {error}") from error
        if {key: found.get(key) for key in _recipe(config)} != _recipe(config):
            raise BuildError(f"{folder} holds another world: {_name(found)}; asked for {_name(_recipe(config))}")
        return found
    if any(path.name != LOCK_FILE for path in folder.iterdir()):
        raise BuildError(f"{folder} is not empty and holds no world; expected a new or empty folder")
    for name in ("videos", "ovbench"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    manifest = {**_recipe(config), "complete": False}
    write_json(path, manifest)
    return manifest


def _ask(config: WorldConfig, progress: bool) -> list[VideoQuestions]:
    """The OVBench questions of all videos, with answers and letters even over the whole world."""
    decks = Decks(config.rng("decks"))
    asked: list[VideoQuestions] = []
    for number, (scene, video) in enumerate(_bar(config, "questions", progress)):
        times = [time for time in default_times(scene) if time >= min(10.0, scene.seconds / 3)]
        rng = config.rng("questions", number)
        asked.append((scene, video, ask_questions(scene, SUB_TASKS, config.questions, rng, times, decks=decks)))
    return asked


def _write_ovbench(folder: Path, config: WorldConfig, asked: list[VideoQuestions]) -> None:
    for source, items in flat_files(asked).items():
        write_json(folder / "ovbench" / f"{source}.json", items)
    write_json(folder / "ovbench" / "ovbench.json", [streaming_item(*row, config.fps) for row in asked])


def _write_training(folder: Path, config: WorldConfig, progress: bool) -> dict[str, int]:
    """All training samples; returns how many each file holds."""
    files: dict[str, list[samples.Sample]] = {name: [] for name in (*OFFLINE, *CLIPS, *ONLINE, "single", *PICTURES)}
    decks = Decks(config.rng("training decks"))
    for number, (scene, name) in enumerate(_bar(config, "samples", progress)):
        rng, video = config.rng("training", number), f"videos/{name}"
        files["offline_events"].append(samples.offline_events(scene, video))
        files["offline_log"] += samples.offline_log(scene, video, rng)
        files["offline_video"] += samples.offline_video(scene, video, rng, decks)
        files["offline_qa"] += samples.offline_qa(scene, video, rng, decks)
        for kind in CLIPS:
            files[kind] += clips(scene, video, kind, rng, decks)
        files["offline_image"] += _images(folder, config, scene, rng, decks)
        dialogue = samples.online_dialogue(scene, video, rng, decks)
        files["dialogue"].append(dialogue)
        files["single"] += samples.single_questions(dialogue)
        files["narration"].append(samples.online_narration(scene, video, rng))
        grounding = samples.online_grounding(scene, video, rng)
        files["grounding"] += [grounding] if grounding else []
        files["tracking"] += _track(folder, config, scene) if number % TRACK_EVERY == 0 else []
    files |= _pictures(folder, config, progress)
    for name, rows in files.items():
        write_json(folder / "train" / f"{name}.json", rows)
    return {name: len(rows) for name, rows in files.items()}


def _write_lists(folder: Path, counts: dict[str, int]) -> None:
    """Those of LISTS as in anno_data/, each with its sets that have samples; DATA_ROOT is the world's folder."""
    for list_name, shares in LISTS.items() if counts else ():
        data_sets = {
            f"shapeworld_{name}": {
                "annotation": f"{DATA_ROOT}/train/{name}.json",
                "data_root": DATA_ROOT,
                "data_augment": False,
                "repeat_time": share,
            }
            for name, share in shares.items()
            if counts[name]
        }
        write_json(folder / "train" / f"{list_name}.json", data_sets)


def _images(
    folder: Path, config: WorldConfig, scene: Scene, rng: np.random.Generator, decks: Decks
) -> list[samples.Sample]:
    rows = []
    for time in rng.permutation(default_times(scene))[:IMAGES_PER_VIDEO].tolist():
        name = f"images/{scene.key}-{time:g}.png"
        _save_frame(folder / name, scene, time, config.size)
        rows.append(samples.offline_image(scene, name, time, rng, decks))
    return rows


def _pictures(folder: Path, config: WorldConfig, progress: bool) -> dict[str, list[samples.Sample]]:
    """The sets of PICTURES: questions and claims about one frame each of scenes that have no video, and routines."""
    from tqdm import tqdm

    decks = Decks(config.rng("picture decks"))
    rows: dict[str, list[samples.Sample]] = {name: [] for name in PICTURES}
    numbers = range(config.videos, config.videos + config.pictures)
    for number in tqdm(numbers, desc="pictures", disable=not progress):
        scene, rng = config.scene(number), config.rng("pictures", number)
        time = float(rng.choice(default_times(scene)))
        name = f"pictures/{scene.key}-{time:g}.png"
        _save_frame(folder / name, scene, time, config.size)
        picture = samples.offline_image(scene, name, time, rng, decks, choices=samples.PICTURE_CHOICES)
        order = picture_order(config, number)
        rows["pictures"].append(picture)
        rows["steps"] += samples.offline_steps(scene, name, time, rng, decks, order=order)
        claims = samples.offline_claims(scene, name, time, rng, decks, order=order)
        rows["claims_one" if len(visible_things(scene, time)) == 1 else "claims"] += claims
        rows["routines"] += [samples.routines(scene, rng, decks)] if number % ROUTINES_EVERY == 0 else []
    return rows


def picture_order(config: WorldConfig, number: int) -> str:
    """Which of ORDERS the claims of a picture come in: each in turn for every length and level."""
    return samples.ORDERS[number // (len(config.seconds) * len(config.level)) % len(samples.ORDERS)]


def _track(folder: Path, config: WorldConfig, scene: Scene) -> list[samples.Sample]:
    found = samples.longest_view(scene)
    if found is None:
        return []
    thing, begin, end = found
    times = np.arange(begin, end, 1 / TRACK_FPS).tolist()
    name = f"frames/{scene.key}"
    for number, time in enumerate(times):
        _save_frame(folder / name / f"{number + 1:06d}.jpg", scene, time, config.size)
    return [samples.tracking(scene, name, thing, times, TRACK_FPS)]


def _save_frame(path: Path, scene: Scene, time: float, size: int) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path, durable=False) as beside:
            image = Image.fromarray(render_frames(scene, [time], size)[0])
            image.save(beside, format="PNG" if path.suffix == ".png" else "JPEG", quality=95)


def _bar(config: WorldConfig, what: str, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(config.scenes(), desc=what, total=config.videos, disable=not progress)
