"""Every setting of a training run, in one checked dataclass, and the presets. The defaults are the published recipe.

The flags, the files of settings and the run's settings.json are made from these fields; a text under a field is its
help. Source of the recipe: arXiv 2501.00584, section 4.3 and appendix.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
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

RANGES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    ("at least 1", lambda value: value >= 1,
     ("global_batch_size", "batch_size", "save_every", "log_every", "keep_checkpoints", "eval_rows",
      "sequence_parallel", "loss_chunks")),
    ("above 0", lambda value: value > 0, ("learning_rate", "epochs", "timeout")),
    ("from 0 to below 1", lambda value: 0 <= value < 1, ("drop_path", "lora_dropout", "adam_beta1", "adam_beta2")),
    ("at least 0", lambda value: value is None or value >= 0,
     ("warmup", "weight_decay", "adam_epsilon", "max_grad_norm", "min_steps", "eval_every", "eval_answers",
      "early_stop", "num_workers")),
    ("from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32, ("seed",)),
    ("a year at most (525600)", lambda value: value <= 60 * 24 * 365, ("timeout",)),
    ("-1 or at least 1", lambda value: value == -1 or value >= 1, ("max_steps",)),
    ("from 0 to 0.5", lambda value: 0 <= value <= 0.5, ("eval_share",)),
)  # fmt: skip
"""What a number may be, whether it is, and the settings of which that is asked."""

MAY_CHANGE = frozenset(
    {"resume", "output_dir", "data", "save_every", "keep_checkpoints", "log_every", "tracker", "num_workers",
     "frame_cache", "decoder", "attention", "gradient_checkpointing", "cpu", "export_dtype", "export_step",
     "eval_every", "eval_answers", "early_stop", "async_checkpoints", "timeout", "sequence_parallel", "loss_chunks",
     "frozen_dtype", "memory_limit", "checkpoint_weights", "export", "push_to_hub", "private"}
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
    lora_variant: Literal["lora", "rslora", "dora"] = "lora"
    """lora, rslora (scaled by the root of the rank, arXiv 2312.03732) or dora (lengths of the weights' rows train by
    themselves, arXiv 2402.09353)"""
    quantize: Literal["none", "nf4", "int8"] = "none"
    """hold the frozen linear layers of the language model in 4 (nf4: QLoRA, arXiv 2305.14314) or 8 bits"""
    quantize_vision: bool = False
    """those of the vision encoder too"""
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
    """what counts alike in a step: batch (published: what a process takes at once; packed: each sample), sample (the
    same with --batch-size 1), token (long answers weigh more, batching plays no part) or square (between the two)"""
    loss_chunks: int = 1
    """parts in which logits and loss are made, one after another and again in the backward pass: a fraction of their
    memory (see --check) for a second pass through the last layer; loss and gradients are the same"""
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
    sequence_parallel: int = 1
    """so many processes share each sequence, where one GPU has no room for it; --batch-size 1, a strategy but fsdp"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16, fp32, or auto: bf16 where the GPU has it"""
    frozen_dtype: Literal["auto", "float32"] = "auto"
    """of weights that do not train; auto: bfloat16 where --precision is bf16 (published weights lose nothing by it)"""
    gradient_checkpointing: Literal["all", "vision", "llm", "none"] = "all"
    """where activations are computed again in the backward pass instead of kept: all, vision, llm or none"""
    memory_limit: str = ""
    """memory of each GPU, such as 24GiB: a run that is estimated to want more is refused, and told settings that fit"""
    attention: str = "auto"
    """auto (torch's sdpa; packed: each sample by itself, without a mask of the whole sequence), sdpa, eager or
    flash_attention_2"""
    timeout: float = 30.0
    """minutes without progress (in reading data, computing or saving) after which a run of several processes ends and
    names the one that is missing"""
    cpu: bool = False
    """train on the CPU although there is a GPU"""

    eval_data: tuple[str, ...] = ()
    """data-set lists of held-out rows: their loss and answers are looked at during training, nothing is learned from
    them"""
    eval_share: float = 0.0
    """without --eval-data, hold out about this share of the rows of --data (at most 0.5), whole videos and images; 0.05
    of 1,000 rows is 50"""
    eval_rows: int = 256
    """held-out rows at most: each evaluation reads all of them, always the same ones"""
    eval_every: int = 0
    """steps between evaluations (default: --save-every); one more comes before the first step and after the last"""
    eval_answers: int = 32
    """held-out questions at most that are answered in words, and compared with the right answer"""
    early_stop: int = 0
    """end after this many evaluations in a row without a lower held-out loss; 0: never"""
    export_step: Literal["best", "last"] = "best"
    """whose weights become the trained model: best (lowest held-out loss; without evaluation the last) or last"""

    save_every: int = 200
    """steps between checkpoints"""
    async_checkpoints: bool = False
    """copy the state to the host's memory and write it while training goes on: takes room there for one checkpoint"""
    keep_checkpoints: int = 2
    """newest complete checkpoints that are kept"""
    checkpoint_weights: Literal["auto", "all", "trained"] = "auto"
    """what checkpoints hold: all weights, only those that are trained (and which model they belong to), or auto: only
    those where they are less than half of the model"""
    export: Literal["merged", "adapter"] = "merged"
    """the trained model: merged (a whole model) or adapter (LoRA pairs and connector, as the package peft has them)"""
    export_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """of the trained model's file; auto: bfloat16 where --precision is bf16"""
    log_every: int = 10
    """steps between lines of the log"""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """where curves go: tensorboard (output_dir/logs), wandb or none"""
    push_to_hub: str = ""
    """ORG/NAME: the repository of the Hugging Face hub that the trained model goes to at the end"""
    private: bool = False
    """a repository that --push-to-hub makes is not public"""

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        for expected, holds, names in RANGES:
            for name in names:
                yield from self._unless(holds(getattr(self, name)), name, expected)
        for name in ("eval_every", "early_stop"):
            if getattr(self, name) and not self.evaluates:
                yield f"{flag(name)} {getattr(self, name)} needs held-out rows: give --eval-data LIST or --eval-share X"
        for name in PARTS:
            try:
                self.part(name)
            except SettingError as error:
                yield str(error)
        yield from self._problems_of_sharing()
        if {self.vision, self.connector, self.llm} == {"frozen"}:
            yield "--vision, --connector and --llm are all frozen: nothing would train"
        if self.quantize != "none":
            yield from self._unless(self.llm != "full", "llm", f"frozen or lora:RANK with --quantize {self.quantize}")
            is_known = (self.quantize, self.lora_variant) != ("int8", "dora")
            yield from self._unless(is_known, "lora_variant", "lora or rslora with --quantize int8")
            yield from self._unless(self.strategy == "ddp", "strategy", f"ddp with --quantize {self.quantize}")
            yield from self._unless(self.checkpoint_weights != "all", "checkpoint_weights", "trained with --quantize")
        elif self.quantize_vision:
            yield "--quantize-vision needs --quantize nf4 or int8"
        if self.export == "adapter":
            kinds = [self.vision.split(":")[0], self.llm.split(":")[0]]
            if "lora" not in kinds or not {"lora", "frozen"}.issuperset(kinds):
                yield f"--export adapter needs --llm or --vision lora:RANK, the other frozen or lora, got {kinds}"
        if self.memory_limit:
            yield from self._unless(size_of(self.memory_limit) is not None, "memory_limit", "a size such as 24GiB")
        if self.push_to_hub:
            is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to_hub)
            yield from self._unless(bool(is_id), "push_to_hub", "of the form ORG/NAME")

    def _problems_of_sharing(self) -> Iterator[str]:
        """Of the way in which several processes share the work."""
        is_known = self.strategy in STRATEGIES or self.strategy.endswith(".json")
        yield from self._unless(is_known, "strategy", f"one of {', '.join(STRATEGIES)} or a .json file")
        if self.sequence_parallel > 1:
            for name, values in {"batch_size": (1,), "strategy": ("ddp", *STRATEGIES[1:4])}.items():
                known = getattr(self, name) in values or str(getattr(self, name)).endswith(".json")
                expected = f"{' or '.join(map(str, values))} with --sequence-parallel"
                yield from self._unless(known, name, expected)
            if self.attention == "eager" or (self.batching == "packed" and self.attention != "flash_attention_2"):
                yield (
                    "--sequence-parallel needs --attention sdpa, or flash_attention_2, which alone sees where packed "
                    f"samples begin; got --attention {self.attention}, --batching {self.batching}"
                )

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

    def checkpoints_gradients(self, name: str) -> bool:
        """Whether activations of a part, vision or llm, are computed again."""
        return self.gradient_checkpointing in ("all", name)

    def lora_scale(self, name: str) -> float:
        """By what the product of a LoRA pair of a part is multiplied."""
        _, (rank, alpha) = self.part(name)
        return alpha / (math.sqrt(rank) if self.lora_variant == "rslora" else rank)

    def check_complete(self) -> None:
        """Raise SettingError where a run could not start: no data, no folder."""
        expected = {
            "data": "name a data-set list or more, such as anno_data/stage2_online.json",
            "output_dir": "the folder that settings, logs and checkpoints go to",
        }
        if missing := [name for name in expected if not getattr(self, name)]:
            raise SettingError("; ".join(f"{flag(name)} is missing: {expected[name]}" for name in missing))

    @property
    def evaluates(self) -> bool:
        return bool(self.eval_data) or self.eval_share > 0

    @property
    def run_folder(self) -> Path:
        return Path(self.output_dir)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "data": list(self.data), "eval_data": list(self.eval_data)}


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
        "eval_share": 0.1,
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
    "gradient_checkpointing": "none",
    "num_workers": 1,
}
"""What a small language model changes of it: memory is no matter, and an epoch is over before four workers are up.
Six clips with pocket: 200 steps of LoRA at 1e-3 end at loss 2.9, of this at 0.01; LoRA leaves the word vectors alone,
and a small vocabulary has to learn the words of one's own data."""
SMALL_WIDTH = 1024

EARLIER: dict[str, Any] = {**OURS, "loss_reduction": "token", "decay_norms": False}
"""What a run of version 0.1 did where its settings do not say it."""


def size_of(text: str) -> float | None:
    """Bytes: 24GiB, 24 GB or 24 (GiB); None where it is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([KMGT])(i?)B?)?", text.strip(), re.IGNORECASE)
    if match is None or not float(match[1]):
        return None
    power = " KMGT".index((match[2] or "G").upper())
    return float(match[1]) * (1000 if match[2] and not match[3] else 1024) ** power


def is_small(model: str) -> bool:
    """Whether a model's folder says that its language model is narrower than SMALL_WIDTH; what is on a hub is not."""
    try:
        path = SHIPPED_MODELS.get(model, Path(model)) / "config.json"
        width = json.loads(path.read_text("utf-8"))["llm_config"]["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # loading the model says what is wrong with it
    return bool(width < SMALL_WIDTH)
