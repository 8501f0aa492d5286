"""--loss-chunks: the same loss and gradients, with a fraction of the logits at once; attention chosen for packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.test_loop import assert_same, step_gradients
from tests.training.tiny import make_loop, packed, padded, settings, tiny_config, tiny_model
from videochat_online.data.settings import SettingError
from videochat_online.training.loss import weighted_loss
from videochat_online.training.memory import Load, estimate
from videochat_online.training.parts import PartRow

WORDS = 97
"""Of the vocabulary: no other tensor has this many columns."""


class MostLogits(TorchDispatchMode):
    """Notes the most rows of a tensor (rows, vocabulary) that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor) and one.ndim > 1 and one.shape[-1] == WORDS:
                self.rows = max(self.rows, one.numel() // WORDS)
        return result


@pytest.mark.parametrize("reduction", ["token", "batch"])
@pytest.mark.parametrize("num_chunks", [2, 5, 1000])
def test_chunks_change_nothing_but_the_logits_at_once(tmp_path: Path, reduction: str, num_chunks: int):
    """Also with more chunks than tokens, whose last ones are empty."""
    examples = [make_loop(tmp_path).dataset[i] for i in range(6)]
    batches = [packed(examples[:3]), padded(examples[3:])]
    found, rows = [], []
    for chunks in (1, num_chunks):
        model = tiny_model(llm_config=tiny_config().llm_config.to_dict() | {"vocab_size": WORDS})
        loop = make_loop(tmp_path, model=model, loss_reduction=reduction, loss_chunks=chunks)
        with MostLogits() as most:
            found.append(step_gradients(loop, batches))
        rows.append(most.rows)
    assert_same(*found)
    width = model.config.llm_config.hidden_size  # the head's weight, turned round, is (width, vocabulary)
    assert rows[1] <= max(width, -(-rows[0] // num_chunks)) < rows[0]


def test_every_process_calls_the_head_equally_often():
    """ZeRO-3 gathers its weights at each call, on all processes together: however few tokens one of them has."""
    head, calls = torch.nn.Linear(4, 9), []
    head.register_forward_hook(lambda *_: calls.append(1))
    for num_tokens in (1, 7):
        calls.clear()
        positions, targets = torch.arange(num_tokens), torch.zeros(1, num_tokens, dtype=torch.long)
        of_batch = {"targets": targets, "weights": torch.ones(1, num_tokens), "positions": positions}
        hidden = torch.ones(1, 8, 4, requires_grad=True)
        weighted_loss(head, hidden, **of_batch, num_chunks=4).backward()
        assert len(calls) == 8 and hidden.grad is not None  # once forward, once backward


def test_the_estimate_counts_chunks():
    rows, load = [PartRow("rest", "full", 1000, 1000)], Load(30_000, 1)
    logits = [estimate(rows, tiny_config(), settings("run", loss_chunks=n), 1, load)["logits"] for n in (1, 8)]
    assert logits[0] == 8 * logits[1] > 0


def test_a_part_at_least():
    with pytest.raises(SettingError, match="--loss-chunks must be at least 1, got 0"):
        settings("run", loss_chunks=0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"batching": "packed"}, "varlen"), ({}, "sdpa"), ({"batching": "packed", "attention": "sdpa"}, "sdpa")],
)
def test_packing_attends_by_sample_unless_told_otherwise(tmp_path: Path, changes: dict[str, Any], expected: str):
    loop = make_loop(tmp_path, **changes)
    assert loop.state.model.language_model.config._attn_implementation == expected
