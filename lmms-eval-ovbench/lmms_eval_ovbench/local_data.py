"""`python -m lmms_eval_ovbench.local_data`: lets a task of lmms-eval use data that lies on this machine.

lmms-eval takes a data set's name for a folder where one of that name lies below the working directory, and looks for
videos below HF_HOME. So links are made there, and nothing is copied or downloaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from videochat_online.command_line import CommandParser

from .task_files import TaskFile, task_files


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m lmms_eval_ovbench.local_data", description=__doc__)
    add = parser.add_argument
    add("--tasks", required=True, help="tasks of lmms-eval, with commas between; all of one benchmark")
    add("--annotations", type=Path, metavar="DIR", help="a copy of the data set as it lies on the hub")
    add("--videos", type=Path, metavar="DIR", help="what its archives hold")
    add("--run-in", type=Path, required=True, metavar="DIR", help="the folder lmms-eval will be started in")
    parser.set_defaults(run=link_data)
    return parser.run(arguments)


def link_data(options: argparse.Namespace) -> None:
    """Make the links. Raises ValueError for unknown tasks, and where something else lies in a link's place."""
    for task in task_files(options.tasks.split(",")):
        if options.annotations:
            link(options.run_in / task.dataset, _folder(options.annotations))
        if options.videos:
            link_videos(task, _folder(options.videos))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder")
    return path.resolve()


def link_videos(task: TaskFile, videos: Path) -> None:
    """A folder of links where the task looks for its videos (lmms-eval downloads again where itself is a link)."""
    place = task.media()
    if place is None:
        raise ValueError(f"{task.name} has no folder of videos, so VIDEOS cannot be used with it")
    for entry in videos.iterdir():
        link(place / entry.name, entry)


def link(place: Path, target: Path) -> None:
    """Make `place` a link to `target`. ValueError where something else lies there."""
    if place.is_symlink():
        if place.resolve() == target.resolve():
            return
        place.unlink()
    elif place.exists():
        raise ValueError(f"{place} exists already and is no link; move it away, or leave ANNOTATIONS and VIDEOS unset")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


if __name__ == "__main__":
    sys.exit(main())
