"""The flags that choose a model, a memory and a decoder, the same in every command that has them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .config import MEMORY_POLICIES, MemoryConfig

if TYPE_CHECKING:
    from .model.videochat import VideoChatOnline
    from .processing import Processor


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="pocket",
        help="'pocket' (ships with the package), a folder, or a hub id",
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: cuda, else mps, else cpu)"
    )
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="default: the checkpoint's own on cuda, float32 on the cpu",
    )
    group.add_argument(
        "--attention",
        default="auto",
        choices=("auto", "sdpa", "eager", "flash_attention_2"),
        help="how attention is computed (default: torch's sdpa)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the encoder: a minute at the start, then see `bench encoder` for what it gains here",
    )


def load_from_flags(options: argparse.Namespace) -> tuple[VideoChatOnline, Processor]:
    from transformers.utils.logging import disable_progress_bar

    from .processing import load_model

    if not sys.stderr.isatty():  # a bar in a log file is noise
        disable_progress_bar()
    model, processor = load_model(
        options.model, device=options.device, dtype=options.dtype, attn_implementation=options.attention
    )
    if options.compile:
        model.vision_model.compile()
    return model, processor


def add_decoder_flag(parser: argparse.ArgumentParser) -> None:
    what = "reads video files: pyav, or decord (an extra; docs/performance.md says when it pays)"
    parser.add_argument("--decoder", default="pyav", choices=("pyav", "decord"), help=what)


def add_memory_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--memory",
        type=parse_capacities,
        metavar="N/N/N",
        help="frames each level holds, finest first, such as 2/2/12 (default: what the model was made for)",
    )
    group.add_argument(
        "--policy",
        default="pyramid",
        choices=MEMORY_POLICIES,
        help="what leaves a full memory; other policies get as many tokens as the pyramid",
    )
    group.add_argument("--cascade", action="store_true", help="pass displaced frames further down, not away")
    group.add_argument(
        "--skip-below",
        type=float,
        metavar="D",
        help="do not encode frames that differ by less than D of 255 from the last encoded one (default: encode all)",
    )


def parse_capacities(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers of frames such as 2/2/12, got {text!r}") from error


def memory_from_flags(options: argparse.Namespace, model: VideoChatOnline) -> MemoryConfig:
    """The memory the flags ask for, on the grids of this model."""
    return model.config.memory_config.adapted(capacities=options.memory, policy=options.policy, cascade=options.cascade)
