"""How right a gradient of many micro-batches is under a DeepSpeed file, for test_distributed.py, under torchrun.

    torchrun --nproc-per-node 1 -m tests.training.accumulate STRATEGY
STRATEGY may be a json file. Prints the largest relative error of the gradient of NUM equal micro-batches in bfloat16.
"""

from __future__ import annotations

import sys

import torch

from tests.training.tiny import settings
from videochat_online.training.distributed import make_accelerator

NUM = 512


def main(strategy: str) -> None:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    config = settings("run", strategy=strategy, precision="bf16", batch_size=1, global_batch_size=NUM)
    accelerator = make_accelerator(config, NUM)
    model = torch.nn.Linear(8, 8, bias=False).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    values = accelerator.state.deepspeed_plugin.deepspeed_config
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=values)
    pixels = torch.full((1, 8), 0.7109375, dtype=torch.bfloat16)  # a number that bfloat16 has
    for _ in range(NUM):
        engine.backward(engine(pixels).float().sum())
        engine.step() if not engine.is_gradient_accumulation_boundary() else None
    gradient = safe_get_full_grad(engine.module.weight).float()
    print(f"error {(gradient / pixels.float() - 1).abs().max().item():.6f}")  # DeepSpeed takes the mean


if __name__ == "__main__":
    main(sys.argv[1])
