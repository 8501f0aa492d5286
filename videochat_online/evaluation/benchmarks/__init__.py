"""The benchmarks by name."""

from __future__ import annotations

from .base import Benchmark, ModeSettings

__all__ = ["Benchmark", "ModeSettings"]
