"""A whole evaluation with the fake model, as a program of its own that a test can kill or start twice.

python -m tests.evaluation.run_fake ANNOTATIONS VIDEOS OUTPUT MODE SECONDS_PER_CONVERSATION
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.evaluation.conftest import FakeResponder
from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.modes import Examiner
from videochat_online.evaluation.report import write_report
from videochat_online.evaluation.runner import Run, completed, execute
from videochat_online.media.find import VideoLibrary


@dataclass
class SlowResponder(FakeResponder):
    seconds: float = 0.0

    def open(self, system_prompt: str | None) -> Any:
        time.sleep(self.seconds)
        return super().open(system_prompt)


def run_of(
    annotations: Path,
    videos: Path,
    output: Path,
    mode: Any,
    *,
    multi_turn: bool = False,
    responder: FakeResponder | None = None,
    **changes: Any,
) -> Run:
    benchmark = OVBench()
    settings = replace(benchmark.window if mode == "sliding_window" else benchmark.stream, multi_turn=multi_turn)
    parts = {
        "benchmark": benchmark,
        "tasks": benchmark.load(annotations),
        "examiner": Examiner(responder or FakeResponder(), mode, settings),
        "library": VideoLibrary(videos),
        "output": output,
        "config": {"benchmark": "ovbench", "mode": mode},
    }
    return Run(**{**parts, **changes})


def main() -> None:
    annotations, videos, output = map(Path, sys.argv[1:4])
    responder = SlowResponder(seconds=float(sys.argv[5]))
    run = run_of(annotations, videos, output, sys.argv[4], responder=responder)
    execute(run, resume=True)
    predictions = completed(run)
    if predictions is not None:
        write_report(output, run.benchmark, run.tasks, run.config, predictions, command=["run_fake"])


if __name__ == "__main__":
    main()
