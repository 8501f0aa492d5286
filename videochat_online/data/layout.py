"""A sample and its opened media -> the dialogue as the prompt has it, and the pictures with the grid of each.

Placeholders become images. Frames of a video enter the pyramid on its schedule, exactly as in a stream; still images
keep the full grid, and the tiles of one image stand in one run. Knows no tokenizer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from PIL import Image as PilImage

from ..config import MemoryConfig, scheduled_grids, tokens_of_grid
from ..media.transforms import Picture, dynamic_tiles
from ..model_config import VideoChatOnlineConfig
from ..prompt.messages import Image, Message, frame_line, frame_parts
from .clip import TurnFrames, VideoClip, frames_of_turns
from .registry import DataSet
from .sample import IMAGE_MARK, VIDEO_MARK, Sample, SampleError, Turn
from .settings import DataSettings

Parts = tuple[str | Image, ...]
"""What a question says and shows, in order."""


@dataclass(frozen=True)
class Layout:
    """What is said, and the T pictures that belong to it, in order."""

    messages: list[Message]
    grids: list[int]
    """(T,): side of the map that each picture is pooled to."""
    captions: list[str]
    """(T,): for people."""
    pictures: Iterator[Picture]
    """(T,): to be read once; a frame is decoded when it is its turn."""


def tile_limit(data_set: DataSet, settings: DataSettings, config: VideoChatOnlineConfig) -> int:
    """Tiles that all still images of a sample share: what its set says, else the settings, else the model."""
    if not config.dynamic_image_size:
        return 1
    return data_set.max_dynamic_patch or settings.max_dynamic_patch or config.max_dynamic_patch


def lay_out_images(
    sample: Sample, images: Sequence[PilImage.Image], config: VideoChatOnlineConfig, max_tiles: int
) -> Layout:
    """Still images that share `max_tiles` tiles, one each at least, as InternVL has it; or a dialogue without any.

    SampleError where placeholders do not fit.
    """
    most = max(1, max_tiles // max(1, len(images)))
    fewest, size = min(config.min_dynamic_patch, most), config.image_size
    cut = partial(dynamic_tiles, size=size, min_num=fewest, max_num=most, use_thumbnail=config.use_thumbnail)
    # an image that is not cut is resized by the transform, in one step
    tiles = [cut(image) if most > 1 else [image] for image in images]
    captions = [
        f"image {number}" + (f" tile {tile + 1}/{len(of_image)}" if len(of_image) > 1 else "")
        for number, of_image in enumerate(tiles, start=1)
        for tile in range(len(of_image))
    ]
    messages = image_messages(sample, [len(of_image) * tokens_of_grid(config.grid) for of_image in tiles])
    return Layout(messages, [config.grid] * len(captions), captions, chain.from_iterable(tiles))


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
    dialogue: list[tuple[Turn, Parts]] = []
    for turn, question in zip(sample.turns, questions, strict=True):
        first, *others = question.split(IMAGE_MARK)
        parts: list[str | Image] = [first]
        for text in others:
            parts += [next(images), text]
        dialogue.append((turn, tuple(parts)))
    return _messages(sample, dialogue)


def lay_out_clip(
    sample: Sample, clip: VideoClip, settings: DataSettings, max_frames: int, *, memory: MemoryConfig, seed: str
) -> Layout:
    """At most `max_frames` frames of a video in its dialogue; `seed` decides where tracking begins.

    SampleError where a time has no frame, or placeholders do not fit.
    """
    # 1. the frames of each turn
    rng = random.Random(f"{seed}/frames")
    turns = frames_of_turns(sample, clip, settings, max_frames=max_frames, rng=rng)
    frames = [frame for _, new in turns for frame in new]
    # 2. the grid that each is pooled to
    grids = scheduled_grids(len(frames), memory.every, memory.grids)
    # 3. the dialogue, with or without the frames' seconds
    times = settings.frame_times
    with_times = times == "always" or (times == "online" and sample.kind != "video")
    messages = frame_messages(sample, turns, grids, with_times=with_times)
    captions = [
        f"{frame_line(number, frame.timestamp).rstrip(': ')}, {grid}x{grid}"
        for number, (frame, grid) in enumerate(zip(frames, grids, strict=True))
    ]
    pictures = (frame.image for frame in clip.reader.read([frame.index for frame in frames]))
    return Layout(messages, grids, captions, pictures)


def frame_messages(
    sample: Sample, turns: Sequence[TurnFrames], grids: Sequence[int], *, with_times: bool
) -> list[Message]:
    """The dialogue with each turn's new frames at its <video>, else before its text; `grids` of all frames in order.

    Frames are counted over all turns; `with_times` writes each frame's second before it. SampleError for a
    placeholder too many.
    """
    places = enumerate(grids)
    dialogue: list[tuple[Turn, Parts]] = []
    for number, (turn, frames) in enumerate(turns):
        lines: list[str | Image] = []
        for frame, (place, grid) in zip(frames, places, strict=False):  # ends with the frames: no place is lost
            lines += frame_parts([(place, frame.timestamp if with_times else None, tokens_of_grid(grid))])
        may_show = number == 0 or sample.kind != "video"
        dialogue.append((turn, _place(turn.question, lines, number, may_show=may_show)))
    return _messages(sample, dialogue)


def check_placeholders(sample: Sample) -> None:
    """SampleError where the placeholders in a sample's questions do not fit its pictures."""
    if sample.video is None:
        image_messages(sample, [1] * len(sample.images))
    else:
        frame_messages(sample, [(turn, ()) for turn in sample.turns], (), with_times=False)


def _place(question: str, lines: Sequence[str | Image], number: int, *, may_show: bool) -> Parts:
    """The question with the frames' lines where its placeholder is (with the newline behind it), else before it.

    A lone <image> stands for the video too, as in LLaVA-Video.
    """
    marks = {mark: count for mark in (VIDEO_MARK, IMAGE_MARK) if (count := question.count(mark))}
    if sum(marks.values()) > may_show:
        found = " and ".join(f"{count} {mark}" for mark, count in marks.items())
        expected = "one at most" if may_show else "none: the video was shown before"
        raise SampleError(f"turn {number} holds {found}; expected {expected}")
    if not marks:
        return *lines, question
    before, _, after = question.partition(next(iter(marks)))
    return before, *lines, after.removeprefix("\n")


def _messages(sample: Sample, dialogue: Iterable[tuple[Turn, Parts]]) -> list[Message]:
    """The dialogue with each turn's question as it is shown."""
    messages = [] if sample.system is None else [Message("system", (sample.system,))]
    for turn, parts in dialogue:
        shown = tuple(part for part in parts if part != "")
        messages += [Message("user", shown), Message("assistant", (turn.answer,))]
    return messages
