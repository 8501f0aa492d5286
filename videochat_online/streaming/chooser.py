"""A chooser: a small network that tells which of the remembered frames a question is about that names no time.

It sees the mean of each frame's coarsest map, when that was, and the question as the model's own word vectors. It reads
each frame with the question in mind, and counts what happens before and after it: "last" and "first" are found only so.
lab/pocket/choosing.py trains one. K frames of C channels, Q questions of N words of width D, W = WIDTH.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from ..model.backbone import Backbone
from ..model.memory_bank import MemoryFrame
from .gate import load_network, save_network

CHOOSER_FORMAT = "videochat-online chooser 1"
CHOOSER_FILE = "chooser.safetensors"
"""Its name beside a model's weights."""
WIDTH, HEADS, ASKS, MOST_WORDS, STATES = 96, 4, 2, 64, 8
EVENTS, MOST_EVENTS = 32, 4
"""Kinds of what a layer counts, and the number above which more of them make no difference."""
AGES = 12
"""Bumps over the logarithm of seconds, by which a frame knows how long ago it was, and how long after the first."""


def bumps(seconds: torch.Tensor) -> torch.Tensor:
    """(...) -> (..., AGES): near 1 where it lies near that power of two, from half a second to 17 minutes."""
    return torch.exp(-2 * ((seconds.clamp(min=0) + 0.5).log2()[..., None] - torch.arange(-1.0, AGES - 1)) ** 2)


def chooser_file(model: Backbone) -> Path:
    """The chooser in the folder of a model's weights. Raises ValueError where there is none."""
    config: Any = model.config
    folder = str(getattr(config, "own", config).name_or_path)
    if not folder or not (path := Path(folder) / CHOOSER_FILE).is_file():
        raise ValueError(
            f"recall='chosen' takes {CHOOSER_FILE} beside the model's weights: there is none in {folder!r}"
        )
    return path


_LOADED: WeakKeyDictionary[Backbone, tuple[tuple[Path, int], Chooser]] = WeakKeyDictionary()


def chooser_of(model: Backbone) -> Chooser:
    """The chooser beside a model's weights, read once for all sessions, and again where the file was changed.

    Raises ValueError where there is none, or it cannot be used.
    """
    path = chooser_file(model)
    version = (path, path.stat().st_mtime_ns)
    known = _LOADED.get(model)
    if known is None or known[0] != version:
        known = _LOADED[model] = version, Chooser.load(path, model)
    return known[1]


