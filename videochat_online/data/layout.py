"""A sample and its pictures' sizes -> the dialogue as the prompt has it, and the grid each picture is pooled to.

Placeholders become images. Frames of a video enter the pyramid on its schedule, exactly as in a stream; still images
keep the full grid, and the tiles of one image stand in one run. Knows no pixels and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import MemoryConfig, scheduled_grids, tokens_of_grid
from ..prompt.messages import Image, Message, frame_line, frame_parts
from .footage import Showing
from .sample import IMAGE_MARK, VIDEO_MARK, Sample, SampleError

Part = str | Image


@dataclass(frozen=True)
class Layout:
    """What is said, and the pictures that belong to it, in order."""

    messages: list[Message]
    grids: list[int]
    """Side of the map that each picture is pooled to."""
    captions: list[str]
    """Of each picture, for people."""

    def __post_init__(self) -> None:
        images = [part for message in self.messages for part in message.parts if isinstance(part, Image)]
        num_tokens = sum(image.num_tokens for image in images)
        assert num_tokens == sum(map(tokens_of_grid, self.grids)), f"{num_tokens} places, grids {self.grids}"


def lay_out_images(sample: Sample, num_tiles: Sequence[int], grid: int) -> Layout:
    """Still images, `num_tiles` of each, every tile a full `grid` map; or a dialogue without any."""
    tokens = [count * tokens_of_grid(grid) for count in num_tiles]
    captions = [
        f"image {number}" + (f" tile {tile + 1}/{count}" if count > 1 else "")
        for number, count in enumerate(num_tiles, start=1)
        for tile in range(count)
    ]
    return Layout(image_messages(sample, tokens), [grid] * sum(num_tiles), captions)


def image_messages(sample: Sample, num_tokens: Sequence[int]) -> list[Message]:
    """The dialogue with each <image> in its place. Without any placeholder the images stand before the first question.

    SampleError where placeholders and images differ in number.
    """
    questions = [turn.question for turn in sample.turns]
    num_marks = sum(question.count(IMAGE_MARK) for question in questions)
    if num_marks == 0:
        questions[0] = (IMAGE_MARK + "\n") * len(num_tokens) + questions[0]
    elif num_marks != len(num_tokens):
        raise SampleError(f"{num_marks} {IMAGE_MARK} placeholders for {len(num_tokens)} images; expected one for each")
    images = map(Image, num_tokens)
    answers = [turn.answer for turn in sample.turns]
    return _messages(sample.system, [(answer, _fill(q, images)) for answer, q in zip(answers, questions, strict=True)])


def lay_out_frames(sample: Sample, showing: Showing, memory: MemoryConfig, *, with_times: bool) -> Layout:
    """A video: each turn's new frames stand at its <video>, else before its text; frames are counted over all turns.

    `with_times` writes each frame's second before it.
    """
    frames = [frame for group in showing.frames for frame in group]
    grids = scheduled_grids(len(frames), memory.every, memory.grids)
    numbered = iter(
        [
            (number, frame.timestamp if with_times else None, tokens_of_grid(grid))
            for number, (frame, grid) in enumerate(zip(frames, grids, strict=True))
        ]
    )
    spoken = []
    for number, (turn, group) in enumerate(zip(showing.turns, showing.frames, strict=True)):
        lines = frame_parts(next(numbered) for _ in group)
        may_show = number == 0 or sample.kind != "video"
        spoken.append((turn.answer, _place(turn.question, lines, number, may_show=may_show)))
    captions = [
        f"{frame_line(number, frame.timestamp).rstrip(': ')}, {grid}x{grid}"
        for number, (frame, grid) in enumerate(zip(frames, grids, strict=True))
    ]
    return Layout(_messages(sample.system, spoken), grids, captions)


def check_placeholders(sample: Sample) -> None:
    """SampleError where the placeholders in a sample's questions do not fit its pictures."""
    if sample.video is None:
        image_messages(sample, [1] * len(sample.images))
    for number, turn in enumerate(sample.turns if sample.video else ()):
        _place(turn.question, (), number, may_show=number == 0 or sample.kind != "video")


def _place(question: str, lines: tuple[Part, ...], number: int, *, may_show: bool) -> tuple[Part, ...]:
    """The question with the frames' lines where its placeholder is (with the newline behind it), else before it.

    A lone <image> stands for the video too, as in LLaVA-Video.
    """
    marks = [(question.count(mark), mark) for mark in (VIDEO_MARK, IMAGE_MARK)]
    num_marks = sum(count for count, _ in marks)
    if num_marks > may_show:
        found = " and ".join(f"{count} {mark}" for count, mark in marks if count)
        expected = "one at most" if may_show else "none: the video was shown before"
        raise SampleError(f"turn {number} holds {found}; expected {expected}")
    if num_marks == 0:
        return *lines, question
    before, _, after = question.partition(next(mark for count, mark in marks if count))
    return tuple(part for part in (before, *lines, after.removeprefix("\n")) if part != "")


def _fill(question: str, images: Iterator[Image]) -> tuple[Part, ...]:
    stretches = question.split(IMAGE_MARK)
    parts: list[Part] = [stretches[0]]
    for stretch in stretches[1:]:
        parts += [next(images), stretch]
    return tuple(part for part in parts if part != "")


def _messages(system: str | None, turns: Sequence[tuple[str, tuple[Part, ...]]]) -> list[Message]:
    messages = [] if system is None else [Message("system", (system,))]
    for answer, parts in turns:
        messages += [Message("user", parts), Message("assistant", (answer,))]
    return messages
