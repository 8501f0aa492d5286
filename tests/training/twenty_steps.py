"""Twenty steps of our trainer on a tiny model, for test_recipe.py; under torchrun they are shared by its processes.

    torchrun --nproc-per-node 2 -m tests.training.twenty_steps FOLDER LOSS_REDUCTION
Answers have 1 to about 30 tokens, so that the reductions differ. No drop path: it draws random numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.training.tiny import Examples, make_loop, packed
from videochat_online.training.log import read_log

STEPS = 20
RUN: dict[str, Any] = {
    "global_batch_size": 8, "batch_size": 2, "max_steps": STEPS, "drop_path": 0.0, "learning_rate": 1e-2,
    "save_every": STEPS, "weight_decay": 0.5,
}  # fmt: skip


def twenty_steps(folder: Path, reduction: str, **changes: Any) -> Any:
    """The loop after its steps; its log is in `folder`."""
    collator = packed if changes.get("batching") == "packed" else None
    changes = {**RUN, "loss_reduction": reduction, **changes}
    loop = make_loop(folder, dataset=Examples(30, text_only=(0, 5, 6, 7)), collator=collator, **changes)
    loop.train()
    return loop


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line]


if __name__ == "__main__":
    twenty_steps(Path(sys.argv[1]), sys.argv[2])
