"""Everything a run continues from, in one object: weights, optimizer, step, loss so far, random state.

The step stands for the learning rate and the place in the data, which the plan knows. Weights are written under the
model's own keys, LoRA pairs included: all of them, so that a checkpoint is a model folder that loads, or where most is
frozen those that train. With DeepSpeed, whose shards the run continues from, they are for other programs. The random
state is torch's: samples have seeds of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..files import write_json
from .checkpoints import STEP_FILE
from .configuration import TrainingConfig
from .distributed import share_out_zero3
from .parts import PAIR_A, holds_trained_only, part_rows, total

OPTIMIZER_FILE = "optimizer.pt"
BASE_FILE, TRAINED_FILE = "base.json", "trained.safetensors"
SAMPLED = 1024
"""Values of each weight that are kept from before training, to tell whether it changed."""


class TrainState:
    """`model` is the bare model; `wrapped` is what computes: the same until `prepare`, then DDP, FSDP or DeepSpeed."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        optimizer: torch.optim.Optimizer,
        processor: Any,
        config: TrainingConfig,
    ) -> None:
        self.accelerator = accelerator
        self.model: Any = model
        self.wrapped: Any = model
        self.optimizer: Any = optimizer
        self.processor = processor
        several, rank = accelerator.num_processes > 1, accelerator.process_index
        self.random_file = f"rng_state_{rank}.pth" if several else "rng_state.pth"
        weights = dict(model.named_parameters())
        self.trained = [name for name, one in weights.items() if one.requires_grad]
        """Names of the weights that train."""
        self.trained_only = holds_trained_only(config, total(part_rows(model, config)))
        """Whether checkpoints leave out the others."""
        weights = weights if accelerator.is_main_process else {}  # which alone has read them
        frozen = sampled({name: one for name, one in weights.items() if not one.requires_grad})
        self.base = {"model": config.model, "fingerprint": fingerprint(frozen)}
        """What the others are; on the main process."""
        self.begun = sampled({name: weights[name] for name in self.trained if name in weights and PAIR_A not in name})
        """Some values of each weight before the first step, on the main process; of LoRA only B, which starts at 0: A
        alone is nothing."""
        self.strategy, self.is_prepared = "ddp", False
        self.step = 0
        """Finished ones."""
        self.total_loss = 0.0
        """The sum of all steps' losses."""
        self.evaluations: list[dict[str, float]] = []
        """All of the run so far, see evaluating.py: which step was best follows from them."""

    def prepare(self) -> None:
        """Share the main process's weights out and move them to the device. Once, before the first step."""
        plugin = self.accelerator.state.deepspeed_plugin
        if plugin is not None and plugin.zero_stage == 3:
            share_out_zero3(self.model, self.accelerator)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        self.strategy = {"FSDP": "fsdp", "DEEPSPEED": "zero"}.get(self.accelerator.distributed_type.value, "ddp")
        self.is_prepared = True

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights under the model's own keys, wherever they are; whole on the main process. For all together."""
        return self.model.state_dict() if self.strategy == "ddp" else self.accelerator.get_state_dict(self.wrapped)

    def files(self, folder: Path, *, copied: bool) -> list[Callable[[], object]]:
        """What writes this process's files of a checkpoint into an existing folder. For all processes together.

        Args:
            copied: training may go on before they are written; all tensors are copied into the host's memory.
        """
        keep, is_main = on_host if copied else lambda value: value, self.accelerator.is_main_process
        weights = self.weights() or {}  # ZeRO-3 gives the other processes nothing
        if self.trained_only:
            weights = {name: weights[name] for name in self.trained if name in weights}
        weights = keep(weights)
        files: list[Callable[[], object]] = []
        if is_main and self.trained_only:
            files.append(partial(write_trained, folder, self.base, weights))
        elif is_main:
            files.append(partial(self.model.save_pretrained, folder, state_dict=weights, save_original_format=False))
            if self.processor is not None:
                files.append(partial(self.processor.save_pretrained, folder))
        if is_main:
            state = {"step": self.step, "total_loss": self.total_loss, "evaluations": list(self.evaluations)}
            files.append(partial(write_json, folder / STEP_FILE, state))
        if self.strategy == "zero":
            engine = self.wrapped.checkpoint_engine
            engine.save = lambda state_dict, path: files.append(partial(torch.save, keep(state_dict), path))
            self.wrapped.save_checkpoint(str(folder), exclude_frozen_parameters=self.trained_only)
            del engine.save
        elif self.strategy == "fsdp":
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            optimizer = get_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, options=options)
        else:
            optimizer = self.optimizer.state_dict()
        if is_main and self.strategy != "zero":
            files.append(partial(torch.save, keep(optimizer), folder / OPTIMIZER_FILE))
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        random_state = {"cpu": torch.get_rng_state(), "cuda": cuda}  # copies
        return [*files, partial(torch.save, random_state, folder / self.random_file)]

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint whose weights are there. For all processes together, after `prepare`.

        Raises ValueError for a checkpoint of an earlier version, and where its shards belong to another model.
        """
        self.read_progress(folder)
        if self.strategy == "zero":
            self._load_shards(folder)
        else:
            self._load_optimizer(folder / OPTIMIZER_FILE)
        if (random_file := folder / self.random_file).exists():  # ddp may continue on another number of processes
            random_state = torch.load(random_file, weights_only=True)
            torch.set_rng_state(random_state["cpu"])
            if random_state["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(random_state["cuda"])

    def read_progress(self, folder: Path) -> None:
        """Take step, loss and evaluations of a checkpoint. Raises ValueError for one of an earlier version."""
        state = json.loads((folder / STEP_FILE).read_text("utf-8"))
        if "total_loss" not in state:
            raise ValueError(f"{folder} was written by an earlier version, which kept other things in {STEP_FILE}")
        self.step, self.total_loss, self.evaluations = state["step"], state["total_loss"], state.get("evaluations", [])

    def load_weights(self, folder: Path) -> None:
        """Put a checkpoint's weights into the model, whole or not at all. For all processes together.

        Before `prepare` only those of the main process count, which are shared out then. Raises ValueError where a
        weight is missing, unknown or of another shape.
        """
        if self.strategy == "zero":
            self._load_shards(folder)
            return
        if not self.is_prepared and not self.accelerator.is_main_process:
            return
        trained_only = (folder / TRAINED_FILE).is_file()
        files = [folder / TRAINED_FILE] if trained_only else sorted(folder.glob("model*.safetensors"))
        weights: dict[str, Any] = {key: one for file in files for key, one in load_file(file).items()}
        if problems := misfits(weights, self.model, self.trained if trained_only else None):
            raise ValueError(
                f"{folder} does not fit this model ({len(problems)} weights: {'; '.join(problems[:5])}): "
                "--model, --vision, --connector and --llm must be those of the run that wrote it"
            )
        if self.accelerator.is_main_process:
            check_base(folder, self.base)
        if self.strategy == "fsdp":
            set_model_state_dict(self.model, weights, options=StateDictOptions(full_state_dict=True, strict=False))
        else:
            self.model.load_state_dict(weights, strict=False)

    def _load_shards(self, folder: Path) -> None:
        """Weights and optimizer of DeepSpeed."""
        if self.accelerator.is_main_process:
            check_base(folder, self.base)
        whole = not (folder / TRAINED_FILE).is_file()
        self.wrapped.load_checkpoint(str(folder), load_lr_scheduler_states=False, load_module_strict=whole)

    def _load_optimizer(self, path: Path) -> None:
        whole = self.strategy != "fsdp" or self.accelerator.is_main_process  # with FSDP the others get their shares
        state = torch.load(path, map_location="cpu", weights_only=True) if whole else {}
        if self.strategy == "fsdp":
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, state, options=options)
        else:
            self.optimizer.load_state_dict(state)


def misfits(weights: dict[str, torch.Tensor], model: torch.nn.Module, names: list[str] | None = None) -> list[str]:
    """How `weights` differ from those of the model, or those `names` of it. Of weights that are tied one is enough."""
    ours, places = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    ours = ours if names is None else {name: places[name] for name in names}
    there = {id(places[key]) for key in weights if key in places}
    missing = [key for key in ours if key not in weights and id(places.get(key)) not in there]
    problems = [f"{key} is missing" for key in missing]
    problems += [f"{key} is unknown" for key in weights if key not in ours]
    shapes = {key: (tuple(one.shape), tuple(ours[key].shape)) for key, one in weights.items() if key in ours}
    return problems + [f"{key} is {one}, expected {other}" for key, (one, other) in shapes.items() if one != other]


def on_host(value: Any, copies: dict[Any, torch.Tensor] | None = None) -> Any:
    """A tree of dicts, lists and tuples with its tensors copied into the host's memory; tied ones stay one."""
    copies = {} if copies is None else copies
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), value.shape, value.dtype)
        if key not in copies or not value.numel():
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, dict):
        return {key: on_host(one, copies) for key, one in value.items()}
    return type(value)(on_host(one, copies) for one in value) if type(value) in (list, tuple) else value


