"""Everything a run continues from, in one object: weights, optimizer, step, loss so far, random state.

The step stands for the learning rate and the place in the data, which the plan knows. Weights are written under the
model's own keys, LoRA pairs included, so that a checkpoint is a model folder that loads; with DeepSpeed, whose shards
the run continues from, they are for other programs.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..files import write_json
from .checkpoints import ResumeError
from .parts import PAIR_A

if TYPE_CHECKING:
    from accelerate import Accelerator

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
STEP_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.pt"
SAMPLED = 1024
"""Values of each weight that are kept from before training, to tell whether it changed."""


class TrainState:
    """`model` is the bare model; `wrapped` is what computes: the same until `prepare`, then DDP, FSDP or DeepSpeed."""

    def __init__(self, accelerator: Accelerator, model: Any, optimizer: torch.optim.Optimizer, processor: Any) -> None:
        self.accelerator = accelerator
        self.model: Any = model
        self.wrapped: Any = model
        self.optimizer: Any = optimizer
        self.processor = processor
        self.begun = sampled_weights(model)
        """Some values of each weight before the first step."""
        self.strategy = "ddp"
        self.step = 0
        """Finished ones."""
        self.total_loss = 0.0
        """The sum of all steps' losses."""

    def prepare(self) -> None:
        """Share the weights out and move them to the device. Once, before the first step."""
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        self.strategy = {"FSDP": "fsdp", "DEEPSPEED": "zero"}.get(self.accelerator.distributed_type.value, "ddp")

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights under the model's own keys, wherever they are; whole on the main process. For all together."""
        return self.model.state_dict() if self.strategy == "ddp" else self.accelerator.get_state_dict(self.wrapped)

    def save(self, folder: Path) -> None:
        """Write a checkpoint's files into an existing folder. For all processes together."""
        weights, is_main = self.weights(), self.accelerator.is_main_process
        if is_main:
            self.model.save_pretrained(folder, state_dict=weights, save_original_format=False)
            if self.processor is not None:
                self.processor.save_pretrained(folder)
            write_json(folder / STEP_FILE, {"step": self.step, "total_loss": self.total_loss})
        if self.strategy == "zero":
            self.wrapped.save_checkpoint(str(folder))
        else:
            optimizer = self._optimizer_state()
            if is_main:
                torch.save(optimizer, folder / OPTIMIZER_FILE)
        torch.save(random_state(), folder / self._random_file())

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint. For all processes together, after `prepare`.

        Raises ResumeError where a weight is missing, unknown or of another shape, and for a checkpoint of an earlier
        version.
        """
        state = json.loads((folder / STEP_FILE).read_text("utf-8"))
        if "total_loss" not in state:
            raise ResumeError(f"{folder} was written by an earlier version, which kept other things in {STEP_FILE}")
        if self.strategy == "zero":
            self.wrapped.load_checkpoint(str(folder), load_lr_scheduler_states=False)
        else:
            self.load_weights(folder)
            self._load_optimizer(folder / OPTIMIZER_FILE)
        self.step, self.total_loss = state["step"], state["total_loss"]
        random_file = folder / self._random_file()
        if random_file.exists():  # ddp may continue on another number of processes
            restore_random_state(torch.load(random_file, weights_only=False))

    def load_weights(self, folder: Path) -> None:
        """Put a checkpoint's weights into the model, whole or not at all; see `load` for the errors."""
        check_weights(self.model, folder)
        from safetensors.torch import load_file

        for file in weight_files(folder):
            weights: dict[str, Any] = load_file(file, device="cpu")  # its keys are among the checked ones
            if self.strategy == "fsdp":
                from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

                set_model_state_dict(self.model, weights, options=StateDictOptions(full_state_dict=True, strict=False))
            else:
                self.model.load_state_dict(weights, strict=False)

    def _optimizer_state(self) -> dict[str, Any]:
        if self.strategy != "fsdp":
            return self.optimizer.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, options=options)

    def _load_optimizer(self, path: Path) -> None:
        if self.strategy != "fsdp":
            self.optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        state = torch.load(path, map_location="cpu", weights_only=True) if self.accelerator.is_main_process else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, state, options=options)

    def _random_file(self) -> str:
        several = self.accelerator.num_processes > 1
        return f"rng_state_{self.accelerator.process_index}.pth" if several else "rng_state.pth"


def random_state() -> dict[str, Any]:
    """Of this process: everything that draws on its own."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


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


def sampled_weights(model: Any) -> dict[str, torch.Tensor]:
    """Some values of each weight that trains, on the CPU. Of LoRA only B, which starts at 0: A alone is nothing."""
    trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    return {name: spaced(weight).clone() for name, weight in trained if PAIR_A not in name}


def spaced(weight: torch.Tensor) -> torch.Tensor:
    """About SAMPLED of a tensor's values, evenly spread, (K,) on the CPU."""
    return weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)].cpu()
