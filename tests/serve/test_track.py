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


def test_what_was_held_at_an_event_is_kept(picture):
    """An event is heard of some frames after the one at which it was decided."""
    bank, track = PyramidMemoryBank(MEMORIES["pyramid"]), MemoryTrack()
    known = {}
    for k in range(60):
        track.add([Frame(picture(k), k / 2, k)], bank.write(torch.randn(1, 8, 4, 4), [k / 2]))
        known[k / 2] = list(track.held.values())
        if k % 10 == 4:
            track.keep_moment(k, (k - 3) / 2)
    assert len(track.moments) == 6
    for number, held in track.moments.items():
        assert held == known[(number - 3) / 2]
        assert all(track.pictures.get(frame.number) for frame in held)
    track.keep_moment(54, 29.5)
    assert track.moments[54] == known[51 / 2], "once and for all"
    for number in range(100, 100 + 2 * KEPT_TURNS):
        track.keep_moment(number, 29.5)
    assert len(track.moments) == KEPT_TURNS
