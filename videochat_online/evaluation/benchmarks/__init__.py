"""The benchmarks: each turns annotations into questions and judges replies."""

from __future__ import annotations

from .base import Benchmark, Protocol, Settings
from .odv_bench import ODVBench
from .ovbench import OVBench
from .ovo_bench import OVOBench
from .streaming_bench import StreamingBench

__all__ = ["BENCHMARKS", "Benchmark", "ODVBench", "OVBench", "OVOBench", "Protocol", "Settings", "StreamingBench"]

BENCHMARKS: dict[str, type[Benchmark]] = {kind.name: kind for kind in (OVBench, OVOBench, StreamingBench, ODVBench)}
"""By the names that `videochat-online eval` takes. A benchmark that stands here has its command."""
