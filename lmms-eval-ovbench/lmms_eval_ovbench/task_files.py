"""What lmms-eval knows about tasks by name: the tasks of a group, and where the data of a task comes from.

Reads lmms-eval's task files and loads no data.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config, resolve_cache_dir
from loguru import logger

from . import tasks as task_folder

OVBENCH_PREFIX = "ovbench_"


@dataclass(frozen=True)
class TaskFile:
    """One task and its data."""

    name: str
    dataset: str
    """A data set of the hub, or of a folder of that name below the working directory."""
    cache_folder: str | None
    """Folder of the videos below HF_HOME."""
    path: str
    """The task's own file."""

    @property
    def ovbench_source(self) -> str | None:
        """ava, coin, hirest or tao; None: not one of our tasks."""
        return self.name.removeprefix(OVBENCH_PREFIX) if self.name.startswith(OVBENCH_PREFIX) else None

    def import_code(self) -> None:
        """Import what the task file names; ImportError where a package is missing."""
        load_yaml_config(self.path, mode="full")

    def media(self) -> Path | None:
        """Where the task looks for its videos."""
        return None if self.cache_folder is None else Path(resolve_cache_dir(self.cache_folder, str(hub_home())))


def hub_home() -> Path:
    """The folder of everything that comes from the hub."""
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def include_path() -> str:
    """The folder of our task files."""
    return str(Path(task_folder.__path__[0]))


def task_files(names: Sequence[str]) -> list[TaskFile]:
    """The tasks that `names` (tasks, groups, tags) stand for. ValueError for names lmms-eval does not know."""
    logger.disable("lmms_eval.tasks")  # it names every file that is no task
    manager = TaskManager(include_path=include_path())
    logger.enable("lmms_eval.tasks")
    if unknown := [name for name in names if name not in manager.task_index]:
        raise ValueError(f"lmms-eval knows no task {', '.join(unknown)}; `python -m lmms_eval tasks` lists them")
    return [_task_file(manager, one) for name in names for one in _members(manager, name)]


def _members(manager: TaskManager, name: str) -> list[str]:
    entry = manager.task_index[name]
    if entry["type"] == "task":
        return [name]
    listed = entry["task"]
    if listed == -1:  # a group's own file
        listed = load_yaml_config(entry["yaml_path"], mode="simple")["task"]
    return [one for member in listed for one in _members(manager, _name_of(member))]


def _name_of(member: str | dict[str, Any]) -> str:
    return member if isinstance(member, str) else member["task"]


def _task_file(manager: TaskManager, name: str) -> TaskFile:
    path = manager.task_index[name]["yaml_path"]
    config = load_yaml_config(path, mode="simple")
    settings = config.get("dataset_kwargs") or {}
    folder = settings.get("cache_dir") if settings.get("video") else None
    return TaskFile(name, str(config["dataset_path"]), folder, path)
