"""What all commands share: one parser, and the flags that choose a model, a memory and a decoder.

A mistake gets one line that says what was meant, and exit status 2. A ValueError is what the user or a file did, an
ImportError names a package to install, an OSError a file or port that cannot be used: each is printed as one line, too.
Any other exception is our own mistake and shows. Knows no command.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from .config import BYTES_OF, MEMORY_POLICIES, RECALL_MODES, MemoryConfig, SmallFrames
from .extras import did_you_mean

if TYPE_CHECKING:
    from .model.backbone import Backbone
    from .processing import Processor


class HelpWithDefaults(argparse.HelpFormatter):
    """Help that ends with the flag's default, where it has one and the text does not name it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        if not text or "default" in text or default is None or default is False or default in ("", argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})" if shown else text  # argparse fills in what % names


class CommandParser(argparse.ArgumentParser):
    """Flags of a command, or commands with flags of their own. Flags are written out; no prefix stands for one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": HelpWithDefaults, "allow_abbrev": False, **options})

    def run(self, words: Sequence[str] | None = None) -> int:
        """Parse `words` (default: the command line), call `options.run(options)`, return the exit status."""
        options = self.parse_args(words)
        as_python_writes, warnings.formatwarning = warnings.formatwarning, _one_line_if_ours
        try:
            return options.run(options) or 0
        except BrokenPipeError:  # the reader of our output has closed it
            sys.stderr.close()
            return 0
        except (ValueError, ImportError, OSError) as error:
            print(f"{self.prog}: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
        finally:
            warnings.formatwarning = as_python_writes

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """As argparse, but nothing unknown is let through, also not to the parser of which this is a command."""
        words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_names(words)  # first: argparse would rather complain of what then seems to be missing
        options, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return options, unknown

    def _refuse_unknown_names(self, words: Sequence[str]) -> None:
        actions = self._actions  # argparse has no public list of what was added
        commands: Any = next((action for action in actions if action.nargs == argparse.PARSER), None)
        flags = [name for action in actions for name in action.option_strings]
        for word in words:
            if word == "--":
                return
            name = word.split("=")[0] if word.startswith("--") else word[:2]
            if _is_flag(word) and name not in flags:
                near = did_you_mean(name, flags) or f"; `{self.prog} --help` lists them"
                self.error(f"unknown flag {name if word.startswith('--') else word}{near}")
            if commands is not None and not _is_flag(word):  # all that follows is the command's own
                if word not in commands.choices:
                    near = did_you_mean(word, commands.choices) or f"; expected one of {', '.join(commands.choices)}"
                    self.error(f"unknown {str(commands.metavar).lower()} {word!r}{near}")
                return

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse, with the nearest of the choices."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices or ()))
            raise

    def error(self, message: str) -> Any:
        """One line and exit status 2."""
        if "are required" in message:  # argparse's words
            message += f"; `{self.prog} --help` explains them"
        self.exit(2, f"{self.prog}: error: {message}\n")


_format_warning = warnings.formatwarning


def _one_line_if_ours(message: Any, category: type[Warning], *place: Any, **more: Any) -> str:
    """Of our own warnings the text alone: the line of code that gave one helps no user."""
    if category.__module__.startswith(f"{__package__}."):
        return f"warning: {message}\n"
    return _format_warning(message, category, *place, **more)


def _is_flag(word: str) -> bool:
    """As argparse sees it: a negative number, a lone dash and a text with blanks are values."""
    if not word.startswith("-") or word == "-" or " " in word:
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


class Once(argparse.Action):
    """A flag whose second value would replace the first without a word, where a user may expect both."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} may be given only once")
        setattr(namespace, self.dest, values)


