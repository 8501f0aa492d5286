"""Stand-in videos for real questions, and a fake model that answers from what it was shown."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from videochat_online.evaluation.benchmarks import OVBench, Settings
from videochat_online.evaluation.modes import Examiner, Outcomes, Responder
from videochat_online.evaluation.questions import VideoTask
from videochat_online.evaluation.videos import OpenVideo
from videochat_online.media.readers import open_video

SIZE = 32
FPS = 2.0


@pytest.fixture(scope="module")
def everything(shared: Path, annotations: Path) -> Path:
    return shared / "ovbench" if (shared / "ovbench").is_dir() else annotations


@pytest.fixture(scope="module")
def real(shared: Path) -> list[VideoTask]:
    return OVBench().load(shared / "ovbench")


def picture(number: int) -> np.ndarray:
    """uint8 (32, 32, 3); different for each of 4,096 numbers."""
    image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    for bit in range(12):
        row, column = divmod(bit, 4)
        image[10 * row : 10 * row + 10, 8 * column : 8 * column + 8] = 255 if number >> bit & 1 else 40
    return image


def write_video(path: Path, seconds: float, fps: float = FPS) -> None:
    """An mp4 whose frame n is `picture(n)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=int(fps))
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for number in range(round(seconds * fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())


def write_frames(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(folder / name)


@dataclass
class FakeConversation:
    """Remembers what it was shown; its answers depend on every frame and word before them."""

    shown: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    brightness: float = 0.0
    says_yes_at: float = float("inf")

    def see(self, frames: Sequence[np.ndarray], timestamps: Sequence[float]) -> None:
        assert len(frames) == len(timestamps) > 0
        self.shown += list(timestamps)
        self.batches.append(len(frames))
        self.brightness += sum(float(frame.mean()) for frame in frames)

    def ask(self, prompt: str, *, max_new_tokens: int, keep: bool) -> str:
        self.asked.append(prompt)
        if "yes or no" in prompt:
            return "Yes." if self.shown and self.shown[-1] >= self.says_yes_at else "No"
        reply = self._letters(prompt)
        if keep:
            self.turns.append(prompt + reply)
        return reply

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        self.asked.append(prompt)
        return [-float((self._number(prompt) * 31 + sum(option.encode())) % 97) for option in options]

    def _number(self, prompt: str) -> int:
        words = prompt + "".join(self.turns) + ",".join(f"{t:.3f}" for t in self.shown)
        return int(self.brightness) + sum(i * byte for i, byte in enumerate(words.encode(), 1))

    def _letters(self, prompt: str) -> str:
        number = self._number(prompt)
        return "I do not know." if number % 11 == 0 else f"({'ABCD'[number % 4]}) it is"


@dataclass
class FakeResponder:
    conversations: list[FakeConversation] = field(default_factory=list)
    system_prompts: list[str | None] = field(default_factory=list)
    says_yes_at: float = float("inf")

    def open(self, system_prompt: str | None) -> FakeConversation:
        self.system_prompts.append(system_prompt)
        self.conversations.append(FakeConversation(says_yes_at=self.says_yes_at))
        return self.conversations[-1]


def examined(
    mode: Any,
    task: VideoTask,
    video: OpenVideo | None,
    settings: Settings,
    responder: Responder,
    done: Collection[str] = (),
) -> Outcomes:
    return Examiner(responder, mode, settings).examine(task, video, done)


@pytest.fixture
def responder() -> FakeResponder:
    return FakeResponder()


@pytest.fixture(scope="session")
def annotations(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the flat layout: 60 real questions from all sources and of all 16 sub-tasks."""
    folder = tmp_path_factory.mktemp("annotations")
    excerpt = json.loads((golden / "ovbench_excerpt.json").read_text(encoding="utf-8"))
    for source, records in excerpt.items():
        (folder / f"{source}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tasks(annotations: Path) -> list[VideoTask]:
    return OVBench().load(annotations)


@pytest.fixture(scope="session")
def videos(tasks: list[VideoTask], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for each video of `tasks`, as long as its questions need, laid out as the hub's archives unpack."""
    root = tmp_path_factory.mktemp("videos")
    for task in tasks:
        write_stand_in(root, task)
    return root


def write_stand_in(root: Path, task: VideoTask) -> None:
    if task.questions[0].source == "TAO":
        write_tao_frames(root / task.names[1], task)
    elif task.segment_start:  # AVA: only the annotated part, a frame each second
        write_video(root / f"{task.names[0]}.mp4", task.end - task.segment_start + 2, fps=1)
    else:
        write_video(root / task.names[0], task.end + 2)


def write_tao_frames(folder: Path, task: VideoTask) -> None:
    """Frames numbered as the annotation's own frame names say, in steps of a few to keep them few."""
    assert task.anchor is not None and task.fps is not None
    name, seconds = task.anchor
    stem, suffix = name.rsplit(".", 1)
    digits = stem[len(stem.rstrip("0123456789")) :]
    before, after = round(seconds * task.fps), round((task.end - seconds + 1) * task.fps)
    head = stem[: len(stem) - len(digits)]
    numbers = range(int(digits) - before, int(digits) + after + 1)
    write_frames(folder, [f"{head}{number:0{len(digits)}d}.{suffix}" for number in numbers])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> OpenVideo:
    """20 s at 2 fps: frame n starts at n / 2 s."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, seconds=20)
    reader = open_video(path)
    return OpenVideo(reader, reader.timestamps)
