"""What a visitor may watch: a file, the shipped sample, a generated world, an address, a camera, their own frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal

from ..files import SHIPPED_MODELS
from ..media.addresses import Address
from ..media.live import LiveSource, PushedFrames
from ..media.live_network import Camera, NetworkStream
from ..media.live_playback import VideoPlayback
from ..media.source import MediaError
from .limits import NO_OTHER_FIELDS, Limits, NotAllowed, checked_place

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

    __pydantic_config__: ClassVar = NO_OTHER_FIELDS

    kind: Literal["sample", "shapeworld", "url", "camera", "push"]
    name: str = "shapes"
    seed: int = 0
    level: int = 2
    address: str = ""
    number: int = 0


def open_source(request: SourceRequest, limits: Limits) -> WatchedStream:
    """What a request names.

    NotAllowed for what the operator has not switched on, ValueError for a sample, seed, level or address that is none.
    """
    if request.kind == "sample":
        if request.name not in SAMPLES:
            raise ValueError(f"unknown sample {request.name!r}, expected one of {', '.join(SAMPLES)}")
        return open_file(SAMPLES[request.name], limits, name=f"sample: {request.name}")
    if request.kind == "shapeworld":
        lab = import_module("videochat_online.lab.world_source")
        world: WatchedStream = lab.open_world(request.seed, request.level)
        return world
    if request.kind == "camera" and not limits.allow_cameras:
        raise NotAllowed("cameras of this machine are switched off here (--allow-cameras switches them on)")

    def opened(_: float = 0.0) -> LiveSource:
        if request.kind == "url":
            return open_address(request.address, limits)
        return Camera(request.number) if request.kind == "camera" else PushedFrames("your camera")

    return WatchedStream(opened(), opened)


def open_file(path: Path, limits: Limits, *, name: str) -> WatchedStream:
    """A video file in real time; MediaError, with the visitor's `name` for it, for a bad or too long one."""

    def start_at(seconds: float) -> VideoPlayback:
        video = VideoPlayback(path, start=seconds)
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


def open_address(address: str, limits: Limits) -> NetworkStream:
    """The stream behind an address that the operator allows; NotAllowed or ValueError for others."""
    place = checked_place(address, limits)
    return NetworkStream(address) if limits.allow_private_urls else pinned_stream(address, place)


def pinned_stream(address: str, place: str) -> NetworkStream:
    """The stream at an address, reached only at the IP address `place` of its host."""
    found = Address.checked(address)
    if found.scheme not in ("http", "https"):  # whose servers want to know the name
        address = found.at(place)
    return NetworkStream(address, place=place)
