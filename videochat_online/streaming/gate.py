"""A gate: a small network that looks at the newest frames with an instruction in mind, and says when to speak.

It sees the encoder's maps, now and one and two seconds before (an event is a change), and the instruction as the
model's own word vectors. The model stays as it is, and its language side has nothing to do until something is said.
K frames known, T of them moments, P = SIDE * SIDE cells of C channels, R instructions of N words of width D, W = WIDTH.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import SHIPPED_MODELS, whole
from ..model.backbone import Backbone
from ..model.videochat import one_line

FORMAT = "videochat-online gate 2"
GATE_FILE = "gate.safetensors"
"""Its name beside a model's weights."""
LOOKS, SLACK = (0.0, 1.0, 2.0), 0.25
"""Seconds before now at which it looks."""
SIDE, CELL, WIDTH, HEADS, ASKS, ALIKE, MOST_ORDER = 4, 64, 96, 4, 2, 8, 64


def gate_file(model: str | Path, asked: Path | None = None) -> Path | None:
    """The gate that was asked for, none for the word "none"; else the one in the model's folder, also of the model that
    ships, where there is one."""
    if asked is not None:
        return None if str(asked) == "none" else asked
    path = Path(SHIPPED_MODELS.get(str(model), model)) / GATE_FILE
    return path if path.is_file() else None


@torch.no_grad()
def cells_of(maps: torch.Tensor, model: Backbone) -> torch.Tensor:
    """(K, C, h, w) of the encoder -> (K, P, C + D), what a gate sees: the maps, and as what the language model would be
    shown them, which resembles words."""
    pooled = F.adaptive_avg_pool2d(maps.float(), SIDE).to(maps.dtype)
    tokens = model.project(list(pooled)).unflatten(0, (len(maps), SIDE * SIDE))
    return torch.cat([pooled.flatten(2).transpose(1, 2), tokens], dim=-1).float().half().cpu()


def looks_at(times: Sequence[float], moments: Sequence[int]) -> torch.Tensor:
    """(T, LOOKS) numbers of the frames that are looked at for these moments, given the seconds of all K; where the
    stream is younger than a look, its first frame stands in."""
    found = []
    for now in moments:
        older = range(now, -1, -1)
        found.append([next((k for k in older if times[now] - times[k] >= look - SLACK), 0) for look in LOOKS])
    return torch.tensor(found)


