"""What a GPU can tell about this project, a step at a time; `shell/gpu_check.sh` gives each step a time limit.

    python -m videochat_online.lab.bench.gpu_check STEP --output DIR [--device cpu --tiny]
    python -m videochat_online.lab.bench.gpu_check report --output DIR

A step adds each row to DIR/STEP.json as it has it, so that one that is cut off still tells. `report` makes one page of
all of them. `--tiny` takes small shapes: the rehearsal on a CPU. Weights of the large shapes are random: time and
memory do not depend on them.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ...command_line import CommandParser
from ...config import MemoryConfig, scheduled_grids, tokens_of_grid
from ...files import write_json, write_text
from ...model.memory_bank import PyramidMemoryBank
from ...model.videochat import VideoChatOnline
from ...model.vision_encoder import InternVisionModel
from ...model_config import VideoChatOnlineConfig
from ...processing import Processor, load_model
from ...streaming.encoding import SharedEncoder
from ...streaming.session import StreamingSession
from .e2e import bench_e2e
from .measure import Tables, machine, text_table
from .paper import PUBLISHED_4B, encoder_flops, language_weights, per_question

QUESTIONS = ("What is happening now?", "What was there before?", "Where is the red circle?")
SCORES_LIMIT = 1e-3
"""Of the log probabilities of options, in float32."""
KERNEL_PAYS = 0.005
"""Of the encoder's time: the fused kernel of the memory bank stays where it saves at least so much of a frame."""
TINY: dict[str, Any] = {
    "force_image_size": 56,
    "vision_config": {
        "image_size": 56, "patch_size": 14, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "llm_config": {
        "model_type": "phi3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 32020, "pad_token_id": 32000,
    },
}  # fmt: skip
"""The 4B model's structure in small."""


@dataclass
class Step:
    """Where a step runs and what it has found so far."""

    name: str
    folder: Path
    device: torch.device
    is_tiny: bool
    tables: Tables = field(default_factory=dict)

    def add(self, title: str, **row: Any) -> None:
        """A row of a table, on the disk and on the screen at once."""
        self.tables.setdefault(title, []).append(row)
        write_json(self.folder / f"{self.name}.json", {"machine": machine(), "tables": self.tables})
        print(f"{self.name}: {title}: {json.dumps(row)}", flush=True)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], *, repeats: int = 5, warm_up: int = 2) -> float:
        """Median of one call, with the device's work."""
        times = []
        for turn in range(warm_up + repeats):
            self.wait()
            started = time.perf_counter()
            run()
            self.wait()
            if turn >= warm_up:
                times.append(time.perf_counter() - started)
        return median(times)

    @property
    def compiler(self) -> str:
        """The rehearsal traces, and leaves out the minutes in which a CPU's code is compiled."""
        return "aot_eager" if self.is_tiny else "inductor"

    @property
    def dtype(self) -> torch.dtype:
        """Of large models: bfloat16, but in the rehearsal, where a CPU would take long."""
        return torch.float32 if self.is_tiny else torch.bfloat16

    def large(self) -> tuple[VideoChatOnline, Processor]:
        """The 4B shape with random weights, and pocket's tokenizer, whose ids it has."""
        torch.manual_seed(0)
        config = VideoChatOnlineConfig(**copy.deepcopy(TINY if self.is_tiny else PUBLISHED_4B))
        config.llm_config.max_position_embeddings = 32768  # Phi-3's factors past 4,096 cost nothing
        model = _built(lambda: VideoChatOnline(config), self.device, self.dtype)
        processor = load_model("pocket", device="cpu")[1]
        model.config.img_context_token_id = processor.image_token_id
        return model, replace(processor, transform=type(processor.transform)(**config.picture))

    def pictures(self, number: int) -> list[np.ndarray]:
        size = (36, 64, 3) if self.is_tiny else (360, 640, 3)
        return list(np.random.default_rng(0).integers(0, 255, (number, *size), dtype=np.uint8))

    def peak(self) -> float:
        """FLOP a second of a large matrix product in the large models' numbers, measured now."""
        size = 512 if self.is_tiny else 8192
        one, other = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * size**3 / self.seconds(lambda: one @ other)


