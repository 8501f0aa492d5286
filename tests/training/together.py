"""One process of a run that several share, for test_distributed.py, under torchrun.

    torchrun --nproc-per-node 2 -m tests.training.together FOLDER STRATEGY [--stop N] [--sequence-parallel N] ...
With --stop every process kills itself in that step, once its checkpoints are written. A run that finds a checkpoint
resumes it. FSDP and ZeRO-2 write theirs while they train. They make the loss in parts, as a run alone does not.
FSDP shards over the CPUs of gloo as it does over GPUs; only accelerate has to be told that this is wanted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tests.training.lives import kill_at_step
from tests.training.tiny import Examples, make_loop, tiny_model
from videochat_online.training import loop
from videochat_online.training.distributed import make_accelerator
from videochat_online.training.evaluating import HeldOut
from videochat_online.training.export import export

RUN: dict[str, Any] = {"global_batch_size": 4, "vision": "full", "drop_path": 0.0, "save_every": 3, "epochs": 1}
RUN |= {"eval_data": ("none.json",), "eval_every": 3}
LONGROPE = {
    "model_type": "phi3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "original_max_position_embeddings": 24,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
}  # fmt: skip
"""Some samples are longer than 24 tokens, and no half of one is."""
PAIRS: dict[str, Any] = {"vision": "frozen", "llm": "lora:4", "lora_dropout": 0.0}
"""Most is frozen: what is run with a strategy that is called `zero3+pairs`."""
SAMPLES = {"text_only": (0, 5, 6, 7, 11)}  # batches without a picture on one process or all


def accelerator_for_fsdp(*values: Any) -> Any:
    """An accelerator that takes the CPUs for several devices of one kind."""
    assert PartialState(cpu=True).device.type == "cpu"  # joins the process group
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return make_accelerator(*values)


def share(folder: Path, strategy: str, stop: int | None = None, longrope: bool = False, **changes: Any) -> None:
    strategy, _, with_pairs = strategy.partition("+")
    changes = {**RUN, "strategy": strategy, "async_checkpoints": strategy in ("fsdp", "zero2"), **changes}
    changes |= PAIRS if with_pairs else {}
    model = tiny_model(llm_config=LONGROPE) if longrope else None
    one = make_loop(folder, dataset=Examples(24, **SAMPLES), model=model, resume="auto", **changes)
    if stop is not None:
        one.state.optimizer.register_step_pre_hook(lambda *_: one.saver.thread.ident and one.saver.thread.join())
        kill_at_step(stop)(one)
    one.train(HeldOut(Examples(3, seed=5, text_only=(1,)), "3 rows"))
    export(one.state, one.config)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("strategy")
    parser.add_argument("--stop", type=int)
    parser.add_argument("--longrope", action="store_true")
    parser.add_argument("--sequence-parallel", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=2)
    options = vars(parser.parse_args())
    if options["strategy"].startswith("fsdp"):
        loop.make_accelerator = accelerator_for_fsdp
    share(**options, loss_chunks=3)