def _layers(number: int) -> nn.Module:
    one = nn.TransformerEncoderLayer(WIDTH, HEADS, 3 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(one, number, enable_nested_tensor=False)


class Find(nn.Module):
    """Instructions (T, ASKS * R, W) find in the cells (T, P, W) what they are about."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.cells_norm, self.last_norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH))

    def forward(self, asked: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        cells = self.cells_norm(cells)
        asked = asked + self.attention(self.norm(asked), cells, cells, need_weights=False)[0]
        return asked + self.mlp(self.last_norm(asked))


class GateNetwork(nn.Module):
    """Logits (R, T, 2): the moment has come, and (in training only) what is asked about holds."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mean, self.scale = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.ones(channels))
        self.cell, self.mix = nn.Linear(channels, CELL), nn.Linear(CELL * len(LOOKS), WIDTH)
        self.place = nn.Parameter(0.3 * torch.randn(SIDE * SIDE, WIDTH))
        self.look = _layers(1)
        self.word, self.order = nn.Linear(width, WIDTH), nn.Parameter(0.1 * torch.randn(MOST_ORDER, WIDTH))
        self.asks = nn.Parameter(0.3 * torch.randn(ASKS, WIDTH))
        self.read = _layers(1)
        self.find = nn.ModuleList(Find() for _ in range(1))
        self.tune = nn.Linear(ASKS * WIDTH, 2 * WIDTH)
        self.chosen, self.turned = nn.Linear(width, ALIKE), nn.Linear(width, width, bias=False)
        nn.init.eye_(self.turned.weight)
        self.alike = nn.Linear(ALIKE * len(LOOKS), WIDTH)
        self.match = nn.Sequential(nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU())
        last = nn.Linear((ASKS + 2) * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 2)
        self.out = nn.Sequential(nn.LayerNorm((ASKS + 2) * WIDTH), *last)

    def forward(self, seen: torch.Tensor, looks: torch.Tensor, words: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of cells (K, P, C + D), numbers of frames (T, LOOKS) and instructions (N, D) each."""
        # 1. what each place shows now and showed before
        maps, tokens = seen.float().split([len(self.mean), self.turned.in_features], dim=-1)
        cells = self.cell(((maps - self.mean) * self.scale).clamp(-10, 10))
        cells = self.look(self.mix(cells[looks].transpose(1, 2).flatten(2)) + self.place)
        # 2. what is asked
        said = nn.utils.rnn.pad_sequence([F.layer_norm(each, each.shape[-1:]) for each in words], batch_first=True)
        places = torch.arange(said.shape[1])
        absent = places >= torch.tensor([[len(each)] for each in words])
        spoken = self.word(said) + self.order[places.clamp(max=MOST_ORDER - 1)]
        spoken = torch.cat([self.asks.expand(len(words), -1, -1), spoken], dim=1)
        asked = self.read(spoken, src_key_padding_mask=F.pad(absent, (ASKS, 0)))[:, :ASKS]
        # 3. each instruction at each moment: what it finds by attention, and how well each place matches it
        found = asked.flatten(0, 1).expand(len(cells), -1, -1)
        for find in self.find:
            found = find(found, cells)
        scale, shift = self.tune(asked.flatten(1))[:, None, None].chunk(2, dim=-1)
        picked = self.chosen(said).sigmoid().masked_fill(absent[..., None], 0)  # (R, N, ALIKE) which words count
        alike = torch.einsum("rna,rnd,kpd->rkpa", picked, self.turned(said), F.layer_norm(tokens, tokens.shape[-1:]))
        alike = alike[:, looks].transpose(2, 3).flatten(3) / said.shape[-1]
        matched = self.match(cells * (1 + scale) + shift + self.alike(alike))  # (R, T, P, W)
        found = found.unflatten(1, (len(words), ASKS)).flatten(2).transpose(0, 1)
        return self.out(torch.cat([found, matched.amax(2), matched.mean(2)], dim=-1))


class Gate:
    """What `StreamingSession.scorer` takes. `threshold`: for about one false alarm a minute and instruction, on streams
    that it was not trained on; `model`: the name of the one it was trained with."""

    def __init__(self, network: GateNetwork, threshold: float, model: str) -> None:
        self.network, self.threshold, self.model = network.eval(), threshold, model

    @classmethod
    def sizes(cls, model: Backbone) -> tuple[int, int]:
        """Channels of a model's maps and width of its word vectors."""
        return model.config.feature_size, model.config.llm_config.hidden_size

    @torch.no_grad()
    def margins(
        self, times: Sequence[float], seen: torch.Tensor, words: Sequence[torch.Tensor], first: int = 0
    ) -> list[list[float]]:
        """(R, K - first) log P - log (1 - P) that the moment has come, from frame `first` on."""
        return self.network(seen, looks_at(times, range(first, len(times))), words)[..., 0].tolist()

    def save(self, path: Path) -> None:
        """Written whole or not at all. Raises OSError."""
        save_network(path, "gate", self.network, {"format": FORMAT, "threshold": self.threshold, "model": self.model})

    @classmethod
    def load(cls, path: Path, model: Backbone) -> Gate:
        """Raises ValueError for a file that is none, or belongs to a model of another shape."""
        fields = {"threshold": float, "model": str}
        network, about = load_network(path, model, "gate", "`gate train`", FORMAT, GateNetwork, fields)
        return cls(network, **about)


def save_network(path: Path, kind: str, network: nn.Module, about: Mapping[str, Any]) -> None:
    """A small network in a file of its own, written whole or not at all. Raises OSError."""
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    with whole(path) as beside:
        save_file(tensors, beside, metadata={kind: json.dumps(about)})


def load_network(
    path: Path, model: Backbone, kind: str, writer: str, wanted: str, make: Callable[[int, int], Any],
    fields: Mapping[str, type],
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """What `save_network` has written of a `kind` with the format `wanted`, for maps and words of this model, made by
    `make(channels, width)`; and these `fields` of what stands beside it.

    Raises ValueError for a file that is none, or belongs to a model of another shape.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            stored = json.loads((file.metadata() or {}).get(kind, "{}"))
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (not a dict)
        if stored.get("format") != wanted:
            raise ValueError(f"expected format {wanted!r}")
        about = {name: of_name(stored[name]) for name, of_name in fields.items()}
        own, its = Gate.sizes(model), (len(tensors["mean"]), tensors["word.weight"].shape[1])
        network = make(*its)
        network.load_state_dict(tensors)
        numbers = [value for value in about.values() if not isinstance(value, str)]
        if not (all(value >= 0 for value in numbers) and all(value.isfinite().all() for value in tensors.values())):
            raise ValueError("it holds what is no number, or one below 0")
    except (OSError, SafetensorError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a {kind} that {writer} has written: {one_line(error)}") from error
    if own != its:
        sizes = "maps of {} channels and words of width {}".format
        of = f"{path} is a {kind} of another model ({about['model']})"
        raise ValueError(f"{of}: {sizes(*its)}, here {sizes(*own)}")
    return network, about
