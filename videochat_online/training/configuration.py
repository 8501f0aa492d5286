"""Every setting of a training run, in one checked dataclass, and the presets. The defaults are the published recipe.

The flags, the files of settings and the run's settings.json are made from these fields; a text under a field is its
help. Source of the recipe: arXiv 2501.00584, section 4.3 and appendix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..data.settings import OURS, DataSettings, SettingError, flag
from ..files import SHIPPED_MODELS

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")

PARTS = {
    "vision": ("frozen", "full", "last:N", "lora:RANK[:ALPHA]"),
    "connector": ("frozen", "full"),
    "llm": ("frozen", "full", "lora:RANK[:ALPHA]"),
}
"""What may train of each part of the model."""

MAY_CHANGE = frozenset(
    {"resume", "output_dir", "data", "save_every", "keep_checkpoints", "log_every", "tracker", "num_workers",
     "frame_cache", "decoder", "attention", "gradient_checkpointing", "cpu", "export_dtype"}
)  # fmt: skip
"""Settings that a resumed run may have changed: none of them changes what is learned. (Data is compared by what is in
it, see run.py: a list may lie elsewhere.)"""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(DataSettings):
    """Raises SettingError, which names the flags, for all values that fields cannot have."""

    model: str = "OpenGVLab/InternVL2-4B"
    """'pocket' (ships with the package), a folder, or a hub id"""
    data: tuple[str, ...] = ()
    """data-set lists (json files of anno_data/)"""
    output_dir: str = ""
    """folder of the run: settings, logs, checkpoints and, at the end, the trained model in model/"""
    resume: str = "never"
    """never, auto (the newest complete checkpoint of --output-dir; none: a fresh start) or a checkpoint"""

    vision: str = "frozen"
    """what trains of the vision encoder: frozen, full, last:N (its last N layers) or lora:RANK[:ALPHA]"""
    connector: str = "full"
    """frozen or full"""
    llm: str = "full"
    """what trains of the language model: frozen, full or lora:RANK[:ALPHA]"""
    lora_dropout: float = 0.05
    """on the input of each LoRA pair"""
    drop_path: float = 0.1
    """stochastic depth of the vision encoder"""

    batching: Literal["shuffled", "grouped", "packed"] = "grouped"
    """shuffled, grouped (samples of like length together) or packed (several samples fill one sequence)"""
    num_workers: int | None = None
    """processes that read data, for each training process, one thread each (default: all cores but one for each
    training process on the machine, 16 at most)"""

    learning_rate: float = 1e-4
    """its highest value"""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """how the learning rate falls after the warm-up"""
    warmup: float = 0.03
    """below 1 a share of all steps, else a number of steps"""
    weight_decay: float = 0.05
    """on all trained weights but biases, LayerNorm and what --no-decay-norms adds"""
    decay_norms: bool = True
    """on RMSNorm too, as published (but for Llama's); without, no norm is drawn to 0 by a long training"""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    loss_reduction: Literal["batch", "sample", "square", "token"] = "batch"
    """what counts alike in a step: batch (published: what a process takes at once), sample (the same with --batch-size
    1, and right where packed), token (long answers weigh more, batching plays no part) or square (between the two)"""
    max_grad_norm: float = 1.0
    """gradients are scaled down to this norm; 0: never"""
    epochs: float = 1.0
    """passes over the data"""
    min_steps: int = 0
    """where --epochs give fewer steps than this, pass over the data until there are as many"""
    max_steps: int = -1
    """end after this many steps instead of after --epochs; -1: no limit"""
    global_batch_size: int = 1024
    """samples of one step, over all processes; with --batching packed the mean number"""
    batch_size: int = 1
    """samples that one process takes at once; with --batching packed: sequences"""

    strategy: str = "ddp"
    """how several processes share the work: ddp, zero1, zero2, zero3, fsdp, or a DeepSpeed json file"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16, fp32, or auto: bf16 where the GPU has it"""
    gradient_checkpointing: bool = True
    """recompute activations in the backward pass instead of keeping them"""
    attention: str = "auto"
    """auto (torch's sdpa), sdpa, eager or flash_attention_2"""
    cpu: bool = False
    """train on the CPU although there is a GPU"""

    save_every: int = 200
    """steps between checkpoints"""
    keep_checkpoints: int = 2
    """newest complete checkpoints that are kept"""
    export_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """of the trained model's file; auto: bfloat16 where --precision is bf16"""
    log_every: int = 10
    """steps between lines of the log"""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """where curves go: tensorboard (output_dir/logs), wandb or none"""

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        for name in ("global_batch_size", "batch_size", "save_every", "log_every", "keep_checkpoints"):
            yield from self._unless(getattr(self, name) >= 1, name, "at least 1")
        for name in ("learning_rate", "epochs"):
            yield from self._unless(getattr(self, name) > 0, name, "above 0")
        for name in ("drop_path", "lora_dropout", "adam_beta1", "adam_beta2"):
            yield from self._unless(0 <= getattr(self, name) < 1, name, "from 0 to below 1")
        for name in ("warmup", "weight_decay", "adam_epsilon", "max_grad_norm", "min_steps"):
            yield from self._unless(getattr(self, name) >= 0, name, "at least 0")
        yield from self._unless((self.num_workers or 0) >= 0, "num_workers", "at least 0")
        yield from self._unless(self.max_steps == -1 or self.max_steps >= 1, "max_steps", "-1 or at least 1")
        for name in PARTS:
            try:
                self.part(name)
            except SettingError as error:
                yield str(error)
        is_known = self.strategy in STRATEGIES or self.strategy.endswith(".json")
        yield from self._unless(is_known, "strategy", f"one of {', '.join(STRATEGIES)} or a .json file")
        if {self.vision, self.connector, self.llm} == {"frozen"}:
            yield "--vision, --connector and --llm are all frozen: nothing would train"

    def part(self, name: str) -> tuple[str, list[float]]:
        """What trains of vision, connector or llm, and its numbers: `lora:16:32` -> ("lora", [16, 32]).

        LoRA's alpha is twice the rank where it is not given. Raises SettingError for another form or number.
        """
        value = getattr(self, name)
        kind, *texts = value.split(":")
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = [-1.0]
        fewest, most = {"last": (1, 1), "lora": (1, 2)}.get(kind, (0, 0))
        whole = all(map(math.isfinite, numbers)) and all(map(float.is_integer, numbers[:1]))
        known = kind in [form.split(":")[0] for form in PARTS[name]]
        if not known or not fewest <= len(numbers) <= most or not whole or min(numbers, default=1) <= 0:
            expected = ", ".join(PARTS[name])
            raise SettingError(f"{flag(name)} must be one of {expected} (numbers above 0), got {value!r}")
        if kind == "lora" and len(numbers) == 1:
            numbers.append(2 * numbers[0])
        return kind, numbers

    def check_complete(self) -> None:
        """Raise SettingError where a run could not start: no data, no folder."""
        expected = {
            "data": "name a data-set list or more, such as anno_data/stage2_online.json",
            "output_dir": "the folder that settings, logs and checkpoints go to",
        }
        if missing := [name for name in expected if not getattr(self, name)]:
            raise SettingError("; ".join(f"{flag(name)} is missing: {expected[name]}" for name in missing))

    @property
    def run_folder(self) -> Path:
        return Path(self.output_dir)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "data": list(self.data)}


