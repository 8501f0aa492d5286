"""How much memory a process takes until its share of the weights is there, for test_distributed.py, under torchrun.

    torchrun --nproc-per-node 2 -m tests.training.start MODEL FOLDER STRATEGY
A line for each process: MiB of all weights (float32), and by how much its memory grew at most since before the model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from tests.training.tiny import Examples, make_loop, settings, tiny_config
from tests.training.together import accelerator_for_fsdp
from videochat_online.model.videochat import VideoChatOnline
from videochat_online.processing import load_tokenizer
from videochat_online.training import loop, run

WIDTH = 1024


def save_model(folder: Path) -> Path:
    """Random weights of about 390 MB."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    llm = {"model_type": "qwen2", "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 6, **heads}
    words = {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    VideoChatOnline(tiny_config(llm_config={**llm, **words})).save_pretrained(folder)
    load_tokenizer("pocket").save_pretrained(folder)
    return folder


def peak() -> float:
    """MiB, of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(model_folder: str, folder: str, strategy: str) -> None:
    if strategy == "fsdp":
        loop.make_accelerator = accelerator_for_fsdp
    shared: list[float] = []
    if strategy.startswith("zero"):
        from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload as Sharing

        convert = Sharing._convert_to_zero_parameters

        def noting(*values: Any) -> None:  # the optimizer's state comes next: 600 MiB a process of its own
            convert(*values)
            shared.append(peak())

        Sharing._convert_to_zero_parameters = noting
    begun = peak()
    model, _ = run.start_model(settings(folder, model=model_folder))
    size = sum(weight.numel() for weight in model.parameters()) * 4 / 2**20
    one = make_loop(folder, model=model, dataset=Examples(8), strategy=strategy)
    one.state.prepare()
    most = (shared[0] if shared else peak()) - begun
    sys.stdout.write(f"rank {one.accelerator.process_index}: weights {size:.0f} MiB, peak {most:.0f} MiB\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
