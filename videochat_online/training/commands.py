"""`videochat-online train` and `python -m videochat_online.training`: the same flags, the same run.

Settings <- preset <- json or yaml file <- flags. Flags, their help and the checks of a file come from the fields of
TrainingConfig; unknown names fail with the nearest known ones.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..command_line import CommandParser, add_memory_flags, add_model_flags
from ..data.settings import DataSettings, SettingError, flag
from ..extras import did_you_mean
from .configuration import FIELDS, FINETUNE_SMALL, PRESETS, TrainingConfig, is_small

ABOUT: dict[str, Any] = {
    "description": "Train a model on data-set lists. Settings come from --preset, then --config, then flags.",
    "epilog": "example: videochat-online train --preset stage2 --model pocket --data list.json --output-dir runs/mine "
    "--check. On several GPUs: torchrun --nproc-per-node 8 -m videochat_online.training --preset stage1 --strategy "
    "zero1 ...",
}
PRESET_HELP = (
    "start from named settings: finetune for tens to thousands of samples, the others are the paper's stages; stage2 "
    "starts from stage 1's model, as the paper says (its script: --model OpenGVLab/InternVL2-4B)"
)
METAVARS: dict[Any, str] = {str: "TEXT", int: "N", float: "X"}


def add_train_command(commands: Any) -> None:
    """`videochat-online train`."""
    add_train_flags(commands.add_parser("train", help="train a model, on one machine or many", **ABOUT))


def add_gate_command(commands: Any) -> None:
    parser = commands.add_parser("gate", help="train what decides when to speak unasked")
    names = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    what = "fit a gate to rows with standing instructions, and what a model's encoder sees (docs/proactive.md)"
    train = names.add_parser("train", help=what, description=what)
    add = train.add_argument
    add("rows", type=Path, metavar="ROWS.json", help="rows with `video` and `standing`; see docs/proactive.md")
    add("--videos", type=Path, required=True, metavar="DIR", help="folder below which the videos lie")
    file = "the gate; named gate.safetensors in the model's folder, `chat` finds it there"
    add("--output", type=Path, required=True, metavar="FILE", help=file)
    add("--looks", type=Path, metavar="DIR", help="where what is seen of the videos is kept (default: FILE.looks)")
    add("--fps", type=float, default=1.0, help="frames watched a second")
    add("--epochs", type=int, default=40, metavar="N", help="passes over the videos")
    add("--seed", type=int, default=0, help="of the gate's first weights and the order of videos")
    add_model_flags(train)
    add_memory_flags(train)
    train.set_defaults(run=_run_gate)
    what = "rows with standing instructions as timed questions for `train`: now, near miss, quiet (docs/proactive.md)"
    turns = names.add_parser("turns", help=what, description=what)
    given = "rows of ours, of Streamo or JoyAI-VL-Interaction, or with a turn a second"
    turns.add_argument("rows", type=Path, metavar="ROWS.json", help=given)
    ends = "folder below which the videos lie: no second behind their end is asked about"
    turns.add_argument("--videos", type=Path, metavar="DIR", help=ends)
    turns.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="the rows that are written")
    turns.add_argument("--seed", type=int, default=0, help="of the choice of near misses and quiet seconds")
    turns.set_defaults(run=_run_turns)


def _run_gate(options: argparse.Namespace) -> int:
    from .gate import run_gate_train  # with torch, for which no help should wait

    return run_gate_train(options)


def _run_turns(options: argparse.Namespace) -> int:
    from .gate import run_gate_turns  # with torch

    return run_gate_turns(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m videochat_online.training`, the program that torchrun starts."""
    parser = CommandParser(prog="python -m videochat_online.training", **ABOUT)
    add_train_flags(parser)
    return parser.run(arguments)


