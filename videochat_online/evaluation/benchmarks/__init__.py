"""The benchmarks: each turns annotations into questions and judges replies."""

from __future__ import annotations

from .base import Benchmark, ModeSettings
from .ovbench import OVBench
from .ovo_bench import OVOBench
from .streaming_bench import StreamingBench

__all__ = ["Benchmark", "ModeSettings", "OVBench", "OVOBench", "StreamingBench"]
