"""A gate: a small network on readouts that says when to speak. Trained in minutes, the model itself stays as it is.

It sees three layers' outputs at the last position, now and one and two seconds before (an event is a change), and the
margin of Yes over No at each. L layers, D their width, F = 3 (L * D + 1) features, M members that are averaged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import SHIPPED_MODELS, whole
from ..model.backbone import Backbone
from .standing import Readout, Scorer

FORMAT = "videochat-online gate 1"
GATE_FILE = "gate.safetensors"
"""Its name beside a model's weights."""
LOOKS = (0.0, 1.0, 2.0)
"""Seconds before now at which readouts are taken."""
SLACK = 0.25
MEMBERS, UNITS = 3, 64


@dataclass(frozen=True)
class GateFacts:
    """What a gate is for."""

    layers: tuple[int, ...]
    width: int
    threshold: float
    """For about one false alarm a minute and instruction, on streams that it was not trained on."""
    model: str

    @classmethod
    def of(cls, model: Backbone, name: str, threshold: float = 0.5) -> GateFacts:
        """The layers at a third, two thirds and the end of a model's."""
        config = model.config.llm_config
        num = config.num_hidden_layers
        return cls((num // 3, 2 * num // 3, num), config.hidden_size, threshold, Path(name).name)


def looked_at(now: Readout, earlier: Sequence[Readout]) -> torch.Tensor:
    """(F,) features of a moment; where the stream is younger than a look, its oldest readout stands in."""
    known = [*earlier, now]
    parts = []
    for look in LOOKS:
        chosen = next((one for one in reversed(known) if now.time - one.time >= look - SLACK), known[0])
        assert chosen.hidden is not None, "a gate's readouts hold the layers' outputs"
        parts += [chosen.hidden.flatten().float(), torch.tensor([chosen.yes])]
    return torch.cat(parts)


def features_of(readouts: Sequence[Readout]) -> torch.Tensor:
    """(T, F) of an instruction's readouts, as a session would have them one by one."""
    rows, kept = [], list[Readout]()
    for now in readouts:
        kept = [one for one in kept if now.time - one.time <= Gate.seconds]
        rows.append(looked_at(now, kept))
        kept.append(now)
    return torch.stack(rows)


def gate_beside(model: str | Path) -> Path | None:
    """The gate in a model's folder, where there is one; also of the model that ships."""
    path = Path(SHIPPED_MODELS.get(str(model), model)) / GATE_FILE
    return path if path.is_file() else None


class GateNetwork(nn.Module):
    """Features (B, F) -> logits (B, M)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(num_features))
        self.scale = nn.Buffer(torch.ones(num_features))
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(0.3), nn.Linear(num_features, UNITS), nn.GELU(), nn.Dropout(0.3), nn.Linear(UNITS, 1)
            )
            for _ in range(MEMBERS)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scaled = ((features - self.mean) * self.scale).clamp(-10, 10)
        return torch.cat([member(scaled) for member in self.members], dim=1)


class Gate(Scorer):
    """The scorer that `StreamingSession.scorer` takes."""

    seconds = max(LOOKS) + 1

    def __init__(self, network: GateNetwork, facts: GateFacts) -> None:
        self.network, self.facts, self.layers = network.eval(), facts, facts.layers

    @torch.no_grad()
    def __call__(self, now: Readout, earlier: Sequence[Readout]) -> float:
        return float(self.network(looked_at(now, earlier)[None]).mean().sigmoid())

    @torch.no_grad()
    def series(self, readouts: Sequence[Readout]) -> list[float]:
        """P at each of an instruction's readouts."""
        return self.network(features_of(readouts)).mean(1).sigmoid().tolist()

    def save(self, path: Path) -> None:
        """Written whole or not at all. Raises OSError."""
        about = json.dumps({"format": FORMAT, **asdict(self.facts)})
        with whole(path) as beside:
            save_file(self.network.state_dict(), beside, metadata={"gate": about})

    @classmethod
    def load(cls, path: Path, model: Backbone) -> Gate:
        """Raises ValueError for a file that is none, or belongs to a model of another shape."""
        try:
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("gate", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is not a gate that `gate train` has written ({error})") from error
        if about.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is not a gate that `gate train` has written: expected format {FORMAT!r}")
        facts = GateFacts(**{**about, "layers": tuple(about["layers"])})
        own = GateFacts.of(model, "")
        if (facts.layers, facts.width) != (own.layers, own.width):
            what = f"layers {facts.layers} of width {facts.width}, this model has {own.layers} of {own.width}"
            raise ValueError(f"{path} is a gate of another model ({facts.model}): it reads {what}")
        network = GateNetwork(len(tensors["mean"]))
        network.load_state_dict(tensors)
        return cls(network, facts)