def add_model_flags(parser: argparse.ArgumentParser, *, engine: bool = False) -> None:
    """Which model, where it runs and how; `load_from_flags` reads them. `engine`: its language model elsewhere, too."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="pocket", help="'pocket' (ships with the package), a folder, or a hub id")
    where = "auto, cpu, cuda, cuda:1, ... (default: cuda, else mps, else cpu)"
    group.add_argument("--device", default="auto", help=where)
    dtypes = ("auto", "float32", "bfloat16", "float16")
    what = "default: the checkpoint's own on cuda, float32 on the cpu"
    group.add_argument("--dtype", default="auto", choices=dtypes, help=what)
    pairs = "a PEFT adapter for the model, such as LoRA pairs: a folder or hub id (--model may name one itself)"
    group.add_argument("--lora", action=Once, metavar="DIR", help=pairs)
    fewer = "hold the language model's weights in 8 or 4 bits, by bitsandbytes (docs/models.md)"
    group.add_argument("--quantize", default="none", choices=("none", *BYTES_OF), help=fewer)
    spread = "auto: spread the model over all GPUs, then the CPU's memory; not with --device"
    group.add_argument("--device-map", choices=("auto",), help=spread)
    kinds = ("auto", "sdpa", "eager", "flash_attention_2")
    how = "how attention is computed (default: torch's sdpa)"
    group.add_argument("--attention", default="auto", choices=kinds, help=how)
    way = "frames of coarser levels: averaged, or encoded as smaller pictures (default: as the family was trained)"
    group.add_argument("--small-frames", choices=get_args(SmallFrames), help=way)
    gain = "torch.compile the encoder: a minute at the start, then see `bench encoder` for what it gains here"
    group.add_argument("--compile", action="store_true", help=gain)
    if engine:
        group = parser.add_argument_group("engine", "the language model in another process, for many sessions at once")
        what = "vllm: a vLLM server runs it, with what `export-llm` wrote (default: transformers, here)"
        group.add_argument("--engine", default="transformers", choices=("transformers", "vllm"), help=what)
        group.add_argument("--engine-url", metavar="URL", help="vLLM's address (default: http://127.0.0.1:8000)")
        silence = "give an answer up when no word of it came for so long (default: 60)"
        group.add_argument("--engine-timeout", type=float, metavar="SECONDS", help=silence)


def engine_from_flags(options: argparse.Namespace) -> Any:
    """Where the language model runs, not yet spoken to; None: here, with the rest."""
    url, silence = getattr(options, "engine_url", None), getattr(options, "engine_timeout", None)
    if getattr(options, "engine", "transformers") != "transformers":
        from .model.engine import Engine

        return Engine(url or "http://127.0.0.1:8000", silence=60.0 if silence is None else silence)
    if url is not None or silence is not None:
        raise ValueError("--engine-url and --engine-timeout go with --engine vllm")
    return None


def load_from_flags(options: argparse.Namespace) -> tuple[Backbone, Processor]:
    """The model of `add_model_flags`, and its processor. Raises what `load_model` raises."""
    from transformers.utils.logging import disable_progress_bar

    from .model.backbone import check_small_frames
    from .processing import load_model

    if not sys.stderr.isatty():  # a bar in a log file is noise
        disable_progress_bar()
    engine = engine_from_flags(options)
    model, processor = load_model(
        options.model,
        device=options.device,
        dtype=options.dtype,
        attn_implementation=options.attention,
        adapter=options.lora,
        quantize=options.quantize,
        device_map=options.device_map,
        **({} if engine is None else {"engine": engine}),
    )
    if options.small_frames and model.config.any_shape:
        model.config = replace(model.config, small_frames=options.small_frames)
    check_small_frames(model.config, options.small_frames)
    if options.compile:
        model.vision_model.compile()
    return model, processor


def add_decoder_flag(parser: argparse.ArgumentParser) -> None:
    what = "reads video files: pyav, or decord (an extra; docs/performance.md says when it pays)"
    parser.add_argument("--decoder", default="pyav", choices=("pyav", "decord"), help=what)


def add_memory_flags(parser: argparse.ArgumentParser) -> None:
    """The memory's shape and rule, which `memory_from_flags` reads; and which frames are not even encoded."""
    group = parser.add_argument_group("memory")
    frames = "frames each level holds, finest first, such as 2/2/12 (default: what the model was made for)"
    group.add_argument("--memory", type=parse_capacities, metavar="N/N/N", help=frames)
    rule = "what leaves a full memory; other policies get as many tokens as the pyramid"
    group.add_argument("--policy", default="pyramid", choices=MEMORY_POLICIES, help=rule)
    group.add_argument("--cascade", action="store_true", help="pass displaced frames further down, not away")
    still = "do not encode frames that differ by less than D of 255 from the last encoded one (default: encode all)"
    group.add_argument("--skip-below", type=float, metavar="D", help=still)


def add_recall_flag(parser: Any) -> None:
    what = (
        "time: show a question that names a time frames of that time, not the memory; chosen: and any other question "
        "those that the chooser beside the model finds (docs/memory.md; default: off)"
    )
    parser.add_argument("--recall", choices=RECALL_MODES, help=what)


def parse_capacities(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("/"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers of frames such as 2/2/12, got {text!r}") from error


def memory_from_flags(options: argparse.Namespace, model: Backbone) -> MemoryConfig:
    """The memory of `add_memory_flags`, on the grids of this model."""
    return model.config.memory_config.adapted(capacities=options.memory, policy=options.policy, cascade=options.cascade)
