"""The weights of a training checkpoint: the model's own keys, LoRA pairs included; loaded whole or not at all.

Under DeepSpeed and FSDP a run goes on from their shards; what is saved here is then for other programs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .checkpoints import ResumeError
from .lora import PAIR_A

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SAMPLED = 1024
"""Values of each weight that are kept from before training, to tell whether it changed."""


def save_weights(model: Any, folder: str, state_dict: dict[str, Any] | None) -> None:
    """config.json and model.safetensors (or shards with an index) under the model's own keys."""
    model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)


def load_weights(model: Any, folder: Path) -> None:
    """Put a checkpoint's weights into the model; ResumeError where one is missing, strange or of another shape."""
    check_weights(model, folder)
    from safetensors.torch import load_file

    for file in weight_files(folder):
        model.load_state_dict(load_file(file, device="cpu"), strict=False)  # its keys are among the checked ones


def weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        names = set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values())
        return sorted(folder / name for name in names)
    return [folder / SINGLE]


def check_weights(model: Any, folder: Path) -> None:
    """Raise ResumeError, naming them, unless the checkpoint holds exactly the model's weights in their shapes."""
    theirs = _saved_shapes(folder)
    ours = {key: tuple(weight.shape) for key, weight in model.state_dict().items()}
    tied = _tied_keys(model)
    problems = [f"{key} is missing" for key in ours.keys() - theirs.keys() - tied]
    problems += [f"{key} is unknown" for key in theirs.keys() - ours.keys()]
    both = ours.keys() & theirs.keys()
    problems += [f"{key} is {theirs[key]}, expected {ours[key]}" for key in both if ours[key] != theirs[key]]
    if problems:
        raise ResumeError(
            f"{folder} does not fit this model ({len(problems)} weights: {'; '.join(sorted(problems)[:5])}): "
            "--model, --vision, --connector and --llm must be those of the run that wrote it"
        )


def _saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no dict)
    return shapes


def _tied_keys(model: Any) -> set[str]:
    """Keys of weights that stand under another key too; a file holds them once."""
    first: dict[int, str] = {}
    tied = set()
    for key, weight in model.named_parameters(remove_duplicate=False):
        if id(weight) in first:
            tied |= {key, first[id(weight)]}
        first.setdefault(id(weight), key)
    return tied


def sampled_weights(model: Any) -> dict[str, Any]:
    """Some values of each weight that trains, on the CPU. Of LoRA only B, which starts at 0: A alone is nothing."""
    trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    return {name: spaced(weight).clone() for name, weight in trained if PAIR_A not in name}


def spaced(weight: Any) -> Any:
    """About SAMPLED of a tensor's values, evenly spread, (K,) on the CPU."""
    return weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)].cpu()