class Count(nn.Module):
    """Finds events in frames and their neighbours (Q, K, W), and tells each frame how many came before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.event = nn.Conv1d(WIDTH, EVENTS, 3, padding=1)
        self.mlp = nn.Sequential(nn.Linear(WIDTH + 4 * EVENTS, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """`counts` (Q, K, 1): 1 for a frame of the stream, 0 behind its newest."""
        read = F.layer_norm(x, x.shape[-1:]) * counts
        events = (self.event(read.transpose(1, 2)).transpose(1, 2) - 2).sigmoid() * counts
        upto = events.cumsum(1)
        before, after = upto - events, upto[:, -1:] - upto
        told = [(-before).exp(), (-after).exp(), *(n.clamp(max=MOST_EVENTS) / MOST_EVENTS for n in (before, after))]
        return x + self.mlp(torch.cat([read, *told], dim=-1))


class ChooserNetwork(nn.Module):
    """Logits over the frames of a stream."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mean, self.scale = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.ones(channels))
        self.look = nn.Linear(channels, WIDTH)
        self.word, self.order = nn.Linear(width, WIDTH // 2), nn.Parameter(0.1 * torch.randn(MOST_WORDS, WIDTH // 2))
        self.asks = nn.Parameter(0.3 * torch.randn(ASKS, WIDTH // 2))
        self.read = nn.TransformerEncoderLayer(WIDTH // 2, HEADS, WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.tune = nn.Linear(ASKS * WIDTH // 2, 5 * WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)
        )
        self.when = nn.Linear(2 * AGES, WIDTH)
        self.state = nn.Linear(WIDTH, STATES)
        self.over = nn.ModuleList(Count() for _ in range(3))
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1))

    def seen(self, maps: torch.Tensor) -> torch.Tensor:
        """(K, C) means of maps -> (K, WIDTH), the same for every question."""
        return F.gelu(self.look(((maps - self.mean) * self.scale).clamp(-10, 10)))

    def asked(self, words: Sequence[torch.Tensor]) -> torch.Tensor:
        """Q times (N, D) -> (Q, 5 * WIDTH): how frames are read for each question."""
        said = nn.utils.rnn.pad_sequence([F.layer_norm(each, each.shape[-1:]) for each in words], batch_first=True)
        places = torch.arange(said.shape[1])
        absent = places >= torch.tensor([[len(each)] for each in words])
        spoken = self.word(said) + self.order[places.clamp(max=MOST_WORDS - 1)]
        spoken = torch.cat([self.asks.expand(len(words), -1, -1), spoken], dim=1)
        read = self.read(spoken, src_key_padding_mask=F.pad(absent, (ASKS, 0)))[:, :ASKS]
        return F.linear(read.flatten(1), self.tune.weight, self.tune.bias)

    def forward(
        self, seen: torch.Tensor, times: torch.Tensor, lengths: torch.Tensor, words: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of `seen` (Q, K, WIDTH) and `times` (Q, K) seconds, of which the first `lengths` (Q,) count, oldest first:
        logits (Q, K), -inf behind those; and (Q, K, STATES), in training only: what the thing asked about is doing."""
        # 1. each frame, with the question in mind
        x, (*tunes, asked) = seen, self.asked(words)[:, None].chunk(5, dim=-1)
        for block, scale, shift in zip(self.blocks, tunes[::2], tunes[1::2], strict=True):
            x = x + block(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)
        # 2. when it was, and what happened before and after
        newest, counts = times.gather(1, lengths[:, None] - 1), torch.arange(x.shape[1]) < lengths[:, None]
        over = x + asked + self.when(torch.cat([bumps(newest - times), bumps(times - times[:, :1])], dim=-1))
        for layer in self.over:
            over = layer(over, counts[..., None].float())
        return self.out(over)[..., 0].masked_fill(~counts, -torch.inf), self.state(x)


class Chooser:
    """What `Recall` asks. `most`: frames that it shows at most beside the newest; `sure`: it stops where those shown
    hold what is asked about with this probability. `model`: the name of the one it was trained with."""

    def __init__(self, network: ChooserNetwork, most: int, sure: float, model: str) -> None:
        self.network, self.most, self.sure, self.model = network.eval(), most, sure, model

    @torch.no_grad()
    def choose(self, frames: Sequence[MemoryFrame], words: torch.Tensor, newest: int) -> list[MemoryFrame]:
        """The newest and the chosen of all K frames, oldest first."""
        maps = torch.stack([frame.features.float().mean((1, 2)).cpu() for frame in frames])
        first = frames[0].timestamp
        times = torch.tensor([[frame.timestamp - first for frame in frames]])
        logits, _ = self.network(self.network.seen(maps)[None], times, torch.tensor([len(frames)]), [words])
        chances = logits[0].softmax(-1).tolist()
        shown = set(range(len(frames))[-newest:])
        for k in sorted(set(range(len(frames))) - shown, key=chances.__getitem__, reverse=True)[: self.most]:
            if sum(chances[n] for n in shown) >= self.sure:
                break
            shown.add(k)
        return [frames[k] for k in sorted(shown)]

    def save(self, path: Path) -> None:
        """Written whole or not at all. Raises OSError."""
        about = {"format": CHOOSER_FORMAT, "most": self.most, "sure": self.sure, "model": self.model}
        save_network(path, "chooser", self.network, about)

    @classmethod
    def load(cls, path: Path, model: Backbone) -> Chooser:
        """Raises ValueError for a file that is none, or belongs to a model of another shape."""
        fields, writer = {"most": int, "sure": float, "model": str}, "lab.pocket.choosing"
        network, about = load_network(path, model, "chooser", writer, CHOOSER_FORMAT, ChooserNetwork, fields)
        return cls(network, **about)
