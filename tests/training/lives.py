"""Runs that are killed and resumed, for test_resume.py: one process that forks, so that libraries load only once.

    python -m tests.training.lives FOLDER
The parent never computes anything (a fork after a backward pass cannot compute); each life is a child that ends by
itself, or by a real SIGKILL or SIGTERM. Prints one json line: how the lives ended.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.training.tiny import make_loop
from videochat_online.training import checkpoints, loop, run  # noqa: F401 (loaded before the first fork)

RUN: dict[str, Any] = {"count": 24, "epochs": 2, "save_every": 2}  # 12 steps, 6 checkpoints


def live(folder: Path, before: Callable[[Any], None] | None = None, **changes: Any) -> int:
    """One life of the run in `folder`, in a child; the status it ends with (minus the signal, where one ended it)."""
    child = os.fork()
    if child == 0:
        os._exit(_child(folder, before, changes))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _child(folder: Path, before: Callable[[Any], None] | None, changes: dict[str, Any]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "told.txt").open("a") as told:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
        try:
            one = make_loop(folder, **{**RUN, "resume": "auto", **changes})
            if before is not None:
                before(one)
            return 0 if one.train() else 143
        except ValueError as error:
            print(f"error: {error}", flush=True)
            return 2


def kill_at_step(step: int) -> Callable[[Any], None]:
    """SIGKILL in the middle of step number `step` (from 1): between backward pass and update."""

    def before(one: Any) -> None:
        one.state.optimizer.register_step_pre_hook(lambda *_: die(one.state.step + 1 == step))

    return before


def kill_while_saving(step: int, seconds: float) -> Callable[[Any], None]:
    """SIGKILL `seconds` after the checkpoint of `step` began to be written."""

    def before(one: Any) -> None:
        save = one.save

        def saving() -> None:
            if one.state.step == step:
                signal.signal(signal.SIGALRM, lambda *_: die(True))
                signal.setitimer(signal.ITIMER_REAL, seconds)
            save()
            die(one.state.step == step)

        one.save = saving

    return before


def die(now: bool) -> None:
    if now:
        os.kill(os.getpid(), signal.SIGKILL)


def terminate_at_step(step: int) -> Callable[[Any], None]:
    """SIGTERM during step number `step`, to the run and each of its data workers, as schedulers send it.

    Another process sends it, to these process ids alone: a worker takes one from its parent for a request to end.
    """
    send = "import os, signal, sys; [os.kill(int(number), signal.SIGTERM) for number in sys.argv[1:]]"

    def before(one: Any) -> None:
        backward = one.backward

        def computing(batches: list[Any]) -> Any:
            if one.state.step + 1 == step:
                workers = [worker.pid for worker in multiprocessing.active_children()]
                assert len(workers) == 1 and os.getpid() > 1
                subprocess.run([sys.executable, "-c", send, *map(str, [os.getpid(), *workers])], check=True)
            return backward(batches)

        one.backward = computing

    return before


def no_room_at_step(step: int, size: int) -> Callable[[Any], None]:
    """From the checkpoint of `step` on no file may grow past `size` bytes, as on a full disk."""

    def before(one: Any) -> None:
        save = one.save

        def saving() -> None:
            if one.state.step == step:
                one.saver.wait()  # the checkpoint before had its room
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            save()

        one.save = saving

    return before


def killed(folder: Path, **changes: Any) -> dict[str, Any]:
    """Three random moments: in a step, while saving, in a step."""
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    early, late = kill_at_step(rng.randint(1, 5)), kill_at_step(rng.randint(7, 12))
    ends = [live(folder, moment, **changes) for moment in (early, kill_while_saving(6, rng.uniform(0, 0.05)), late)]
    return {"ends": [*ends, live(folder, **changes)], "seed": seed}


def terminated(folder: Path, **changes: Any) -> dict[str, Any]:
    ends = [live(folder, terminate_at_step(5), num_workers=1, **changes)]
    return {"left": names(folder), "ends": [*ends, live(folder)]}


def full(folder: Path, **changes: Any) -> dict[str, Any]:
    """Files of the weights' size do not fit, then those of the optimizer's, then a resumed run on a mended disk."""
    ends = [live(folder, no_room_at_step(4, size), **changes) for size in (60_000, 150_000)]
    return {"left": names(folder), "ends": [*ends, live(folder)]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*checkpoint*"))


if __name__ == "__main__":
    root = Path(sys.argv[1])
    told: dict[str, Any] = {"once": {"ends": [live(root / "once")]}}
    told["pairs_once"] = {"ends": [live(root / "pairs_once", llm="lora:4")]}
    told["pairs"] = killed(root / "pairs", llm="lora:4")
    for scenario in (killed, terminated, full):
        told[scenario.__name__] = scenario(root / scenario.__name__)
        name = f"{scenario.__name__} while training"
        told[name] = scenario(root / name, async_checkpoints=True)
    print(json.dumps(told))