def sampled(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """About SAMPLED values of each tensor, evenly spread: copies (K,) on the CPU."""
    steps = {name: max(1, weight.numel() // SAMPLED) for name, weight in weights.items()}
    return {name: one.detach().flatten()[:: steps[name]].to("cpu", copy=True) for name, one in weights.items()}


def fingerprint(sampled: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and some values of weights, whatever lossless dtype they are held in."""
    found = hashlib.sha256()
    for name in sorted(sampled):
        found.update(name.encode() + sampled[name].float().numpy().tobytes())
    return found.hexdigest()


def write_trained(folder: Path, base: dict[str, str], weights: Mapping[str, torch.Tensor]) -> None:
    """Write trained weights, and which model they belong to."""
    save_file({key: weight.contiguous() for key, weight in weights.items()}, folder / TRAINED_FILE)
    write_json(folder / BASE_FILE, base)


def check_base(folder: Path, base: dict[str, str]) -> None:
    """Raise ValueError where a checkpoint holds trained weights only, and they belong to another model."""
    if not (folder / BASE_FILE).is_file():
        return
    written = json.loads((folder / BASE_FILE).read_text("utf-8"))
    if written["fingerprint"] != base["fingerprint"]:
        raise ValueError(
            f"{folder} holds trained weights alone, which belong to --model {written['model']}: the frozen weights of "
            f"--model {base['model']} are not those they were trained with; give the run its model back"
        )
