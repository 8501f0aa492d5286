"""Measurements: each result beside its straightforward counterpart and, where there is one, its physical limit."""
