"""The processes of a run: how many, who holds what and in which number format, who prints, what a SIGTERM does.

Sequence parallelism: a few processes share each sequence, a part of its positions each, by DeepSpeed's Ulysses. Each
embeds the whole sequence; the language model sees its own part, and in attention they exchange positions for heads
(ALST, arXiv 2506.13996). Gradients add up over parts as they do over samples, so that any strategy serves.

A run that stands still ends, and says which process is missing, in which step and what it was doing. In each step every
process waits for all others, as long as it takes. So a thread of each writes down where its process is, in torchrun's
store, and looks at the others' places once its own process does not come on.

torchrun tells each process its place through the environment (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, ...).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch.distributed import PrefixStore, Store, TCPStore
from torch.nn.functional import pad
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..data.settings import SettingError, own_cores
from ..extras import lacks
from ..files import shipped
from ..model.videochat import VideoChatOnline
from ..model_config import has_length_dependent_rope
from .configuration import STRATEGIES, TrainingConfig

MOST_WORKERS = 16
"""Data workers of a training process, unless --num-workers says more: their batches wait in shared memory."""


def world_size() -> int:
    """Processes of this run, as torchrun has it; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    return rank() == 0


def shared_store(name: str, minutes: float) -> Store:
    """Texts under keys that all processes of a run see, for threads: a collective is for all main threads together.

    A key that is not there is waited for, `minutes` at most.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(minutes=minutes), wait_for_workers=False)
    return PrefixStore(f"{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def data_workers(config: TrainingConfig) -> int:
    """Processes that read data for each training process: as --num-workers says, else by the cores it may use."""
    return min(MOST_WORKERS, max(1, own_cores() - 1)) if config.num_workers is None else config.num_workers


def say(text: str) -> None:
    """Print a line, once for all processes."""
    if is_main_process():
        print(text, flush=True)


def uses_cpu(config: TrainingConfig) -> bool:
    return config.cpu or not torch.cuda.is_available()


def uses_bf16(config: TrainingConfig) -> bool:
    """Whether the run computes in bfloat16. `auto` never does on the CPU, where bfloat16 is very slow."""
    if config.precision == "auto":
        return not uses_cpu(config) and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def uses_deepspeed(config: TrainingConfig) -> bool:
    return config.strategy not in ("ddp", "fsdp")


def zero_stage(config: TrainingConfig) -> int:
    """The ZeRO stage of --strategy; 0 without DeepSpeed."""
    return int(deepspeed_settings(config)["zero_optimization"]["stage"]) if uses_deepspeed(config) else 0


def deepspeed_settings(config: TrainingConfig) -> dict[str, Any]:
    """The DeepSpeed file of --strategy. Raises SettingError where it sets no ZeRO stage, or an optimizer."""
    named = config.strategy in STRATEGIES
    path = shipped(f"shell/deepspeed/{config.strategy}.json") if named else Path(config.strategy)
    try:
        settings = json.loads(path.read_text("utf-8"))
        settings["zero_optimization"]["stage"]
    except OSError as error:
        raise SettingError(f"--strategy {config.strategy}: {path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        where = f"--strategy {config.strategy}: {path}"
        raise SettingError(f"{where} sets no zero_optimization.stage ({error!r})") from error
    for name in ("optimizer", "scheduler"):
        if name in settings:
            raise SettingError(f"--strategy {config.strategy}: {path} must set no {name}: the flags do")
    return settings


def check_packages(config: TrainingConfig) -> None:
    """Raise SettingError for what the settings need and this machine lacks; for a package with its install command."""
    needed: list[str] = [config.tracker] if config.tracker != "none" else []
    needed += ["peft"] if "lora" in config.vision + config.llm else []
    needed += ["deepspeed"] if uses_deepspeed(config) or config.sequence_parallel > 1 else []
    needed += ["bitsandbytes"] if config.quantize != "none" else []
    if problem := lacks(*needed):
        raise SettingError(f"for these settings {problem}")
    if config.strategy == "fsdp" and uses_cpu(config):
        raise SettingError("--strategy fsdp needs CUDA devices: on the CPU accelerate would quietly train with ddp")
    if config.strategy == "fsdp" and config.gradient_checkpointing not in ("all", "none"):
        raise SettingError("--gradient-checkpointing must be all or none with --strategy fsdp")
    oldest = {"int8": (7, 5), "nf4": (6, 0)}.get(config.quantize)
    if oldest and not uses_cpu(config) and torch.cuda.get_device_capability() < oldest:
        raise SettingError(f"--quantize {config.quantize} needs a GPU of compute capability {oldest[0]}.{oldest[1]}")


def check_launcher(config: TrainingConfig) -> None:
    """Raise SettingError where processes must be started by torchrun and were not."""
    asked = f"--strategy {config.strategy}" if config.strategy != "ddp" else "--sequence-parallel"
    if (config.strategy != "ddp" or config.sequence_parallel > 1) and "WORLD_SIZE" not in os.environ:
        raise SettingError(
            f"{asked} needs torchrun, also for one process: "
            "torchrun --nproc-per-node N -m videochat_online.training ..."
        )


def make_accelerator(config: TrainingConfig, gradient_accumulation: int) -> Accelerator:
    """What holds the processes together; making it joins the process group under torchrun. One for each process."""
    on_cpu, sharding = uses_cpu(config), {}
    longest = timedelta(minutes=2 * config.timeout)  # Watch comes first, and knows names
    if config.strategy == "fsdp":
        sharding["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            state_dict_type="FULL_STATE_DICT",
            cpu_ram_efficient_loading=True,  # from the main process
            auto_wrap_policy="transformer_based_wrap",  # wraps the layers the model names itself
            activation_checkpointing=config.gradient_checkpointing == "all",
        )
    elif uses_deepspeed(config):
        if on_cpu:
            _join_over_gloo(longest)
        sharding["deepspeed_plugin"] = DeepSpeedPlugin(hf_ds_config=filled_in(config, gradient_accumulation))
    return Accelerator(
        cpu=on_cpu and not uses_deepspeed(config),  # see _join_over_gloo
        mixed_precision="bf16" if uses_bf16(config) else "no",
        gradient_accumulation_steps=gradient_accumulation,
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=config.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=longest)],
        **sharding,
    )


def filled_in(config: TrainingConfig, gradient_accumulation: int) -> dict[str, Any]:
    """The DeepSpeed file with our settings in it. Raises SettingError where it asks for others."""
    settings = deepspeed_settings(config)
    ours = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": gradient_accumulation,
        "train_batch_size": config.batch_size * gradient_accumulation * world_size(),
        "gradient_clipping": config.max_grad_norm,
    }
    for name, value in ours.items():
        if settings.get(name, "auto") not in ("auto", value):
            raise SettingError(f"--strategy {config.strategy}: {name} is {settings[name]!r} there, and {value!r} here")
    return {**settings, **ours, "bf16": {**settings.get("bf16", {}), "enabled": uses_bf16(config)}}


def join_deepspeed() -> None:
    """Make DeepSpeed know the processes.

    Its shared-memory operator for CPUs would be compiled for minutes on first use; gloo does without it.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()


