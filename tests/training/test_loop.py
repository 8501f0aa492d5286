"""The loss is the mean that --loss-reduction names; what is frozen gets no gradient; the log is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.training.tiny import Examples, make_loop, packed, padded, tiny_model
from videochat_online.training.log import read_log
from videochat_online.training.loop import with_picture
from videochat_online.training.loss import next_tokens, token_weights


def step_gradients(loop, batches: list[dict]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step over these batches, by the loop's own function."""
    loop.state.model.zero_grad()
    loop.state.model.eval()  # no drop path: the two ways to batch would draw other random numbers
    loss = loop.backward(batches).item()
    return loss, {
        name: weight.grad.clone() for name, weight in loop.state.model.named_parameters() if weight.grad is not None
    }


def assert_same(first: tuple, second: tuple) -> None:
    """Equal up to the order of summation in float32."""
    assert first[0] == pytest.approx(second[0], abs=1e-5)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("reduction", ["token", "sample", "square"])
def test_packed_equals_unpacked(tmp_path: Path, reduction: str):
    loop = make_loop(tmp_path, vision="full", loss_reduction=reduction)
    examples = [loop.dataset[i] for i in range(6)]
    one_row = step_gradients(loop, [packed(examples)])
    assert_same(step_gradients(loop, [padded(examples)]), one_row)
    assert_same(step_gradients(loop, [padded([example]) for example in examples]), one_row)
    assert_same(step_gradients(loop, [packed(examples[:2]), packed(examples[2:])]), one_row)


def test_packed_samples_weigh_as_published(tmp_path: Path):
    """`batch` is the mean of the micro-batches' means: of one sample each, however many lie in a sequence."""
    loop = make_loop(tmp_path, vision="full", loss_reduction="batch", batching="packed", batch_size=1)
    examples = [loop.dataset[i] for i in range(6)]
    assert len({sum(label != -100 for label in example.labels) for example in examples}) > 3  # so that it matters
    published = step_gradients(loop, [padded([example]) for example in examples])
    assert_same(step_gradients(loop, [packed(examples)]), published)
    assert_same(step_gradients(loop, [packed(examples[:1]), packed(examples[1:])]), published)


def test_a_packed_sample_does_not_see_its_neighbour(tmp_path: Path):
    """Other words in the first sample leave the second one's logits alone, to the bit of the same shape."""
    model = make_loop(tmp_path).state.model.eval()
    examples = Examples(2)
    batch = packed([examples[0], examples[1]])
    labels = batch.pop("labels")
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    first = len(examples[0].input_ids)
    changed["input_ids"][0, first - 1] = 11 + batch["input_ids"][0, first - 1] % 2
    assert labels.shape == batch["input_ids"].shape
    before, after = (model(**one, use_cache=False).logits for one in (batch, changed))
    assert torch.equal(before[:, first:], after[:, first:])
    assert not torch.allclose(before[:, first - 1], after[:, first - 1])


@pytest.mark.parametrize("reduction", ["token", "sample", "square", "batch"])
def test_the_loss_is_the_mean_that_is_asked_for(tmp_path: Path, reduction: str):
    loop = make_loop(tmp_path, loss_reduction=reduction)
    examples = [loop.dataset[i] for i in range(3)]
    loss, _ = step_gradients(loop, [padded(examples[:2]), padded(examples[2:])])
    losses = []
    for example in examples:
        batch = padded([example])
        targets = batch.pop("labels")[0, 1:]
        losses.append(
            cross_entropy(loop.state.model(**batch).logits[0, :-1], targets, reduction="none")[targets != -100]
        )
    roots = [len(one) ** 0.5 for one in losses]
    means = {
        "token": torch.cat(losses).mean(),
        "sample": torch.stack([one.mean() for one in losses]).mean(),
        "square": torch.stack([one.mean() * root for one, root in zip(losses, roots, strict=True)]).sum() / sum(roots),
        "batch": (torch.cat(losses[:2]).mean() + losses[2].mean()) / 2,
    }
    assert loss == pytest.approx(means.pop(reduction).item(), abs=1e-5)
    assert all(loss != pytest.approx(other.item(), abs=1e-4) for other in means.values())


