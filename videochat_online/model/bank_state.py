"""Does a saved state fit a memory bank? Names, counts and shapes are compared; no map is read."""

from __future__ import annotations

import torch

from ..config import MemoryConfig

SINGLE = ("num_written", "last_timestamp", "channels_last")
"""One value each, whatever the bank holds."""
COLUMNS = ("numbers", "timestamps", "num_merged", "norms", "directions", "features")
"""What a level's frames are saved as: one row a frame each, in order of arrival."""


def check_state(config: MemoryConfig, state: dict[str, torch.Tensor]) -> None:
    """Raise ValueError unless a bank of this `config` could have given `state`."""
    held = [k for k, level in enumerate(config.levels) if level.capacity and f"level{k}.features" in state]
    expected = {*SINGLE, *(f"level{k}.{name}" for k in held for name in COLUMNS)}
    if missing := sorted(expected - state.keys()):
        raise ValueError(f"not the state of this bank: it lacks {', '.join(missing)}")
    if unexpected := sorted(state.keys() - expected):
        raise ValueError(f"not the state of this bank: it holds {', '.join(unexpected)}")
    for name in SINGLE:
        if state[name].numel() != 1:
            raise ValueError(f"{name} of the state must be one value, got shape {tuple(state[name].shape)}")
    for k in held:
        level, maps = config.levels[k], state[f"level{k}.features"]
        if maps.ndim != 4 or len(maps) > level.capacity or maps.shape[2:] != (level.grid, level.grid):
            raise ValueError(
                f"level {k} holds at most {level.capacity} maps of {level.grid}x{level.grid}, "
                f"the state has maps of shape {tuple(maps.shape)}"
            )
        rows = {name: len(state[f"level{k}.{name}"]) for name in COLUMNS}
        if len(set(rows.values())) > 1:
            raise ValueError(f"level {k} of the state is incomplete: {rows}")
        channels, width = state[f"level{held[0]}.features"].shape[1], state[f"level{k}.directions"].shape[1:]
        if maps.shape[1] != channels or width != (channels,):
            raise ValueError(
                f"level {k} of the state has maps of {maps.shape[1]} channels and summaries of shape {tuple(width)}, "
                f"expected {channels} channels as at level {held[0]}"
            )