def _join_over_gloo(longest: timedelta) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # joins the process group over gloo: an Accelerator(cpu=True) would ignore DeepSpeed
    PartialState(cpu=True, timeout=longest)
    join_deepspeed()


def share_out_zero3(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Cut the weights up among the processes, one after the other, as the main process has them.

    DeepSpeed itself does so too late: each process would have copied the whole model onto its GPU before.
    """
    import deepspeed

    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    if settings["bf16"]["enabled"]:
        for weight in model.parameters():
            whole = weight.data
            weight.data = whole.bfloat16() if is_main_process() else torch.empty_like(whole, dtype=torch.bfloat16)
    join_deepspeed()
    deepspeed.runtime.zero.Init(module=model, config_dict_or_path=settings)


@contextmanager
def sigterm_noted() -> Iterator[threading.Event]:
    """Within the context a SIGTERM sets the event instead of ending the process."""
    received = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.set())
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_sigterm_to_the_parent(worker: int) -> None:
    """For data workers: they end on a SIGTERM of the training process alone.

    torchrun and schedulers send one to every process, and training still needs batches to come to its checkpoint.
    """
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()


def _end_when_the_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class SequenceParts:
    """The part of each sequence that is this process's; (B, N) as the data has it, B = 1."""

    def __init__(self, size: int) -> None:
        """Of `size` processes; 1: sequences stay whole."""
        self.size, self.number, self.longest = size, rank() % size, 0

    def part(self, values: torch.Tensor, fill: float = 0, more: int = 0) -> torch.Tensor:
        """(B, N, ...) -> (B, n, ...): this part, filled up to the same length on all, and `more` columns behind it."""
        if self.size == 1:
            return values
        each = -(-values.shape[1] // self.size)
        end = each * self.size + more - values.shape[1]
        filled = pad(values, (*[0, 0] * (values.ndim - 2), 0, end), value=fill)
        return filled[:, each * self.number : each * (self.number + 1) + more]

    def share(self, model: VideoChatOnline) -> None:
        """Make the language model, when it trains, see its part only. Raises ValueError for heads that do not divide.

        After the process group was made, and once in a process: transformers' attention is replaced for all models.
        """
        if self.size == 1:
            return
        join_deepspeed()
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

        llm, name = model.language_model, str(model.language_model.config._attn_implementation)
        alone, ours = ALL_ATTENTION_FUNCTIONS[name], {id(module) for module in llm.modules()}
        options = {"seq_length_is_variable": True, "disable_in_eval": True}
        UlyssesSPAttentionHF.register_with_transformers(llm, name, self.size, micro_batch_size=1, **options)
        shared = ALL_ATTENTION_FUNCTIONS[name]
        ALL_ATTENTION_FUNCTIONS[name] = lambda module, *values, **named: (shared if id(module) in ours else alone)(
            module, *values, **named
        )  # the encoder's pictures stay whole
        llm.model.register_forward_pre_hook(self._cut, with_kwargs=True)
        if has_length_dependent_rope(model.config.llm_config):
            rope: Any = llm.model.rotary_emb
            rope.register_forward_pre_hook(self._with_longest, with_kwargs=True)
            rope.register_forward_hook(lambda module, _, found: self._without_longest(module, found))

    def _cut(self, llm: torch.nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if not llm.training:
            return None
        embeds, positions = named["inputs_embeds"], named.get("position_ids")
        if positions is None:
            positions = torch.arange(embeds.shape[1] + self.size, device=embeds.device)[None]
            positions = positions[:, : -(-embeds.shape[1] // self.size) * self.size]
        self.longest = int(positions.max())
        return args, {**named, "inputs_embeds": self.part(embeds), "position_ids": self.part(positions)}

    def _with_longest(self, rope: torch.nn.Module, args: Any, named: dict[str, Any]) -> Any:
        """LongRoPE takes its factors by the longest position, of the whole sequence: that stands behind each part."""
        if not rope.training:
            return None
        return args, {**named, "position_ids": pad(named["position_ids"], (0, 1), value=self.longest)}

    @staticmethod
    def _without_longest(rope: torch.nn.Module, found: tuple[torch.Tensor, ...]) -> Any:
        return tuple(one[:, :-1] for one in found) if rope.training else None


PARTS = ("starting", "reading data", "computing", "saving")
"""Of a step, in order. In other work a process may be slow, but not behind."""
STOOD_STILL = 1
"""Exit status."""
Place = list
"""Step, part, a number that grows, host, process id."""


class Watch:
    """One for each process. A run that nobody shares is not watched: there is nobody to wait for."""

    def __init__(self, minutes: float) -> None:
        """`minutes`: how long a process may take for one part of a step."""
        self.minutes, self.beats = minutes, 0
        self.ended = threading.Event()
        self.store: Store | None = None
        self.about = [socket.gethostname(), os.getpid()]

    def start(self) -> None:
        if world_size() > 1:
            self.store = shared_store("watch", self.minutes)
            self.at(0, PARTS[0])
            threading.Thread(target=self._look, args=(self.store,), daemon=True).start()

    def at(self, step: int, doing: str) -> None:
        """This process begins a new part of its work."""
        self.place, self.since = (step, doing), monotonic()
        self._write()

    def _write(self) -> None:
        if self.store is not None:
            self.store.set(str(rank()), json.dumps([*self.place, self.beats, *self.about]))

    def close(self) -> None:
        self.ended.set()

    def _look(self, store: Store) -> None:
        interval, before = min(15.0, 6 * self.minutes), list[Place]()
        with suppress(RuntimeError):  # the store is gone, with the first machine: then waiting ends by itself
            while not self.ended.wait(interval):
                self.beats += 1
                self._write()
                late = monotonic() - self.since - 60 * self.minutes
                if late < 0:
                    before = []
                elif not before:
                    before = whereabouts(store)
                elif late > 3 * interval:
                    self._end(store, before, whereabouts(store))

    def _end(self, store: Store, before: list[Place], after: list[Place]) -> None:
        if store.add("told", 1) == 1:  # once for all
            print(f"error: {standstill(before, after, self.minutes)}", file=sys.stderr, flush=True)
        for number in silent(before, after):
            *_, host, process = after[number]
            if host == socket.gethostname():  # it cannot end itself, and torchrun would wait long for it
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        os._exit(STOOD_STILL)  # the main thread waits in a call that nothing interrupts


def whereabouts(store: Store) -> list[Place]:
    """Where each process is, by rank."""
    keys = [str(number) for number in range(world_size())]
    return [json.loads(store.get(key)) if store.check([key]) else [0, PARTS[0], 0, "", 0] for key in keys]


def silent(before: list[Place], after: list[Place]) -> list[int]:
    """The ranks that wrote nothing between two looks."""
    return [number for number, place in enumerate(after) if place == before[number]]


def standstill(before: list[Place], after: list[Place], minutes: float) -> str:
    """What to say about a run that stands still, from two looks at the places of its processes."""
    order = [(step, PARTS.index(part) if part in PARTS else len(PARTS)) for step, part, *_ in after]
    missing = silent(before, after)
    behind = missing or [number for number, one in enumerate(order) if one == min(order)]
    named = []
    for number in behind:
        step, part, _, host, process = after[number]
        who = f"rank {number} (process {process} on {host})" if process else f"rank {number}"
        named.append(f"{who} {'does not answer since' if missing else 'is still in'} step {step}, {part}")
    step, part = after[order.index(max(order))][:2]
    rest = f"; the others wait in step {step}, {part}" if len(behind) < len(after) else ""
    return (
        f"the run stands still for {minutes:g} minutes (--timeout): {'; '.join(named)}{rest}. "
        "Resume it with --resume auto"
    )
