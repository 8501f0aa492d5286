"""The published rules of training, and our trainer against a plain loop that is written from them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.training.tiny import Example, padded, settings, tiny_model
from tests.training.twenty_steps import RUN, STEPS, losses_of, twenty_steps
from videochat_online.training.parts import choose_parts, make_optimizer

ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-5
"""Sums in another order, in float32, over twenty steps of Adam; the reductions differ by 1e-2 and more."""


def decayed(model: Any, **changes: Any) -> tuple[set[str], set[str]]:
    """Names of the trained weights with weight decay, and of those without."""
    config = settings("run", **changes)
    choose_parts(model, config)
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = make_optimizer(model, config).param_groups
    assert [group["weight_decay"] for group in groups] == [config.weight_decay, 0.0]
    first, second = ({names[id(weight)] for weight in group["params"]} for group in groups)
    return first, second


def test_phi3s_norms_are_decayed():
    """29 of the 33 tensors of a language model of four layers and a connector; without its norms 20."""
    phi3 = {
        "model_type": "phi3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 2, "vocab_size": 64, "pad_token_id": 0,
    }  # fmt: skip
    model = tiny_model(llm_config=phi3)
    with_decay, without = decayed(model)
    assert (len(with_decay), len(without)) == (29, 4)
    assert without == {"mlp1.0.weight", "mlp1.0.bias", "mlp1.1.bias", "mlp1.3.bias"}
    with_decay, without = decayed(model, decay_norms=False)
    assert (len(with_decay), len(without)) == (20, 13)
    assert all("norm" in name for name in without if not name.startswith("mlp1"))


def test_llamas_norms_and_the_encoders_are_not_decayed():
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
             "num_attention_heads": 2, "vocab_size": 64}  # fmt: skip
    for decay_norms in (True, False):
        with_decay, without = decayed(tiny_model(llm_config=llama), vision="full", decay_norms=decay_norms)
        assert not any("norm" in name or "bias" in name for name in with_decay)
        assert any(name.startswith("vision_model") and ".norm1." in name for name in without)
        assert {name for name in with_decay if ".ls1" in name or "class_embedding" in name}


def plain_steps(plan: Any, dataset: Any, reduction: str) -> tuple[list[float], Any]:
    """Losses of twenty steps, and the model after them: each sample alone, a graph for a whole step, AdamW.

    The schedule: linear from 0 over the first 3 % of the steps, then a cosine to 0.
    """
    model = tiny_model()
    model.requires_grad_(True).vision_model.requires_grad_(False)
    plain = [weight for name, weight in model.named_parameters() if name == "mlp1.0.weight" or "bias" in name]
    rest = [weight for weight in model.parameters() if all(weight is not other for other in plain)]
    groups = [{"params": rest, "weight_decay": RUN["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    batches, per_step, warmup = [], plan.shape.batches_per_step, math.ceil(0.03 * STEPS)
    while len(batches) < STEPS * per_step:
        batches += list(plan.batches(len(batches) // (per_step * plan.steps_per_epoch)))
    losses = []
    for step in range(STEPS):
        rate = step / warmup if step < warmup else (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) / 2
        for group in optimizer.param_groups:
            group["lr"] = RUN["learning_rate"] * rate
        of_step = batches[step * per_step : (step + 1) * per_step]
        loss = reduced([[token_losses(model, dataset[i]) for i in batch] for batch in of_step], reduction)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def token_losses(model: Any, example: Example) -> torch.Tensor:
    """(n,): of the tokens of one sample's answer."""
    batch = padded([example])
    targets = batch.pop("labels")[0, 1:]
    return cross_entropy(model(**batch).logits[0, :-1], targets, reduction="none")[targets != -100]


def reduced(batches: list[list[torch.Tensor]], reduction: str) -> torch.Tensor:
    """The losses of each token of each sample of each micro-batch of a step -> the step's."""
    samples = [sample for batch in batches for sample in batch]
    if reduction == "batch":  # published: the mean of the micro-batches' means
        return torch.stack([torch.cat(batch).mean() for batch in batches]).mean()
    if reduction == "sample":
        return torch.stack([sample.mean() for sample in samples]).mean()
    if reduction == "square":
        weights = torch.tensor([len(sample) ** 0.5 for sample in samples])
        return (torch.stack([sample.mean() for sample in samples]) * weights).sum() / weights.sum()
    return torch.cat(samples).mean()


def assert_equal(folder: Path, loop: Any, reduction: str) -> None:
    ours = losses_of(folder)
    plain, model = plain_steps(loop.plan, loop.dataset, reduction)
    assert len(ours) == STEPS and ours[-1] < ours[0] - 0.2
    assert ours == pytest.approx(plain, abs=TOLERANCE)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loop.state.model.state_dict()[name], weight, atol=1e-3, rtol=0, msg=name)


@pytest.mark.parametrize("reduction", ["batch", "sample", "square", "token"])
def test_twenty_steps_equal_a_plain_loop(tmp_path: Path, reduction: str):
    """Four batches of two samples a step."""
    assert_equal(tmp_path, twenty_steps(tmp_path, reduction), reduction)


@pytest.mark.parametrize("reduction", ["sample", "token", "batch"])
def test_twenty_packed_steps_equal_a_plain_loop(tmp_path: Path, reduction: str):
    """Of `batch`, each sample is a micro-batch of its own, as published."""
    loop = twenty_steps(tmp_path, reduction, batching="packed", batch_size=1)
    assert_equal(tmp_path, loop, "sample" if reduction == "batch" else reduction)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["batch", "token"])
def test_twenty_steps_on_two_processes_equal_a_plain_loop(tmp_path: Path, reduction: str):
    """Two batches of two samples a step on each of two, over gloo."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.twenty_steps", str(tmp_path / "two"), reduction]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    loop = twenty_steps(tmp_path / "one", reduction)  # for its plan
    plain, _ = plain_steps(loop.plan, loop.dataset, reduction)
    assert losses_of(tmp_path / "two") == pytest.approx(plain, abs=TOLERANCE)
