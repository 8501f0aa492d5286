"""Scoring a model on online-video benchmarks: questions, modes, a runner that survives anything, a report."""
