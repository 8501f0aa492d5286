"""OVBench for lmms-eval. `load_video` is for models of your own; tasks and model are found by lmms-eval itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .visuals import Clip, load_video

__all__ = ["Clip", "load_video"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import visuals

    return getattr(visuals, name)