def test_weights_of_a_packed_batch():
    """Samples of 2 and 4 tokens with loss in one row, one of 1 in the other; the first of a row has none before it."""
    labels = torch.tensor([[-100, 5, 6, -100, 7, 7, 7, 7], [4, 5, -100, -100, -100, -100, -100, -100]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 0, 0, 0, 0, 0, 0]])
    bears = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0]])
    assert torch.equal(token_weights(labels, "token", positions), bears.float())
    assert torch.equal(token_weights(labels, "batch"), bears / 7)
    of_samples = torch.tensor([[0, 2, 2, 0, 4, 4, 4, 4], [0, 1, 0, 0, 0, 0, 0, 0]]).clamp(min=1)
    for reduction in ("sample", "batch"):  # packed, a sample is a published micro-batch of one
        assert torch.equal(token_weights(labels, reduction, positions), bears / of_samples)
    assert torch.allclose(token_weights(labels, "square", positions), bears / of_samples.sqrt())
    assert torch.equal(token_weights(labels, "sample"), bears / torch.tensor([[6], [1]]))
    assert not token_weights(torch.full((2, 3), -100), "batch").any()


def test_batches_without_loss_count_for_nothing(tmp_path: Path):
    loop = make_loop(tmp_path)
    batch = padded([loop.dataset[0], loop.dataset[1]])
    silent = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert_same(step_gradients(loop, [batch, silent]), step_gradients(loop, [batch]))
    assert step_gradients(loop, [silent])[0] == 0.0


def test_next_tokens_keeps_what_bears_loss():
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 8, -100, -100]])
    targets, weights, positions = next_tokens(labels, labels.clamp(min=0))
    assert positions.tolist() == [0, 1, 2]
    assert targets.tolist() == [[-100, 5, 6], [8, -100, -100]]
    assert weights.tolist() == [[0, 5, 6], [8, 0, 0]]
    targets, _, positions = next_tokens(torch.full((1, 3), -100), torch.zeros(1, 3))
    assert (positions.tolist(), targets.tolist()) == ([0], [[-100]])


@pytest.mark.parametrize("collate", [padded, packed])
def test_a_borrowed_picture_changes_nothing(tmp_path: Path, collate):
    loop = make_loop(tmp_path, dataset=Examples(4, text_only=(0, 1)))
    texts = [loop.dataset[0], loop.dataset[1]]
    plain = collate(texts)
    lent = with_picture(plain, image_size=32, image_token_id=7)
    assert "pixel_values" not in plain and lent["pixel_values"].shape == (1, 3, 32, 32)
    loss, gradients = step_gradients(loop, [plain])
    loss_lent, gradients_lent = step_gradients(loop, [lent])
    assert loss_lent == pytest.approx(loss, abs=1e-6)
    for name, gradient in gradients_lent.items():
        expected = gradients.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4, msg=name)
    assert "mlp1.1.weight" in gradients_lent  # takes part, as other processes need it to
    pictured = collate([loop.dataset[2]])
    assert with_picture(pictured, image_size=32, image_token_id=7) == pictured


PARTS = {
    "stage 1 and 2": ({}, {"mlp1", "language_model"}),
    "connector": ({"llm": "frozen"}, {"mlp1"}),
    "last layer": ({"vision": "last:1", "llm": "frozen"}, {"mlp1", "vision_model.encoder.layers.1"}),
    "all": ({"vision": "full"}, {"vision_model", "mlp1", "language_model"}),
}


@pytest.mark.parametrize("name", PARTS)
def test_what_is_frozen_gets_no_gradient_and_stays(tmp_path: Path, name: str):
    changes, trained = PARTS[name]
    loop = make_loop(tmp_path, max_steps=2, **changes)
    before = {key: weight.clone() for key, weight in loop.state.model.state_dict().items()}
    _, gradients = step_gradients(loop, [padded([loop.dataset[0]])])
    loop.state.model.zero_grad()
    prefixes = tuple(part + "." for part in trained)
    expected = {key for key, _ in loop.state.model.named_parameters() if key.startswith(prefixes)}
    assert set(gradients) == expected
    assert all(gradient.abs().sum() > 0 for key, gradient in gradients.items() if "embed_tokens" not in key)
    assert loop.train()
    changed = {key for key, weight in loop.state.model.state_dict().items() if not torch.equal(weight, before[key])}
    assert changed <= expected
    assert {part for part in trained if any(key.startswith(part) for key in changed)} == trained


