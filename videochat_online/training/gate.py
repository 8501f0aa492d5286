"""`videochat-online gate train`: a gate from rows with standing instructions, in minutes on a CPU.

The model stays as it is: its readouts are taken once a video and stored, and the gate is fitted to them. B frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from math import nan

import torch
import torch.nn.functional as F

from ..command_line import load_from_flags, memory_from_flags
from ..media.find import VideoLibrary
from ..media.source import check_fps
from ..streaming.gate import Gate, GateFacts, GateNetwork, features_of
from ..streaming.moments import Moments, fired, judged, summed, thresholds
from ..streaming.reading import WatchedRow, read_standing_rows, readouts_of
from ..streaming.session import StreamingSession
from ..streaming.standing import Rule

NOW_FRAMES = 2
"""Frames from a moment on at which it is to be told; the one behind them counts neither way."""
POS_WEIGHT, BATCH, RATE, DECAY = 4.0, 512, 1e-3, 0.05
HELD_OUT = 6
"""Each n-th video chooses the epoch and the threshold."""
ALARMS = 1.0


def run_gate_train(options: argparse.Namespace) -> int:
    """Raises ValueError for rows, flags and files that cannot be used."""
    # 1. what is asked for
    check_fps(options.fps, "--fps")
    if options.epochs < 1 or options.output.suffix != ".safetensors":
        raise ValueError("--epochs is at least 1 and --output ends in .safetensors")
    rows = read_standing_rows(options.rows)
    if len({row.video for row in rows}) < 2 or not any(row.moments for row in rows):
        raise ValueError(f"{options.rows}: a gate needs rows of two videos or more, and some moments in them")
    library = VideoLibrary(options.videos)
    # 2. the readouts
    model, processor = load_from_flags(options)
    session = StreamingSession(model, processor, memory=memory_from_flags(options, model))
    facts = GateFacts.of(model, options.model)
    folder = options.readouts or options.output.with_suffix(".readouts")
    found = readouts_of(rows, library, session, folder, fps=options.fps, layers=facts.layers)
    # 3. the gate, and the threshold on videos that it has not seen
    gate, epoch, loss, (recall, alarms) = fit(found, facts, epochs=options.epochs, seed=options.seed)
    gate.save(options.output)
    num_videos = found[-1].video + 1
    print(
        f"{options.output}: {len(rows)} instructions of {num_videos} videos, epoch {epoch}, held-out loss {loss:.3f}\n"
        f"threshold {gate.facts.threshold:.3f}: recall {recall:.2f} at {alarms:.2f} false alarms a minute, "
        f"on the held-out videos that chose it"
    )
    return 0


def targets(moments: Moments, times: Sequence[float], begin: float) -> list[float]:
    """1 on the first frames from each moment on, 0 elsewhere; NaN where either answer would do."""
    wanted = [nan if time < begin else 0.0 for time in times]
    for start, certain in moments:
        later = [n for n, time in enumerate(times) if time >= certain]
        for n, time in enumerate(times):
            if start <= time < certain or n in later[NOW_FRAMES : NOW_FRAMES + 1]:
                wanted[n] = nan if wanted[n] == 0.0 else wanted[n]
        for n in later[:NOW_FRAMES]:
            wanted[n] = 1.0
    return wanted


def examples(rows: Sequence[WatchedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, F) and targets (B,) of all frames that count."""
    features = torch.cat([features_of(one.readouts) for one in rows])
    wanted = torch.tensor([each for one in rows for each in targets(one.row.moments, one.times, one.row.begin)])
    return features[~wanted.isnan()], wanted[~wanted.isnan()]


def fit(
    rows: Sequence[WatchedRow], facts: GateFacts, *, epochs: int, seed: int
) -> tuple[Gate, int, float, tuple[float, float]]:
    """A gate; of the held-out videos: the epoch that was best, its loss, recall and false alarms at the threshold."""
    held = [one for one in rows if one.video % HELD_OUT == 0]
    (x, y), (x_held, y_held) = examples([one for one in rows if one.video % HELD_OUT]), examples(held)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GateNetwork(x.shape[1])
        network.mean.copy_(x.mean(0))
        network.scale.copy_(1 / x.std(0).clamp(min=1e-3))
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        for epoch in range(1, epochs + 1):
            network.train()
            for part in torch.randperm(len(x), generator=generator).split(BATCH):
                optimizer.zero_grad()
                _loss(network(x[part]), y[part]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                loss = float(_loss(network(x_held).mean(1, keepdim=True), y_held))
            if best is None or loss < best[0]:
                best = loss, epoch, {name: value.clone() for name, value in network.state_dict().items()}
    assert best is not None, "there is an epoch"
    network.load_state_dict(best[2])
    # the threshold that a user gets
    gate = Gate(network, facts)
    p = [gate.series(one.readouts) for one in held]
    tried = [(*_on_held_out(held, p, level), level) for level in thresholds(p)]
    chosen = max((one for one in tried if one[1] <= ALARMS), default=(0.0, 0.0, facts.threshold))
    return Gate(network, replace(facts, threshold=chosen[2])), best[1], best[0], chosen[:2]


def _loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of (B, M) against (B,)."""
    weight = torch.tensor(POS_WEIGHT)
    return F.binary_cross_entropy_with_logits(logits, wanted[:, None].expand_as(logits), pos_weight=weight)


def _on_held_out(
    held: Sequence[WatchedRow], series: Sequence[Sequence[float]], threshold: float
) -> tuple[float, float]:
    """Recall and false alarms a minute there, of P of every instruction at every frame."""
    outcome = summed(
        judged(one.row.moments, fired(one.times, p, Rule(threshold)), one.seconds)
        for one, p in zip(held, series, strict=True)
    )
    return outcome.recall, outcome.alarms
