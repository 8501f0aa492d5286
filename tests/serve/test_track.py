"""The pictures of the memory follow the memory itself, through its events alone."""

from __future__ import annotations

import pytest
import torch

from videochat_online.config import MemoryConfig
from videochat_online.media.source import Frame
from videochat_online.model.memory_bank import PyramidMemoryBank
from videochat_online.serve.track import KEPT_TURNS, MemoryTrack

MEMORIES = {
    "pyramid": MemoryConfig.pyramid(capacities=(2, 2, 5), grids=(4, 2, 1)),
    "cascade": MemoryConfig.pyramid(capacities=(2, 2, 5), grids=(4, 2, 1), cascade=True),
    "no middle": MemoryConfig.pyramid(capacities=(2, 0, 5), grids=(4, 2, 1)),
    "nothing at the end": MemoryConfig.pyramid(capacities=(2, 2, 0), grids=(4, 2, 1)),
    "fifo": MemoryConfig.single("fifo", capacity=4, grid=2),
    "uniform": MemoryConfig.single("uniform", capacity=4, grid=2),
    "merge": MemoryConfig.single("merge", capacity=4, grid=2),
    "recent": MemoryConfig.recent(3, grid=4),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_the_track_is_the_memory(name, picture):
    config = MEMORIES[name]
    bank, track = PyramidMemoryBank(config), MemoryTrack()
    features = torch.randn(60, 8, 4, 4, generator=torch.Generator().manual_seed(3))
    first = 0
    for size in (1, 1, 5, 16, 1, 30, 6):
        times = [k / 2 for k in range(first, first + size)]
        events = bank.write(features[first : first + size], times)
        track.add([Frame(picture(k), t, k) for k, t in enumerate(times, first)], events)
        held = [(f.index, f.timestamp, f.level) for f in bank.read()]
        assert [(f.number, f.timestamp, f.level) for f in track.held.values()] == held
        assert all(track.pictures.get(number) for number, _, _ in held)
        first += size
    departures = track.departures
    assert departures and all(d.at >= d.timestamp for d in departures)
    if name in ("pyramid", "merge"):
        assert all(-1 <= d.similarity <= 1.0001 for d in departures)


def test_what_is_kept_is_bounded(picture):
    config = MEMORIES["pyramid"]
    bank, track = PyramidMemoryBank(config), MemoryTrack()
    sizes = []
    for k in range(600):
        events = bank.write(torch.randn(1, 8, 4, 4), [k / 2])
        track.add([Frame(picture(k % 7), k / 2, k)], events)
        if k % 4 == 0:
            track.ask("What?", k / 2, list(track.held.values()))
        if k % 100 == 99:
            sizes.append(sum(map(len, track.pictures.values())))
    assert len(track.turns) == KEPT_TURNS and max(sizes[2:]) < 1.2 * sizes[2]
    moment = track.turns[0]
    assert moment.held and all(track.pictures.get(frame.number) for frame in moment.held), "what was held then is shown"
