"""What a visitor may watch: a file, the shipped sample, a generated world, an address, a camera, their own frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..media.live import LiveSource, PushedFrames
from ..media.live_network import Camera
from ..media.live_playback import VideoPlayback
from ..media.source import MediaError
from ..processing import SHIPPED_MODELS
from .addresses import open_address
from .limits import Limits, NotAllowed

SAMPLES = {"shapes": SHIPPED_MODELS["pocket"] / "sample.mp4"}
"""Clips that come with the package, by name. Visitors name samples, never paths."""


@dataclass(frozen=True)
class Opened:
    """A source that is ready to be played."""

    source: LiveSource
    again: Callable[[], LiveSource]
    """Opens it anew, from its beginning."""
    from_second: Callable[[float], LiveSource] | None = None
    """Opens it anew at another second, where it has such."""
    truth: Callable[[float], str] | None = None
    """What is to be seen at a second, where it is known."""


def open_file(path: Path, limits: Limits, *, name: str | None = None) -> Opened:
    """A video file in real time; MediaError for a bad or too long one."""

    def start_at(seconds: float) -> VideoPlayback:
        video = VideoPlayback(path, start=seconds)
        video.name = name or video.name
        return video

    try:
        source = start_at(0.0)
    except MediaError as error:  # with the visitor's name for it, not the server's
        raise MediaError(str(error).replace(str(path), name or path.name)) from error
    if source.duration > limits.max_video_seconds:
        source.close()
        raise MediaError.about(
            source.name, f"lasts {source.duration:.0f} s", f"at most {limits.max_video_seconds:.0f} s"
        )
    return Opened(source, lambda: start_at(0.0), start_at)


def open_sample(name: str, limits: Limits) -> Opened:
    if name not in SAMPLES:
        raise ValueError(f"unknown sample {name!r}, expected one of {', '.join(SAMPLES)}")
    return open_file(SAMPLES[name], limits, name=f"sample: {name}")


def open_world(seed: int = 0, level: int = 2) -> Opened:
    """An endless ShapeWorld. ValueError for a bad seed or level."""
    world: Opened = import_module("videochat_online.lab.world_source").open_world(seed, level)
    return world


def open_network(address: str, limits: Limits) -> Opened:
    return Opened(open_address(address, limits), lambda: open_address(address, limits))


def open_camera(number: int, limits: Limits) -> Opened:
    if not limits.allow_cameras:
        raise NotAllowed("cameras of this machine are switched off here (--allow-cameras switches them on)")
    return Opened(Camera(number), lambda: Camera(number))


def open_push(name: str = "your camera") -> Opened:
    """Frames that the visitor's browser sends in its own time."""
    return Opened(PushedFrames(name), lambda: PushedFrames(name))
