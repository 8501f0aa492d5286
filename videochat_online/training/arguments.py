"""Every setting of a training run, in one checked dataclass. The defaults are the published recipe.

Where values come from (presets, files, flags) is resolve.py's business; a text under a field is its help in --help.
Source of the recipe: arXiv 2501.00584, section 4.3 and appendix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..data.mixing import Mixing
from ..data.settings import FrameTimes

Batching = Literal["shuffled", "grouped", "packed"]
Precision = Literal["auto", "bf16", "fp32"]
Tracker = Literal["tensorboard", "wandb", "none"]
Schedule = Literal["cosine", "linear", "constant_with_warmup"]
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")

MAY_CHANGE = frozenset(
    {"resume", "output_dir", "data", "save_every", "keep_checkpoints", "log_every", "tracker", "num_workers",
     "frame_cache", "attention", "gradient_checkpointing", "cpu", "export_dtype"}
)  # fmt: skip
"""Settings that a resumed run may have changed: none of them changes what is learned. (Data is compared by what is in
it, see record.py: a list may lie elsewhere.)"""


class SettingError(ValueError):
    """A setting with a value it cannot have. Names the flag."""


@dataclass(kw_only=True)
class TrainingConfig:
    model: str = "OpenGVLab/InternVL2-4B"
    """'pocket' (ships with the package), a folder, or a hub id"""
    data: tuple[str, ...] = ()
    """data-set lists (json files of anno_data/)"""
    output_dir: str = ""
    """folder of the run: settings, logs, checkpoints and, at the end, the trained model in model/"""
    resume: str = "never"
    """never, auto (the newest complete checkpoint of --output-dir; none: a fresh start) or a checkpoint"""
    seed: int = 42
    """of the order of samples, drop path and new weights"""

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

    num_frames: int = 64
    """frames of a video at most"""
    fps: float = 1.0
    """frames taken a second"""
    max_length: int = 32768
    """tokens of a sequence at most"""
    batching: Batching = "grouped"
    """shuffled, grouped (samples of like length together) or packed (several samples fill one sequence)"""
    max_dynamic_patch: int | None = None
    """tiles a still image is cut into at most, where its set does not say (default: the model's number)"""
    frame_times: FrameTimes = "online"
    """whose frames carry their second: those of dialogues with timestamps, all, or none"""
    mixing: Mixing = "proportional"
    """sqrt: a set's share of an epoch goes with the square root of its size"""
    max_failed_share: float = 0.05
    """share of samples that may be unreadable before the run ends with an error"""
    num_workers: int = 4
    """processes that read data, for each training process"""
    frame_cache: str = ""
    """folder that keeps the decoded frames of video files, each a size x size x 3 bytes; they are decoded once then"""

    learning_rate: float = 1e-4
    """its highest value"""
    schedule: Schedule = "cosine"
    """how the learning rate falls after the warm-up"""
    warmup: float = 0.03
    """below 1 a share of all steps, else a number of steps"""
    weight_decay: float = 0.05
    """on all trained weights but biases and norms"""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
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
    precision: Precision = "auto"
    """bf16, fp32, or auto: bf16 where the GPU has it"""
    gradient_checkpointing: bool = True
    """compute activations again in the backward pass instead of keeping them"""
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
    tracker: Tracker = "tensorboard"
    """where curves go: tensorboard (output_dir/logs), wandb or none"""

    def __post_init__(self) -> None:
        self.data = tuple(self.data)
        self._check_choices()
        self._check_numbers()
        check_part("--vision", self.vision, ("frozen", "full", "last", "lora"))
        check_part("--connector", self.connector, ("frozen", "full"))
        check_part("--llm", self.llm, ("frozen", "full", "lora"))
        if self.strategy not in STRATEGIES and not self.strategy.endswith(".json"):
            known = ", ".join(STRATEGIES)
            raise SettingError(f"--strategy must be one of {known} or a .json file, got {self.strategy!r}")
        if {self.vision, self.connector, self.llm} == {"frozen"}:
            raise SettingError("--vision, --connector and --llm are all frozen: nothing would train")

    def _check_choices(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                known = ", ".join(get_args(hint))
                self._require(name, getattr(self, name) in get_args(hint), f"one of {known}")

    def _check_numbers(self) -> None:
        counts = ("num_frames", "max_length", "global_batch_size", "batch_size", "save_every", "log_every")
        for name in (*counts, "keep_checkpoints"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "fps", "epochs"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("drop_path", "lora_dropout", "max_failed_share", "adam_beta1", "adam_beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        for name in ("warmup", "weight_decay", "max_grad_norm", "num_workers", "min_steps"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        patches = self.max_dynamic_patch
        self._require("max_dynamic_patch", patches is None or patches >= 1, "at least 1")
        self._require("max_steps", self.max_steps == -1 or self.max_steps >= 1, "-1 or at least 1")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise SettingError(f"{flag(name)} must be {what}, got {getattr(self, name)!r}")

    def check_complete(self) -> None:
        """Raise SettingError where a run could not start: no data, no folder."""
        if not self.data:
            raise SettingError("--data is missing: name a data-set list or more, such as anno_data/stage2_online.json")
        if not self.output_dir:
            raise SettingError("--output-dir is missing: the folder that settings, logs and checkpoints go to")

    @property
    def run_folder(self) -> Path:
        return Path(self.output_dir)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "data": list(self.data)}


def flag(name: str) -> str:
    """The flag of a setting: learning_rate -> --learning-rate."""
    return "--" + name.replace("_", "-")


def check_part(name: str, value: str, allowed: Sequence[str]) -> tuple[str, list[float]]:
    """`lora:16:32` -> ("lora", [16, 32]). Raises SettingError for another form or number."""
    kind, *numbers = value.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = [-1.0]
    counts = {"last": (1, 1), "lora": (1, 2)}.get(kind, (0, 0))
    whole = all(number.is_integer() for number in values[:1])
    if kind not in allowed or not counts[0] <= len(values) <= counts[1] or not whole or any(v <= 0 for v in values):
        forms = {"last": "last:N", "lora": "lora:RANK[:ALPHA]"}
        expected = ", ".join(forms.get(one, one) for one in allowed)
        raise SettingError(f"{name} must be one of {expected} (numbers above 0), got {value!r}")
    return kind, values


def field_names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(TrainingConfig))
