"""Batches: padding is masked, packed examples keep their own positions and see none of each other."""

from __future__ import annotations

import random

import pytest
import torch

from videochat_online.data.dataset import PackingCollator, PaddingCollator, TrainingExample

PAD = 99


def example(length: int, *, grids: tuple[int, ...] = (), seed: int = 0) -> TrainingExample:
    """Ids seed*1000, +1, ...; loss on the second half; picture n of it is filled with seed + n / 10."""
    ids = [seed * 1000 + n for n in range(length)]
    labels = [-100 if n < length // 2 else id_ for n, id_ in enumerate(ids)]
    pixels = (
        torch.stack([torch.full((3, 2, 2), seed + n / 10) for n in range(len(grids))])
        if grids
        else torch.zeros(0, 3, 2, 2)
    )
    return TrainingExample(ids, labels, pixels, list(grids), ("set", seed))


EXAMPLES = [example(5, grids=(4, 1), seed=1), example(3, seed=2), example(7, grids=(2,), seed=3)]


def test_padding():
    batch = PaddingCollator(PAD)(EXAMPLES)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "input_ids": (3, 7),
        "labels": (3, 7),
        "attention_mask": (3, 7),
        "pixel_values": (3, 3, 2, 2),
        "image_grids": (3,),
    }
    for row, one in enumerate(EXAMPLES):
        length = len(one.input_ids)
        assert batch["input_ids"][row].tolist() == one.input_ids + [PAD] * (7 - length)
        assert batch["labels"][row].tolist() == one.labels + [-100] * (7 - length)
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (7 - length)
    assert batch["image_grids"].tolist() == [4, 1, 2]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == pytest.approx([1.0, 1.1, 3.0])


def test_the_mask_marks_padding_and_no_token():
    one = example(4, seed=0)
    assert one.input_ids[0] == 0
    batch = PaddingCollator(pad_token_id=0)([one, example(6)])
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 1, 0, 0]


def test_texts_bring_no_pictures():
    assert set(PaddingCollator(PAD)([example(3)])) == {"input_ids", "labels", "attention_mask"}
    assert set(PackingCollator(PAD, 10)([example(3)])) == {"input_ids", "labels", "position_ids"}


def test_packing_fills_sequences():
    batch = PackingCollator(PAD, 8)(EXAMPLES)
    assert batch["input_ids"].tolist() == [EXAMPLES[0].input_ids + EXAMPLES[1].input_ids, [*EXAMPLES[2].input_ids, PAD]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 0]]
    assert batch["image_grids"].tolist() == [4, 1, 2]
    assert "attention_mask" not in batch


def test_pictures_follow_their_examples_into_the_sequences():
    examples = [example(6, grids=(1,), seed=1), example(6, grids=(2,), seed=2), example(2, grids=(4,), seed=3)]
    batch = PackingCollator(PAD, 8)(examples)
    assert batch["input_ids"].tolist() == [
        examples[0].input_ids + examples[2].input_ids,
        [*examples[1].input_ids, PAD, PAD],
    ]
    assert batch["image_grids"].tolist() == [1, 4, 2]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("seed", range(10))
def test_packing_asks_for_exactly_the_labels_padding_asks_for(seed: int):
    rng = random.Random(seed)
    examples = [
        example(rng.randrange(2, 20), grids=(rng.choice((1, 2, 4)),) * rng.randrange(3), seed=n) for n in range(9)
    ]
    padded, packed = PaddingCollator(PAD)(examples), PackingCollator(PAD, 25)(examples)

    def asked(batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
        """(token before, label) wherever a causal model has loss."""
        places = (batch["labels"][:, 1:] != -100).nonzero().tolist()
        return sorted((int(batch["input_ids"][r, c]), int(batch["labels"][r, c + 1])) for r, c in places)

    assert asked(packed) == asked(padded)
    assert len(packed["input_ids"]) < len(padded["input_ids"])
    assert sorted(packed["image_grids"].tolist()) == sorted(padded["image_grids"].tolist())


def test_the_first_label_of_an_example_is_not_asked_of_the_one_before():
    first, second = example(3, seed=1), example(3, seed=2)
    second.labels = list(second.input_ids)
    labels = PackingCollator(PAD, 6)([first, second])["labels"][0].tolist()
    assert labels == [*first.labels, -100, *second.labels[1:]]


def block_mask(sizes: list[int]) -> torch.Tensor:
    """bool (L, L), L = sum(sizes): a token may look at those of its own block that are not later."""
    block = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return (block[:, None] == block[None, :]).tril()


def test_transformers_reads_the_borders_off_the_positions():
    from transformers import Qwen2Config
    from transformers.masking_utils import create_causal_mask

    batch = PackingCollator(PAD, 8)(EXAMPLES)
    read = create_causal_mask(
        Qwen2Config(attn_implementation="sdpa"), torch.zeros(2, 8, 4), None, None, position_ids=batch["position_ids"]
    )  # mask and cache: None
    assert torch.equal(read.expand(2, 1, 8, 8)[:, 0], torch.stack([block_mask([5, 3]), block_mask([7, 1])]))


def test_an_example_longer_than_a_sequence_is_named():
    with pytest.raises(ValueError, match="sample 1 of a batch has 9 tokens, expected at most max_length=8"):
        PackingCollator(PAD, 8)([example(3), example(9)])
