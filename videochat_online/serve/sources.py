"""What a visitor may watch: a file, the shipped sample, a generated world, an address, a camera, their own frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from ..media.live import LiveSource
from ..media.live_network import Camera
from ..media.live_paced import PacedVideo
from ..media.live_pushed import PushedFrames
from ..media.source import MediaError
from ..processing import SHIPPED_MODELS
from .addresses import open_address
from .limits import Limits, NotAllowed

SAMPLES = {"shapes": SHIPPED_MODELS["pocket"] / "sample.mp4"}
"""Clips that come with the package, by name. Visitors name samples, never paths."""


@dataclass(frozen=True)
class WatchedStream:
    """A stream to be watched, and how to open it again: a source is played once."""

    source: LiveSource
    reopen: Callable[[float], LiveSource]
    """Its source again: a file from that second on, others from their beginning."""
    truth: Callable[[float], str] | None = None
    """What is to be seen at a second, where it is known."""


@dataclass
class SourceRequest:
    """What to watch. `sample`: name; `shapeworld`: seed, level; `url`: address; `camera`: number; `push`: nothing."""

    kind: Literal["sample", "shapeworld", "url", "camera", "push"]
    name: str = "shapes"
    seed: int = 0
    level: int = 2
    address: str = ""
    number: int = 0


def open_source(request: SourceRequest, limits: Limits) -> WatchedStream:
    """What a request names; NotAllowed for what the operator has not switched on, ValueError for what is not there."""
    if request.kind == "sample":
        return open_sample(request.name, limits)
    if request.kind == "shapeworld":
        return open_world(request.seed, request.level)
    if request.kind == "url":
        return open_network(request.address, limits)
    return open_camera(request.number, limits) if request.kind == "camera" else open_push()


def open_file(path: Path, limits: Limits, *, name: str) -> WatchedStream:
    """A video file in real time; MediaError, with the visitor's `name` for it, for a bad or too long one."""

    def start_at(seconds: float) -> PacedVideo:
        video = PacedVideo(path, start=seconds)
        video.name = name
        return video

    try:
        source = start_at(0.0)
    except MediaError as error:
        raise MediaError(str(error).replace(str(path), name)) from error
    if source.duration > limits.max_video_seconds:
        source.close()
        raise MediaError.about(name, f"lasts {source.duration:.0f} s", f"at most {limits.max_video_seconds:.0f} s")
    return WatchedStream(source, start_at)


def open_sample(name: str, limits: Limits) -> WatchedStream:
    if name not in SAMPLES:
        raise ValueError(f"unknown sample {name!r}, expected one of {', '.join(SAMPLES)}")
    return open_file(SAMPLES[name], limits, name=f"sample: {name}")


def open_world(seed: int = 0, level: int = 2) -> WatchedStream:
    """An endless ShapeWorld. ValueError for a bad seed or level."""
    world: WatchedStream = import_module("videochat_online.lab.world_source").open_world(seed, level)
    return world


def open_network(address: str, limits: Limits) -> WatchedStream:
    """NotAllowed or ValueError for an address that is not to be opened."""
    return WatchedStream(open_address(address, limits), lambda _: open_address(address, limits))


def open_camera(number: int, limits: Limits) -> WatchedStream:
    if not limits.allow_cameras:
        raise NotAllowed("cameras of this machine are switched off here (--allow-cameras switches them on)")
    return WatchedStream(Camera(number), lambda _: Camera(number))


def open_push() -> WatchedStream:
    """Frames that the visitor's browser sends in its own time."""
    return WatchedStream(PushedFrames("your camera"), lambda _: PushedFrames("your camera"))