def run_train(options: argparse.Namespace) -> int:
    if not options.check:
        from .run import run

        return run(resolve(options))
    from .check import check_data, check_run
    from .distributed import world_size

    if options.num_processes is not None and options.num_processes < 1:
        raise ValueError(f"--num-processes must be at least 1, got {options.num_processes}")
    try:
        config = resolve(options)
    except SettingError as error:  # without settings there is no run to plan, but data can be looked at
        lists = getattr(options, "data", ())
        with suppress(SettingError):
            lists = given_settings(options).get("data", ())
        return check_data(lists, [str(error)])
    return check_run(config, options.num_processes or world_size())


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """--check, --preset, --config and a flag for each field of TrainingConfig: those not given leave no trace."""
    parser.add_argument("--check", action="store_true", help="check settings and data, print the plan, and stop")
    planned = "processes that --check plans for (default: those of torchrun, or 1)"
    parser.add_argument("--num-processes", type=int, metavar="N", help=planned)
    parser.add_argument("--preset", choices=tuple(PRESETS), help=PRESET_HELP)
    parser.add_argument("--config", metavar="FILE", help="json or yaml file of settings, between preset and flags")
    hints = get_type_hints(TrainingConfig)
    titles = {TrainingConfig: "settings (they override those of --preset and --config)", DataSettings: "of the data"}
    for owner, title in titles.items():
        group, helps = parser.add_argument_group(title), field_texts(owner)
        for field in fields(owner):
            if field.name in owner.__annotations__:  # its own, not those of DataSettings
                shown = "" if field.default in (MISSING, None, "", ()) else f" (default: {field.default})"
                text = (helps.get(field.name, "") + shown).replace("%", "%%")
                form = _flag_form(_without_none(hints[field.name]))
                group.add_argument(flag(field.name), dest=field.name, default=argparse.SUPPRESS, help=text, **form)
    parser.set_defaults(run=run_train)


def _flag_form(hint: Any) -> dict[str, Any]:
    """What argparse calls a field of this type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is tuple:
        return {"nargs": "+", "metavar": "LIST"}
    if choices := get_args(hint):
        return {"choices": choices}
    return {"type": hint, "metavar": METAVARS[hint]}


def _without_none(hint: Any) -> Any:
    """`int | None` -> int."""
    first, *others = get_args(hint) or (hint,)
    return first if type(None) in others else hint


def field_texts(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[ast.unparse(field.target)] = str(text.value.value)
    return texts


def resolve(options: argparse.Namespace) -> TrainingConfig:
    """The settings that parsed flags ask for. Raises SettingError for unknown names and impossible values."""
    return TrainingConfig(**given_settings(options))


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What preset, file and flags say. Raises SettingError for a file that cannot be used."""
    given = {name: value for name, value in vars(options).items() if name in FIELDS}
    preset = PRESETS[options.preset] if options.preset else {}
    from_file = read_settings(options.config) if options.config else {}
    values = {**preset, **from_file, **given}
    if options.preset == "finetune" and is_small(values["model"]):
        values = {**preset, **FINETUNE_SMALL, **from_file, **given}
    return values


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a json or yaml file. Raises SettingError: no readable file; all unknown names, wrong types."""
    import yaml  # type: ignore[import-untyped]

    kind = "json" if str(path).endswith(".json") else "yaml"
    try:
        text = Path(path).read_text("utf-8")
        values = json.loads(text) if kind == "json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {path} cannot be read: {error}") from error
    except (json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        raise SettingError(f"--config {path} is not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise SettingError(f"--config {path} must hold names and values, got a {type(values).__name__}")
    hints, problems = get_type_hints(TrainingConfig), []
    for name, value in values.items():
        try:
            if name not in FIELDS:
                raise SettingError(f"{path}: unknown setting {name!r}{did_you_mean(str(name), FIELDS)}")
            if name == "gradient_checkpointing" and isinstance(value, bool):  # as versions up to 0.2 wrote it
                values[name] = "all" if value else "none"
            elif value is not None or type(None) not in get_args(hints[name]):
                values[name] = _as_type(value, _without_none(hints[name]), f"{path}: {name}")
        except SettingError as error:
            problems.append(str(error))
    if problems:
        raise SettingError("; ".join(problems))
    return values


def _as_type(value: Any, hint: Any, where: str) -> Any:
    """`value` as the field wants it; an integer is a float, "1e-4" (a text in yaml) too; else kinds must agree."""
    if get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise SettingError(f"{where} must be a list of texts, got {value!r}")
    kind = str if get_args(hint) else hint
    if kind is float and not isinstance(value, bool) and isinstance(value, (int, str)):
        with suppress(ValueError):
            return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise SettingError(f"{where} must be of type {kind.__name__}, got {value!r}")
    return value
