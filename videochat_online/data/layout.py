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
from ..model.backbone import Facts
from ..prompt.messages import FrameStyle, Image, Message, frame_line, frame_parts
from .clip import ShownFrame, TurnFrames, VideoClip, frames_of_turns
from .registry import DataSet
from .sample import IMAGE_MARK, VIDEO_MARK, Sample, SampleError, Turn
from .settings import DataSettings

Parts = tuple[str | Image, ...]
"""What a question says and shows, in order."""

OURS = FrameStyle()
"""The words around a frame of a model of our own layout."""


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


def tile_limit(data_set: DataSet, settings: DataSettings, config: Facts) -> int:
    """Tiles that all still images of a sample share: what its set says, else the settings, else the model."""
    if not config.dynamic_image_size:
        return 1
    return data_set.max_dynamic_patch or settings.max_dynamic_patch or config.max_dynamic_patch


def lay_out_images(sample: Sample, images: Sequence[PilImage.Image], config: Facts, max_tiles: int) -> Layout:
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
    return _at_marks(sample, IMAGE_MARK, [(Image(one),) for one in num_tokens], "images")


def _at_marks(sample: Sample, mark: str, shown: Sequence[Parts], what: str) -> list[Message]:
    """The dialogue with what is `shown` in place of each mark, in order; all before the first question without any."""
    questions = [turn.question for turn in sample.turns]
    num_marks = sum(question.count(mark) for question in questions)
    if num_marks == 0:
        questions[0] = (mark + "\n") * len(shown) + questions[0]
    elif num_marks != len(shown):
        raise SampleError(f"{num_marks} {mark} placeholders for {len(shown)} {what}; expected one for each")
    left = iter(shown)
    dialogue: list[tuple[Turn, Parts]] = []
    for turn, question in zip(sample.turns, questions, strict=True):
        first, *others = question.split(mark)
        parts: list[str | Image] = [first]
        for text in others:  # frames end with a newline of their own
            parts += [*next(left), text.removeprefix("\n") if mark == VIDEO_MARK else text]
        dialogue.append((turn, tuple(parts)))
    return _messages(sample, dialogue)


def lay_out_clip(
    sample: Sample,
    clip: VideoClip,
    settings: DataSettings,
    max_frames: int,
    *,
    memory: MemoryConfig,
    seed: str,
    style: FrameStyle = OURS,
) -> Layout:
    """At most `max_frames` frames of a video in its dialogue; `seed` decides where tracking begins.

    `style`: the words around a frame. SampleError where a time has no frame, or placeholders do not fit.
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
    messages = frame_messages(sample, turns, grids, with_times=with_times, style=style)
    return Layout(messages, grids, _captions(frames, grids), _pictures(clip, frames))


def _captions(frames: Sequence[ShownFrame], grids: Sequence[int], first: int = 0) -> list[str]:
    """Of the frames, the first of which is number `first` of the sample's."""
    numbered = enumerate(zip(frames, grids, strict=True), first)
    return [f"{frame_line(n, one.timestamp).rstrip(': ')}, {grid}x{grid}" for n, (one, grid) in numbered]


def _pictures(clip: VideoClip, frames: Sequence[ShownFrame]) -> Iterator[Picture]:
    return (frame.image for frame in clip.reader.read([frame.index for frame in frames]))


def lay_out_clips(
    sample: Sample,
    clips: Sequence[VideoClip],
    settings: DataSettings,
    max_frames: int,
    *,
    memory: MemoryConfig,
    style: FrameStyle = OURS,
) -> Layout:
    """Several videos, each whole where its placeholder is. Frames are counted over all of them; seconds and the pyramid
    begin anew with each, as in a stream of its own. SampleError where placeholders do not fit."""
    lines, pictures = list[Parts](), list[Iterator[Picture]]()
    grids, captions = list[int](), list[str]()
    for clip in clips:
        _, frames = frames_of_turns(sample, clip, settings, max_frames=max_frames, rng=random.Random(0))[0]
        first, of_clip = len(grids), scheduled_grids(len(frames), memory.every, memory.grids)
        shown = ((frame.timestamp if settings.frame_times == "always" else None) for frame in frames)
        numbers = range(first, first + len(frames))
        lines.append(frame_parts(zip(numbers, shown, map(tokens_of_grid, of_clip), strict=True), style))
        captions += _captions(frames, of_clip, first)
        pictures.append(_pictures(clip, frames))
        grids += of_clip
    return Layout(several_messages(sample, lines), grids, captions, chain.from_iterable(pictures))


def several_messages(sample: Sample, lines: Sequence[Parts]) -> list[Message]:
    """The dialogue with the frames of each video at its <video>. SampleError where there is not one for each."""
    if any(IMAGE_MARK in turn.question for turn in sample.turns):
        raise SampleError(f"{IMAGE_MARK} in a row of {len(lines)} videos; expected one {VIDEO_MARK} for each")
    return _at_marks(sample, VIDEO_MARK, lines, "videos")


def frame_messages(
    sample: Sample, turns: Sequence[TurnFrames], grids: Sequence[int], *, with_times: bool, style: FrameStyle = OURS
) -> list[Message]:
    """The dialogue with each turn's new frames at its <video>, else before its text; `grids` of all frames in order.

    Frames are counted over all turns; `with_times` writes each frame's second before it. SampleError for a
    placeholder too many.
    """
    places = enumerate(grids)
    dialogue: list[tuple[Turn, Parts]] = []
    for number, (turn, frames) in enumerate(turns):
        shown = zip(frames, places, strict=False)  # ends with the frames: no place is lost
        lines = frame_parts(
            ((place, frame.timestamp if with_times else None, tokens_of_grid(grid)) for frame, (place, grid) in shown),
            style,
        )
        may_show = number == 0 or sample.kind != "video"
        dialogue.append((turn, _place(turn.question, lines, number, may_show=may_show)))
    return _messages(sample, dialogue)


def check_placeholders(sample: Sample) -> None:
    """SampleError where the placeholders in a sample's questions do not fit its pictures."""
    if sample.video is None:
        image_messages(sample, [1] * len(sample.images))
    elif sample.more_videos:
        several_messages(sample, [()] * len(sample.videos))
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