def _built(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A module whose weights are drawn on the device, in its numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return make().eval()
    finally:
        torch.set_default_dtype(before)


# ---- the steps, in order of worth ---------------------------------------------------------------------------------


@torch.no_grad()
def equal(step: Step) -> None:
    """Ours on this device is ours on the CPU: features, memory, answers and scores, in each way to run it."""
    torch.backends.cudnn.allow_tf32 = False  # else the patch embedding, a convolution, has 10 bits of a float32's 23
    failed = _banks_differ(step)
    clip = list(np.random.default_rng(1).integers(0, 255, (8 if step.is_tiny else 24, 90, 160, 3), dtype=np.uint8))
    reference = _watched(*load_model("pocket", device="cpu", dtype="float32"), clip)
    limits = {"float32": 1e-4, "bfloat16": 0.1}
    ways = [("float32", way, compiled) for way in ("sdpa", "eager") for compiled in (False, True)]
    ways += [("bfloat16", way, compiled) for way in ("sdpa", "flash_attention_2") for compiled in (False, True)]
    for dtype, attention, compiled in ways:
        row: dict[str, Any] = {"numbers": dtype, "attention": attention, "compiled": compiled}
        try:
            model, processor = load_model("pocket", device=str(step.device), dtype=dtype, attn_implementation=attention)
            if compiled:
                model.vision_model.compile(backend=step.compiler)
            for reuse in (True, False):
                found = _watched(model, processor, clip, reuse_cache=reuse)
                difference = max(
                    float((a.cpu().float() - b).abs().max() / b.abs().max())
                    for a, b in zip(found["features"], reference["features"], strict=True)
                )
                scores = max(abs(a - b) for a, b in zip(found["scores"], reference["scores"], strict=True))
                held = found["held"] == reference["held"]
                same = sum(map(str.__eq__, found["answers"], reference["answers"]))
                holds = difference <= limits[dtype]
                if dtype == "float32":  # in bfloat16 the second likeliest word may win
                    holds = holds and held and same == len(reference["answers"]) and scores <= SCORES_LIMIT
                failed += not holds
                step.add(
                    "this device against the CPU in float32",
                    **row,
                    reuse=reuse,
                    features=difference,
                    limit=limits[dtype],
                    holds=holds,
                    frames_held_are_equal=held,
                    answers_equal=same,
                    of=len(reference["answers"]),
                    scores=scores,
                )
        except Exception as error:  # a way that this machine does not have: that is the result
            step.add("ways that this machine does not have", **row, why=_first_line(error))
            failed += attention in ("sdpa", "eager") and not compiled  # those every machine has
    if failed:
        raise AssertionError(f"{failed} comparisons do not hold")


def _banks_differ(step: Step) -> int:
    """How many banks hold other frames here than on the CPU, or other maps when fed in chunks."""
    channels, grid, failed = (64, 4, 0) if step.is_tiny else (4096, 16, 0)
    steps = torch.randn(48, channels, grid, grid, generator=torch.Generator().manual_seed(2))
    memory = MemoryConfig.pyramid().for_encoder(grid)
    for dtype, fused in product((torch.float32, torch.bfloat16), (False, True)):
        maps = steps.cumsum(0).mul(0.3).to(dtype).contiguous(memory_format=torch.channels_last)
        row: dict[str, Any] = {"numbers": str(dtype), "fused": fused}
        try:
            reference, whole, chunked = (PyramidMemoryBank(memory, fused=one) for one in (False, fused, fused))
            events = reference.write(maps, range(48))
            maps = maps.to(step.device)
            found = whole.write(maps, range(48))
            for first in range(0, 48, 12):
                chunked.write(maps[first : first + 12], range(first, first + 12))
        except Exception as error:
            step.add("ways that this machine does not have", **row, why=_first_line(error))
            failed += not fused
            continue
        same = [one.frame for one in found] == [one.frame for one in events]
        pairs = zip(whole.read(), reference.read(), strict=True)
        apart = max(float((a.features.cpu().float() - b.features.float()).abs().max()) for a, b in pairs)
        bits = all(map(torch.equal, whole.state_dict().values(), chunked.state_dict().values()))
        holds = same and bits and apart <= (1e-4 if dtype == torch.float32 else 0.1)
        row |= {"same_departures": same, "maps": apart, "chunks_change_nothing": bits, "holds": holds}
        step.add("the bank alone, against the CPU's", **row)
        failed += not holds
    return failed


def _watched(model: Any, processor: Processor, clip: list[np.ndarray], reuse_cache: bool = True) -> dict[str, Any]:
    session = StreamingSession(model, processor, reuse_cache=reuse_cache)
    answers, scores = [], []
    for first in range(0, len(clip), 8):
        session.see_many(clip[first : first + 8], [k / 2 for k in range(first, first + 8)])
        session.prefill()
        answers += [session.ask(question, max_new_tokens=8) for question in QUESTIONS]
        scores += session.score_options(QUESTIONS[0], ["yes", "no", "red circle"])
    held = session.memory.read()
    return {
        "features": [frame.features for frame in held],
        "held": [(frame.index, frame.level) for frame in held],
        "answers": answers,
        "scores": scores,
    }


@torch.no_grad()
def encoder(step: Step) -> None:
    """Frames a second of the encoder's own forward, and its share of a matrix product's speed here."""
    config = VideoChatOnlineConfig(**copy.deepcopy(TINY if step.is_tiny else PUBLISHED_4B))
    model: InternVisionModel = _built(lambda: InternVisionModel(config.vision_config), step.device, step.dtype)
    peak, flops, side = step.peak(), encoder_flops(config), config.image_size
    step.add("matrix product", tflops=peak / 1e12, numbers=str(step.dtype))
    for compiled in (False, True):
        run = torch.compile(model, backend=step.compiler) if compiled else model
        for batch in (1, 8, 64):
            pixels = torch.randn(batch, 3, side, side, device=step.device, dtype=step.dtype)
            try:
                seconds = step.seconds(lambda: run(pixels)) / batch  # noqa: B023
            except Exception as error:  # no compiler here
                step.add("ways that this machine does not have", compiled=compiled, batch=batch, why=_first_line(error))
                break
            step.add(
                "the encoder alone",
                compiled=compiled,
                batch=batch,
                frames_a_second=1 / seconds,
                ms_a_frame=seconds * 1e3,
                share_of_peak=flops / seconds / peak,
            )


@torch.no_grad()
def bank(step: Step) -> None:
    """The memory bank beside the encoder: milliseconds a frame, share (aim: under 1 %), waits a batch (aim: one); and
    whether the fused kernel pays."""
    channels, grid, batch = (64, 4, 8) if step.is_tiny else (4096, 16, 32)
    memory = MemoryConfig.pyramid().for_encoder(grid)
    maps = torch.randn(batch, channels, grid, grid, device=step.device, dtype=step.dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)  # as the encoder gives them
    read = step.seconds(lambda: maps.sum(dtype=torch.float32), repeats=9) / batch
    alone, seconds = _encoder_seconds(step), dict[bool, float]()
    for fused in (False, True):
        try:
            write = partial(_write, PyramidMemoryBank(memory, fused=fused), maps)
            seconds[fused] = step.seconds(write, repeats=2 if step.is_tiny else 15, warm_up=3) / batch
        except Exception as error:  # no triton, no compiler for it, or no GPU
            step.add("ways that this machine does not have", fused=fused, why=_first_line(error))
            continue
        step.add(
            "the memory bank, a frame",
            way="fused kernel" if fused else "plain",
            channels=channels,
            batch=batch,
            ms=seconds[fused] * 1e3,
            ms_of_one_read=read * 1e3,
            share_of_encoder=seconds[fused] / alone,
            waits_a_batch=_waits(step, write),
        )
    if len(seconds) == 2:
        saved = (seconds[False] - seconds[True]) / alone
        verdict = "pays: make it the default" if saved >= KERNEL_PAYS else "does not pay: remove it"
        verdict = verdict if step.device.type == "cuda" else "none: Triton's interpreter tells no time"
        step.add("the fused kernel", saves_of_encoder=saved, pays_from=KERNEL_PAYS, verdict=verdict)


def _write(bank: PyramidMemoryBank, maps: torch.Tensor) -> None:
    bank.write(maps, [bank.num_written + k for k in range(len(maps))])


def _encoder_seconds(step: Step, batch: int = 8) -> float:
    """A frame through the large encoder, in a batch."""
    config = VideoChatOnlineConfig(**copy.deepcopy(TINY if step.is_tiny else PUBLISHED_4B))
    model = _built(lambda: InternVisionModel(config.vision_config), step.device, step.dtype)
    pixels = torch.randn(batch, 3, config.image_size, config.image_size, device=step.device, dtype=step.dtype)
    return step.seconds(lambda: model(pixels)) / batch


def _waits(step: Step, run: Callable[[], None]) -> int | None:
    """How often `run` waits for the device; None where there is nothing to wait for."""
    if step.device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def first_tokens(step: Step) -> None:
    """Time to the first token of the 4B shape, cold and warm, at 832 and at 9,984 visual tokens; tokens a second. On
    paper: docs/performance.md, for an H100."""
    model, processor = step.large()
    peak, read, weights = step.peak(), _read_speed(step), language_weights(model.config)
    reading = weights * step.dtype.itemsize / read  # seconds to read the weights once: the least that a token takes
    step.add("floors", tflops=peak / 1e12, gb_a_second_read=read / 1e9, ms_to_read_the_weights=1e3 * reading)
    for capacities in ((2, 2, 12), (24, 24, 144)):
        watched, pictures = _watching(step, model, processor, capacities)
        name, on_paper = "/".join(map(str, capacities)), _on_paper(capacities)
        for turn in range(3):  # the first warms the kernels up
            watched.language.reset()
            times = {"cold": _first_token(watched), "second question": _first_token(watched)}
            watched.see(pictures[turn], 1e4 + turn)
            times["one new frame"] = _first_token(watched)
            for situation, (milliseconds, prompt, computed) in times.items():
                if turn:
                    floor = max(reading, 2 * weights * computed / peak) * 1e3
                    counts = {"prompt": prompt, "computed": computed, "ms": milliseconds, "floor_ms": floor}
                    counts["paper_ms"] = on_paper[situation]
                    step.add("time to the first token", memory=name, situation=situation, **counts)
        watched.ask(QUESTIONS[0], max_new_tokens=65, min_new_tokens=65, keep=False)
        stats = watched.stats()
        speed = 64 / ((stats["latency"] or 0) - (stats["time_to_first_token"] or 0))
        paper = 1e3 / on_paper["each further token"]
        step.add("tokens of one answer", memory=name, tokens_a_second=speed, at_most=1 / reading, on_paper=paper)


def _on_paper(capacities: tuple[int, ...]) -> dict[str, float]:
    """Milliseconds of each situation in the table of docs/performance.md, which is for an H100 and the 4B model."""
    config = VideoChatOnlineConfig(**copy.deepcopy(PUBLISHED_4B))
    rows = per_question(config, MemoryConfig.pyramid(capacities=capacities).for_encoder(config.grid))
    names = ("cold", "one new frame", "second question", "each further token")
    times = (max(row["ms by arithmetic"], row["ms by memory"]) for row in rows)
    return dict(zip(names, times, strict=True))


def _watching(
    step: Step, model: VideoChatOnline, processor: Processor, capacities: tuple[int, ...]
) -> tuple[StreamingSession, list[np.ndarray]]:
    """A session whose memory is full."""
    memory = MemoryConfig.pyramid(capacities=tuple(min(one, 3) for one in capacities) if step.is_tiny else capacities)
    session, pictures = StreamingSession(model, processor, memory=memory), step.pictures(16)
    number = 8 * memory.capacity
    session.see_many([pictures[k % 16] for k in range(number)], [k / 2 for k in range(number)])
    return session, pictures


def _first_token(session: StreamingSession) -> tuple[float, int, int]:
    """Milliseconds to the first token, positions of the prompt, and how many of them were computed."""
    session.ask(QUESTIONS[0], max_new_tokens=2, keep=False)
    stats = session.stats()
    prompt, cached, seconds = stats["prompt_tokens"], stats["cached_tokens"], stats["time_to_first_token"]
    return 1e3 * (seconds or 0), prompt or 0, (prompt or 0) - (cached or 0)


def _read_speed(step: Step) -> float:
    """Bytes a second of reading device memory."""
    values = torch.ones(2**20 if step.is_tiny else 2**31, device=step.device, dtype=torch.int8).view(torch.int32)
    return values.numel() * 4 / step.seconds(lambda: values.sum(dtype=torch.int32))


def stream(step: Step) -> None:
    """A stream with questions in one pass and by encoding again; streams at 2 fps that this device carries."""
    model, processor = step.large()
    alone = _encoder_seconds(step)
    tables = bench_e2e(
        lambda **more: StreamingSession(model, processor, **more),
        seconds=20.0 if step.is_tiny else 120.0,
        num_questions=4 if step.is_tiny else 12,
        must_agree=step.dtype == torch.float32,  # in bfloat16 a frame's features depend on its batch
    )
    for row in tables["a stream with questions"]:
        step.add("a stream with questions", **row)
    pictures, rounds = step.pictures(16), 2 if step.is_tiny else 10
    for number in (1, 8, 32):
        with SharedEncoder(model, processor, max_batch=64) as encoder:
            sessions = [StreamingSession(model, processor, encoder=encoder) for _ in range(number)]

            def watch(session: StreamingSession) -> None:
                for k in range(rounds):
                    session.see_many(pictures[:8], [4.0 * k + 0.5 * i for i in range(8)])

            seconds = _together(step, [partial(watch, one) for one in sessions])
        fps = number * rounds * 8 / seconds
        counts = {"frames_a_second": fps, "streams_at_2_fps": fps / 2, "share_of_encoder_alone": fps * alone}
        step.add("sessions that watch at once", sessions=number, **counts)


def _together(step: Step, runs: Sequence[Callable[[], object]]) -> float:
    """Seconds until all are done, each in a thread of its own. An error of one is raised."""
    errors: list[BaseException] = []

    def guarded(run: Callable[[], object]) -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    step.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    step.wait()
    if errors:
        raise errors[0]
    return time.perf_counter() - started


def train(step: Step) -> None:
    """One training step of the 4B shape at 64 frames: memory beside the estimate of `--check`, and FLOPs a second; once
    more with the backward pass going through the frozen encoder, which training keeps out of it."""
    from ...training.configuration import TrainingConfig
    from ...training.memory import Load, estimate
    from ...training.parts import checkpoint_gradients, choose_parts, make_optimizer, part_rows

    peak, frames = step.peak(), 4 if step.is_tiny else 64
    for llm, through_encoder in (("lora:16", False), ("full", False), ("lora:16", True)):
        gc.collect()
        config = TrainingConfig(
            output_dir="unused", data=("unused",), vision="frozen", connector="full", batching="shuffled", batch_size=1,
            precision="fp32" if step.is_tiny else "bf16", gradient_checkpointing="all", cpu=step.is_tiny, llm=llm,
        )  # fmt: skip
        try:
            model, _ = step.large()
            choose_parts(model, config)
            rows = part_rows(model, config)
            for weight in model.parameters():  # what trains is held in float32, as the loop holds it
                if weight.requires_grad:
                    weight.data = weight.data.float()
            checkpoint_gradients(model, config)
            if through_encoder:
                _need_gradients(model.vision_model)
            batch = _batch(step, model, frames)
            load = Load(batch["input_ids"].numel(), frames)
            row = {"llm": llm, "back_through_encoder": through_encoder, "frames": frames, "tokens": load.num_tokens}
            seconds, kept = _training_step(step, model, make_optimizer(model, config), batch)
        except torch.OutOfMemoryError as error:
            step.add("what does not fit", llm=llm, back_through_encoder=through_encoder, why=_first_line(error))
            continue
        on_paper = sum(estimate(rows, model.config, config, 1, load).values())
        flops = _step_flops(model, load.num_tokens, frames, full=llm == "full")
        sizes = {"gib": kept and kept / 2**30, "gib_estimated": on_paper / 2**30}
        step.add("a training step", **row, seconds=seconds, **sizes, share_of_peak=flops / seconds / peak)
        del model, batch


def _need_gradients(encoder: Any) -> None:
    """What transformers' gradient checkpointing does to an encoder of which nothing trains."""
    encoder.embeddings.register_forward_hook(lambda module, given, output: output.requires_grad_())
    for module in encoder.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True


def _batch(step: Step, model: VideoChatOnline, frames: int) -> dict[str, torch.Tensor]:
    """A row as the trainer makes it: each frame at its grid, words between, and an answer of a tenth."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    memory = config.memory_config.for_encoder(config.grid)
    grids = scheduled_grids(frames, memory.every, memory.grids)
    image, ids = int(config.img_context_token_id or 0), [5]
    for grid in grids:
        ids += [6] * 14 + [image] * tokens_of_grid(grid)
    answer = torch.randint(10, 500, (len(ids) // 10,), generator=generator).tolist()
    labels = [-100] * len(ids) + answer
    pixels = torch.randn(frames, 3, config.image_size, config.image_size, generator=generator)
    found = {"input_ids": torch.tensor([ids + answer]), "labels": torch.tensor([labels])}
    found |= {"pixel_values": pixels, "image_grids": torch.tensor(grids)}
    return {name: value.to(step.device) for name, value in found.items()}


def _training_step(step: Step, model: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> tuple[float, int | None]:
    """Seconds of a whole step, and bytes at most (None where nothing counts them)."""
    model.train()

    def once() -> None:
        with torch.autocast(step.device.type, torch.bfloat16, enabled=not step.is_tiny):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    on_cuda = step.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = step.seconds(once, repeats=2, warm_up=1)
    return seconds, torch.cuda.max_memory_allocated() if on_cuda else None


def _step_flops(model: VideoChatOnline, tokens: int, frames: int, *, full: bool) -> float:
    """Forward, the forward again of what is checkpointed, and backward: through inputs and trained weights."""
    layers = 2.0 * language_weights(model.config) * tokens
    return frames * encoder_flops(model.config) + layers * (4 if full else 3)


def many(step: Step) -> None:
    """Eight sessions asking at once, beside one: tokens a second, and the longest wait for a first token."""
    model, processor = step.large()
    number = 2 if step.is_tiny else 8
    sessions = [_watching(step, model, processor, (2, 2, 12))[0] for _ in range(number)]
    tokens = 16 if step.is_tiny else 64
    options: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "keep": False}
    for asking in (1, number):
        for turn in range(2):  # the first warms up
            asked = sessions[:asking]
            seconds = _together(step, [partial(one.ask, QUESTIONS[0], **options) for one in asked])
            waits = [session.stats()["time_to_first_token"] or 0 for session in asked]
            if turn:
                speed = asking * tokens / seconds
                step.add(
                    "sessions that ask at once", sessions=asking, tokens_a_second=speed, longest_ms=1e3 * max(waits)
                )


STEPS = {
    "equal": equal,
    "encoder": encoder,
    "bank": bank,
    "ask": first_tokens,
    "stream": stream,
    "train": train,
    "many": many,
}


def report(folder: Path) -> str:
    """One page of all steps in `folder`, beside the paper."""
    lines, about = ["# On a GPU", "", "By `bash shell/gpu_check.sh`; on paper: [performance](../performance.md)."], None
    tests = folder / "tests.log"
    ended = tests.read_text().strip().splitlines()[-1:] if tests.exists() else []
    lines += ["", "## tests", "", "Tests marked `gpu`:", "", *(ended or ["Nothing was run."])]
    for name, run in STEPS.items():
        file = folder / f"{name}.json"
        lines += ["", f"## {name}", "", " ".join((run.__doc__ or "").split()), ""]
        if not file.exists():
            lines.append("Nothing was measured.")
            continue
        found = json.loads(file.read_text())
        about = found["machine"]
        for title, rows in found["tables"].items():
            lines += [f"{title}:", "", "```", text_table(rows), "```", ""]
    if about:
        lines[3:3] = ["", ", ".join(f"{key} {value}" for key, value in about.items() if value is not None)]
    return "\n".join(lines) + "\n"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def main(words: list[str] | None = None) -> int:
    parser = CommandParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("step", choices=[*STEPS, "report"])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes in float32, for a rehearsal on a CPU")
    options = parser.parse_args(words)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.step == "report":
        write_text(options.output / "gpu.md", report(options.output))
        return 0
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu_check: torch sees no CUDA device; --device cpu --tiny rehearses", file=sys.stderr)
        return 1
    STEPS[options.step](Step(options.step, options.output, device, options.tiny))
    return 0


if __name__ == "__main__":
    sys.exit(main())
