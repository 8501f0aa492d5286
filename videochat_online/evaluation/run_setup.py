"""Flags of an evaluation -> settings, the model under test, and the config that identifies the run."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import AnswerMode, MemoryConfig
from ..files import digest
from ..model_flags import load_from_flags, memory_from_flags
from .benchmarks import Benchmark, ModeSettings
from .modes import Asking, Responder
from .responders import SessionResponder, TransformersResponder, memory_of_all

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline


def settings_from_flags(options: argparse.Namespace, benchmark: Benchmark) -> ModeSettings:
    """The published settings of the mode, with what the flags change."""
    windowed = options.mode == "sliding_window"
    if options.window is not None and not windowed:
        raise ValueError(f"--window belongs to --mode sliding_window, got --mode {options.mode}")
    if options.frames is not None and not windowed and options.adapter == "videochat":
        raise ValueError(f"--frames is for --mode sliding_window, got {options.mode}; see --memory and --recent")
    preset = benchmark.presets.get(options.mode, ModeSettings(fps=1.0))
    flags = {name: getattr(options, name) for name in ("fps", "window", "frames")}
    return replace(preset, **{name: value for name, value in flags.items() if value is not None})


def answer_from_flags(options: argparse.Namespace) -> tuple[AnswerMode, str]:
    """How a question with options is answered, and why so: by the flag, else as the model's config has it."""
    from ..model.weights import load_config
    from ..processing import model_place

    if options.answer is not None:
        return options.answer, "as the flag says"
    if options.adapter == "videochat" and (mode := load_config(model_place(options.model)).answer_mode):
        return mode, "as the model's config says"
    return "generate", "as published; the model says nothing else"


def asking_from_flags(options: argparse.Namespace, benchmark: Benchmark, answer: AnswerMode) -> Asking:
    if options.multi_turn and options.mode != "streaming":
        raise ValueError(f"--multi-turn belongs to --mode streaming, got --mode {options.mode}")
    if options.multi_turn and answer != "generate":
        what = "the flag's" if options.answer else "what the model is made for"
        raise ValueError(f"--multi-turn belongs to --answer generate, got --answer {answer} ({what})")
    tokens = benchmark.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
    if tokens < 1:
        raise ValueError(f"--max-new-tokens must be >= 1, got {tokens}")
    return Asking(
        answer=answer,
        max_new_tokens=tokens,
        multi_turn=options.multi_turn,
        system_prompt=benchmark.system_prompt,
    )


def responder_from_flags(options: argparse.Namespace, settings: ModeSettings) -> tuple[Responder, dict[str, Any]]:
    """The model under test, and what identifies it."""
    options.device = _device_of_process(options.device)
    about: dict[str, Any] = {"model": options.model, "adapter": options.adapter}
    if options.adapter == "transformers":
        if options.recent or options.memory or options.cascade or options.policy != "pyramid" or options.skip_below:
            raise ValueError(
                "--memory, --policy, --cascade, --recent and --skip-below are for our models; see --frames"
            )
        frames = settings.frames or 64
        responder = TransformersResponder.load(
            options.model,
            device=options.device,
            dtype=options.dtype,
            attn_implementation=options.attention,
            max_frames=frames,
        )
        about["weights"] = weights_digest(Path(options.model)) or responder.model.config._commit_hash
        return responder, {**about, "dtype": str(responder.model.dtype), "max_frames": frames}
    from ..model.weights import find_checkpoint
    from ..processing import model_place

    model, processor = load_from_flags(options)
    memory = _memory(options, settings, model)
    about["weights"] = weights_digest(find_checkpoint(model_place(options.model)))
    about["memory"] = memory.for_encoder(model.config.grid).to_dict()
    if options.skip_below is not None:
        about["skip_below"] = options.skip_below
    ours = SessionResponder(model, processor, memory, skip_below=options.skip_below)
    return ours, {**about, "dtype": str(model.dtype)}


def weights_digest(folder: Path) -> str | None:
    """SHA-256 over the weight files of a checkpoint in the order of their names; None: no folder, or none in it."""
    files = sorted(folder.glob("*.safetensors"))
    return digest(*files) if files else None


def _memory(options: argparse.Namespace, settings: ModeSettings, model: VideoChatOnline) -> MemoryConfig:
    """What the flags ask for; a sliding window without such flags forgets nothing, as published."""
    if options.recent is not None:
        if options.memory or options.cascade or options.policy != "pyramid":
            raise ValueError("--recent N is no memory: it does not go with --memory, --policy or --cascade")
        return MemoryConfig.recent(options.recent)
    memory = memory_from_flags(options, model)
    if options.mode != "sliding_window" or options.memory or options.cascade or options.policy != "pyramid":
        return memory
    if settings.frames is None:
        raise ValueError("--mode sliding_window needs --frames N for this benchmark")
    return memory_of_all(settings.frames, memory)


def _device_of_process(device: str) -> str:
    """Under torchrun each process takes the GPU of its local rank."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{local_rank}" if device == "auto" and local_rank and torch.cuda.is_available() else device


def about_questions(options: argparse.Namespace, benchmark: Benchmark) -> dict[str, Any]:
    """Which questions are asked, in which mode; the annotations by what is in them, wherever they lie."""
    files = benchmark.files(options.annotations)
    digests = {path.name: digest(path) for path in files}
    variant = {name: getattr(options, name) for name in ("prompt", "chunked") if hasattr(options, name)}
    chosen = {name: getattr(options, name) for name in ("split", "limit", "mode")}
    return {"benchmark": benchmark.name, **variant, "annotations": digests, **chosen}