FIELDS = tuple(field.name for field in fields(TrainingConfig))

PRESETS: dict[str, dict[str, Any]] = {
    "stage1": {"model": "OpenGVLab/InternVL2-4B", "data": ("anno_data/stage1_offline.json",)},
    "stage2": {"model": "runs/online_4b_stage1/model", "data": ("anno_data/stage2_online.json",)},
    "finetune": {
        "model": "MCG-NJU/VideoChatOnline-4B",
        "llm": "lora:32",
        "learning_rate": 2e-4,
        "drop_path": 0.0,
        "frame_times": "always",
        "loss_reduction": "token",
        "decay_norms": False,
        "global_batch_size": 4,
        "epochs": 3.0,
        "min_steps": 200,
        "save_every": 100,
    },
}
"""What differs from the defaults. stage1: the paper's offline fine-tuning on images and whole videos. stage2: its joint
fine-tuning on online dialogues and the offline sets, from stage 1's model (the published script starts from
InternVL2-4B again; the paper's text says progressive). finetune: a trained model on tens to thousands of samples of
one's own, connector and LoRA, in many small steps, frames with their second as sessions show them; loss and decay are
ours, the prompts those that the released weights know."""

FINETUNE_SMALL: dict[str, Any] = {
    "llm": "full",
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "num_workers": 1,
}
"""What a small language model changes of it: memory is no matter, and an epoch is over before four workers are up.
Six clips with pocket: 200 steps of LoRA at 1e-3 end at loss 2.9, of this at 0.01; LoRA leaves the word vectors alone,
and a small vocabulary has to learn the words of one's own data."""
SMALL_WIDTH = 1024

EARLIER: dict[str, Any] = {**OURS, "loss_reduction": "token", "decay_norms": False}
"""What a run of version 0.1 did where its settings do not say it."""


def is_small(model: str) -> bool:
    """Whether a model's folder says that its language model is narrower than SMALL_WIDTH; what is on a hub is not."""
    try:
        path = SHIPPED_MODELS.get(model, Path(model)) / "config.json"
        width = json.loads(path.read_text("utf-8"))["llm_config"]["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # loading the model says what is wrong with it
    return bool(width < SMALL_WIDTH)
