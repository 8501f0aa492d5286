"""Settings <- preset <- json or yaml file <- flags; unknown names fail with the nearest known ones."""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import json
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .arguments import SettingError, TrainingConfig, field_names, flag
from .presets import FINETUNE_SMALL, PRESETS, is_small

PRESET_HELP = "start from named settings: finetune for tens to thousands of samples, the others are the paper's stages"
METAVARS: dict[Any, str] = {str: "TEXT", int: "N", float: "X"}


class FlagParser(argparse.ArgumentParser):
    """argparse that answers a flag it does not know with the ones that look like it."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(None if args is None else list(args), namespace)
        if unknown:
            flags = [name for action in self._actions for name in action.option_strings]
            wrong = next((word.split("=")[0] for word in unknown if word.startswith("-")), unknown[0])
            self.error(f"unknown flag {wrong}{did_you_mean(wrong, flags)}")
        return options


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """--preset, --config and a flag for each field of TrainingConfig. A flag that is not given leaves no trace."""
    parser.add_argument("--preset", choices=tuple(PRESETS), help=PRESET_HELP)
    parser.add_argument("--config", metavar="FILE", help="json or yaml file of settings, between preset and flags")
    group = parser.add_argument_group("settings (they go over those of --preset and --config)")
    hints, helps = get_type_hints(TrainingConfig), field_texts(TrainingConfig)
    for field in fields(TrainingConfig):
        _add_flag(group, field, hints[field.name], helps.get(field.name, ""))


def _add_flag(group: Any, field: Field[Any], hint: Any, text: str) -> None:
    shown = "" if field.default in (MISSING, None, "", ()) else f" (default: {field.default})"
    text = (text + shown).replace("%", "%%")
    common: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
    hint = _without_none(hint)
    if hint is bool:
        group.add_argument(flag(field.name), action=argparse.BooleanOptionalAction, **common)
    elif get_origin(hint) is tuple:
        group.add_argument(flag(field.name), nargs="+", metavar="LIST", **common)
    elif choices := get_args(hint):
        group.add_argument(flag(field.name), choices=choices, **common)
    else:
        group.add_argument(flag(field.name), type=hint, metavar=METAVARS[hint], **common)


def _without_none(hint: Any) -> Any:
    """`int | None` -> int."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) else hint


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
    given = {name: value for name, value in vars(options).items() if name in field_names()}
    preset = PRESETS[options.preset] if options.preset else {}
    from_file = read_settings(options.config) if options.config else {}
    values = {**preset, **from_file, **given}
    if options.preset == "finetune" and is_small(values["model"]):
        values = {**preset, **FINETUNE_SMALL, **from_file, **given}
    return TrainingConfig(**values)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a json or yaml file. Raises SettingError: no readable file, unknown names, wrong types."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {path} cannot be read: {error}") from error
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise SettingError(f"--config {path} must hold names and values, got a {type(values).__name__}")
    known, hints = field_names(), get_type_hints(TrainingConfig)
    for name, value in values.items():
        if name not in known:
            raise SettingError(f"{path}: unknown setting {name!r}{did_you_mean(str(name), known)}")
        if value is not None or type(None) not in get_args(hints[name]):
            values[name] = _as_type(value, _without_none(hints[name]), f"{path}: {name}")
    return values


def _parse(text: str, path: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    kind = "json" if path.endswith(".json") else "yaml"
    try:
        return json.loads(text) if kind == "json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"--config {path} is not valid {kind}: {error}") from error


def _as_type(value: Any, hint: Any, where: str) -> Any:
    """`value` as the field wants it; an integer is a float, "1e-4" (a text in yaml) too; else kinds must agree."""
    if get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise SettingError(f"{where} must be a list of texts, got {value!r}")
    kind = str if get_args(hint) else hint
    if kind is float and not isinstance(value, bool) and isinstance(value, (int, str)):
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise SettingError(f"{where} must be of type {kind.__name__}, got {value!r}")
    return value


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean a or b?', or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