def test_layers_above_the_one_that_is_read_never_train(tmp_path: Path):
    loop = make_loop(tmp_path, model=tiny_model(select_layer=-2), vision="full")
    trained = {name for name, weight in loop.state.model.named_parameters() if weight.requires_grad}
    assert not any(name.startswith("vision_model.encoder.layers.1.") for name in trained)
    _, gradients = step_gradients(loop, [padded([loop.dataset[0]])])
    assert set(gradients) == trained


def test_the_log_tells_speed_and_padding(tmp_path: Path):
    loop = make_loop(tmp_path, count=8, drop_path=0.0)
    assert loop.train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    batches = list(loop.plan.batches(0))
    for step, line in enumerate(lines[:-1]):
        taken = [[loop.dataset.lengths[i] for i in batch] for batch in batches[2 * step : 2 * step + 2]]
        positions = sum(max(batch) * len(batch) for batch in taken)
        assert line["padding_share"] == pytest.approx(1 - sum(map(sum, taken)) / positions, abs=1e-4)
        assert line["images_per_second"] > 0 and line["tokens_per_second"] > 0 and 0 <= line["data_wait_share"] <= 1
    assert len(lines) == 3 and lines[-1]["train_loss"] == pytest.approx(sum(line["loss"] for line in lines[:-1]) / 2)


def test_checkpointed_activations_change_nothing(tmp_path: Path):
    losses = []
    for name, checkpointed in (("with", "all"), ("without", "none")):
        loop = make_loop(tmp_path / name, count=8, gradient_checkpointing=checkpointed, drop_path=0.0)
        loop.train()
        losses.append([line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_padding_needs_no_mask(tmp_path: Path):
    """Gradients as with the mask that the model is given at inference."""
    loop = make_loop(tmp_path)
    batch = padded([loop.dataset[i] for i in range(3)])
    assert not batch["attention_mask"].all()
    loss, gradients = step_gradients(loop, [batch])
    loop.state.model.zero_grad()
    expected = loop.state.model(**batch, use_cache=False).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, weight in loop.state.model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(gradients[name], weight.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_new_lora_pairs_follow_the_seed(tmp_path: Path):
    pytest.importorskip("peft", reason="needs peft: pip install 'videochat-online[train]'")
    pairs = []
    for seed, drawn_before in ((7, 0), (7, 5), (8, 0)):
        model = tiny_model()
        torch.rand(drawn_before)
        loop = make_loop(tmp_path, model=model, llm="lora:2", seed=seed)
        pairs.append([weight for name, weight in loop.state.model.named_parameters() if ".lora_A." in name])
    assert all(map(torch.equal, pairs[0], pairs[1])) and not any(map(torch.equal, pairs[0], pairs[2]))


@pytest.mark.parametrize("asked", ["all", "vision", "llm", "none"])
def test_gradients_are_checkpointed_in_the_parts_that_are_named(tmp_path: Path, asked: str):
    """In a step too: the layers of the other part keep what they computed."""
    loop = make_loop(tmp_path, count=4, gradient_checkpointing=asked, vision="full", max_steps=1)
    model = loop.state.model
    for name, layers in (("vision", model.vision_model.encoder.layers), ("llm", model.language_model.model.layers)):
        assert {layer.gradient_checkpointing for layer in layers} == {asked in ("all", name)}
    computed = {"vision": 0, "llm": 0}
    for name, layer in (
        ("vision", model.vision_model.encoder.layers[0].mlp),
        ("llm", model.language_model.model.layers[0].mlp),
    ):
        layer.register_forward_pre_hook(lambda *_, name=name: computed.update({name: computed[name] + 1}))
    loop.train()
    batches = loop.plan.shape.accumulation
    assert computed == {name: batches * (2 if asked in ("all", name) else 1) for name in computed}
