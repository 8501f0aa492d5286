"""What a run's folder says of the run: settings.json and data.json, written before all else, compared on resuming.

data.json knows annotations by the digest of their words, wherever they lie; media are not read for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.registry import read_lists
from ..data.settings import SettingError, flag
from ..files import digest, write_json
from .checkpoints import Checkpoint
from .configuration import MAY_CHANGE, TrainingConfig

SETTINGS_FILE, DATA_FILE = "settings.json", "data.json"
Say = Callable[[str], None]


def write_record(config: TrainingConfig, checkpoint: Checkpoint | None, say: Say) -> None:
    """Write settings and data into the run's folder, once they fit the `checkpoint` to resume, if any.

    Raises SettingError where they do not, with what changed, and where nothing can be written.
    """
    data = describe_data(config)
    if checkpoint is not None:
        check_record(config, checkpoint, say, data)
    try:
        write_json(config.run_folder / DATA_FILE, data)
        write_json(config.run_folder / SETTINGS_FILE, config.to_dict())
    except OSError as error:
        raise SettingError(f"--output-dir {config.output_dir} cannot be written to: {error}") from error


def describe_data(config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """The sets of --data in order: digest of the annotations and options. Raises ValueError where one is unreadable."""
    found: dict[str, dict[str, Any]] = {}
    for one in read_lists(config.data):
        options = {name: getattr(one, name) for name in ("data_augment", "repeat_time", "max_dynamic_patch")}
        try:
            found[one.name] = {"annotation": str(one.annotation), "sha256": digest(one.annotation), **options}
        except OSError as error:
            raise SettingError(f"data set {one.name!r}: {one.annotation} cannot be read ({error.strerror})") from error
    return found


def check_record(config: TrainingConfig, checkpoint: Checkpoint, say: Say, data: dict[str, dict[str, Any]]) -> None:
    """Raise SettingError where the run of `checkpoint` had other data or, in the same folder, other settings."""
    folder = checkpoint.folder.parent
    if folder.resolve() == config.run_folder.resolve():
        _check_settings(folder / SETTINGS_FILE, config)
    if not (folder / DATA_FILE).is_file():
        say(f"WARNING: {folder} has no {DATA_FILE}: it cannot be said whether the annotations are those it began with")
        return
    if changed := _changes(json.loads((folder / DATA_FILE).read_text("utf-8")), data):
        raise SettingError(
            f"--resume {config.resume}: the data is not what {checkpoint.folder} learned from ({'; '.join(changed)}); "
            "give the run its data back, or begin a new one with --resume never and another --output-dir"
        )


def _check_settings(path: Path, config: TrainingConfig) -> None:
    if not path.is_file():
        return
    before, now = json.loads(path.read_text("utf-8")), config.to_dict()
    before = TrainingConfig().to_dict() | before  # a setting that was not known then had its default
    changed = [
        f"{flag(name)} {before[name]!r} -> {value!r}"
        for name, value in now.items()
        if name not in MAY_CHANGE and before[name] != value
    ]
    if changed:
        raise SettingError(
            f"--resume {config.resume}: {config.output_dir} holds a run with other settings ({'; '.join(changed)}); "
            "take its settings, or another --output-dir (and there --resume PATH to resume one of its checkpoints)"
        )


def _changes(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """What is another set, other words or another option; where a file lies does not count."""
    found = [f"data set {name!r} is gone" for name in before if name not in now]
    found += [f"data set {name!r} is new" for name in now if name not in before]
    for name, values in now.items():
        for key, value in values.items():
            old = before.get(name, values).get(key)
            if key == "sha256" and old != value:
                found.append(f"data set {name!r}: the words of {values['annotation']} changed")
            elif key not in ("sha256", "annotation") and old != value:
                found.append(f"data set {name!r}: {key} {old!r} -> {value!r}")
    return found or (["the order of the data sets"] if list(before) != list(now) else [])
