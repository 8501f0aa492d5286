"""Benchmarks of speaking unasked: annotations become rows with standing instructions, moments a score."""

from __future__ import annotations

from .base import Pushed
from .omnimmi import OmniMMI
from .ovo import OVOForward, OVOTiming
from .proactive_videoqa import ProactiveVideoQA
from .streaming_bench import StreamingBenchPolled, StreamingBenchPushed

__all__ = ["PUSHED", "Pushed"]

PUSHED: dict[str, type[Pushed]] = {
    kind.name: kind
    for kind in (OmniMMI, OVOTiming, OVOForward, StreamingBenchPushed, StreamingBenchPolled, ProactiveVideoQA)
}
"""By the names that `eval standing --benchmark` takes."""
