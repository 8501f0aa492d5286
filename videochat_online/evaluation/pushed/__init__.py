"""Benchmarks of speaking unasked: annotations become rows with standing instructions, moments a score."""
