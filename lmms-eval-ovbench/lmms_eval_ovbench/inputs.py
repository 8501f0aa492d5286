"""What lmms-eval asks of a simple model, in our words: what is shown, the question, how to generate.

Knows lmms-eval's tuples and no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from videochat_online.media.image_source import IMAGE_SUFFIXES
from videochat_online.media.readers import open_image

from .visuals import Stream

DEFAULT_NEW_TOKENS = 128
IMAGE_PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class Generation:
    """How one answer is generated."""

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    until: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    system_prompt: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    """For transformers' `generate`; none of them: greedy."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Generation:
        """From a task's generation_kwargs. Sampling settings count only where the task samples."""
        until = settings.get("until") or ()
        options: dict[str, Any] = {}
        if settings.get("do_sample"):
            options = {key: settings[key] for key in ("do_sample", "temperature", "top_p") if settings.get(key)}
        if settings.get("num_beams", 1) > 1:
            options["num_beams"] = settings["num_beams"]
        return cls(
            max_new_tokens=settings.get("max_new_tokens", DEFAULT_NEW_TOKENS),
            until=(until,) if isinstance(until, str) else tuple(until),
            system_prompt=settings.get("system_prompt"),
            options=tuple(options.items()),
        )

    def cut(self, text: str) -> str:
        """`text` up to the first mark of `until`, which may be a blank line: those at the beginning do not count."""
        text = text.strip()
        return text[: min((text.index(mark) for mark in self.until if mark in text), default=len(text))]


@dataclass(frozen=True)
class Request:
    """One question with what may be seen for it."""

    prompt: str
    stream: Stream | None
    """A video; None: `images`."""
    images: tuple[Image.Image | str, ...] = ()
    """Or paths, opened when they are looked at."""
    generation: Generation = Generation()
    options: tuple[str, ...] = ()
    """Possible answers, where their probabilities are asked for."""
    length_line: str = ""
    """Begins the question, with the seconds of the video in the place of {}."""

    def question(self, seconds: float) -> str:
        """What is asked about a video of this length."""
        return self.length_line.format(round(seconds, 1)) + self.prompt

    def pictures(self) -> list[Image.Image]:
        """The images, opened. MediaError says what is wrong with one, by name."""
        return [open_image(image) if isinstance(image, str) else image for image in self.images]

    @property
    def pass_key(self) -> str:
        """Equal for requests about videos that one pass over the video can serve."""
        assert self.stream is not None, "only a video is passed over"
        about = {**self.stream.to_visual(), "video_end": self.stream.end is None}
        return json.dumps([about, repr(self.generation), bool(self.options)], sort_keys=True)


def request_of(prompt: str, visuals: Any, generation: Generation, options: Sequence[str] = ()) -> Request:
    """From what `doc_to_visual` gave: a video (path or dict), images (PIL or paths), or nothing."""
    listed = _flat(visuals)
    if len(listed) == 1 and (isinstance(listed[0], Mapping) or _is_video_path(listed[0])):
        return Request(prompt, Stream.of(listed[0]), (), generation, tuple(options))
    for visual in listed:
        if not isinstance(visual, Image.Image) and not (isinstance(visual, str) and not _is_video_path(visual)):
            raise ValueError(f"cannot show {visual!r:.80}: expected one video, or images (PIL images or paths)")
    return Request(_without_placeholders(prompt), None, tuple(listed), generation, tuple(options))


def _flat(visuals: Any) -> list[Any]:
    if visuals is None:
        return []
    if not isinstance(visuals, list | tuple):
        return [visuals]
    return [one for visual in visuals for one in _flat(visual)]


def _is_video_path(visual: Any) -> bool:
    return isinstance(visual, str) and not visual.lower().endswith(tuple(IMAGE_SUFFIXES - {".gif"}))


def _without_placeholders(prompt: str) -> str:
    """Images stand before the question, so marks of their places in it would only be words to the model."""
    lines = [line for line in prompt.split("\n") if line.strip() != IMAGE_PLACEHOLDER]
    return "\n".join(lines).replace(IMAGE_PLACEHOLDER, "")
