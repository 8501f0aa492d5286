"""One process of a run that several share, for test_distributed.py, under torchrun.

    torchrun --nproc-per-node 2 -m tests.training.together FOLDER STRATEGY [STOP]
They make the loss in parts, as a run alone does not. With STOP every process kills itself in that step. A run that finds a checkpoint resumes it.
FSDP shards over the CPUs of gloo as it does over GPUs; only accelerate has to be told that this is wanted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tests.training.lives import kill_at_step
from tests.training.tiny import Examples, make_loop
from videochat_online.training import loop
from videochat_online.training.distributed import make_accelerator
from videochat_online.training.export import export

RUN: dict[str, Any] = {"global_batch_size": 4, "vision": "full", "drop_path": 0.0, "save_every": 3, "epochs": 1}
SAMPLES = {"text_only": (0, 5, 6, 7, 11)}  # batches without a picture on one process or all


def accelerator_for_fsdp(*values: Any) -> Any:
    """An accelerator that takes the CPUs for several devices of one kind."""
    assert PartialState(cpu=True).device.type == "cpu"  # joins the process group
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return make_accelerator(*values)


def share(folder: Path, strategy: str, stop: int | None = None, **changes: Any) -> None:
    changes = {**RUN, "strategy": strategy, "resume": "auto", **changes}
    one = make_loop(folder, dataset=Examples(24, **SAMPLES), **changes)
    if stop is not None:
        kill_at_step(stop)(one)
    one.train()
    export(one.state, one.config)


if __name__ == "__main__":
    if sys.argv[2] == "fsdp":
        loop.make_accelerator = accelerator_for_fsdp
    share(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None, loss_chunks=3)
