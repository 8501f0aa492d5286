"""Answers that share beginnings are scored in one pass, and each gets what it would get alone."""

from __future__ import annotations

import pytest
import torch
from transformers import Phi3Config

from videochat_online.streaming import language
from videochat_online.streaming.cache import OptionTree, takes_mask

from .sessions import watching

OPTIONS = ["(A)", "A", "(A) the red circle", "(B)", "B", "(B) the red square", "the red", "A"]


def test_shared_beginnings_stand_once():
    tree = OptionTree.of([[5, 6, 9], [5, 7, 9], [5, 9], [8, 6, 9]])
    assert tree.spoken == [5, 6, 7, 8, 6]
    assert tree.positions(10).tolist() == [[10, 11, 12, 12, 11, 12]]
    sees = tree.mask(2, torch.float32)[0, 0] == 0
    assert sees[:, :2].all()
    assert sees[:, 2:].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 1, 1],
    ]


def test_an_answers_score_sums_its_own_tokens():
    tree = OptionTree.of([[0, 2], [1, 2], [2]])
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0], [0.0, 5.0, 0.0]])
    table = logits.log_softmax(-1)
    expected = [table[0, 0] + table[1, 2], table[0, 1] + table[2, 2], table[0, 2]]
    assert tree.scores(logits) == pytest.approx([float(value) for value in expected])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_together_is_one_by_one(pocket, monkeypatch, attention):
    model = pocket[0]
    monkeypatch.setattr(model.config.llm_config, "_attn_implementation", attention)
    together = watching(pocket, seed=3).score_options("What is it?", OPTIONS)
    cold = watching(pocket, seed=3, reuse_cache=False).score_options("What is it?", OPTIONS)
    monkeypatch.setattr(language, "takes_mask", lambda config, num_positions: False)
    behind = watching(pocket, seed=3).score_options("What is it?", OPTIONS)
    assert together == pytest.approx(cold, abs=1e-3) and behind == pytest.approx(cold, abs=1e-3)
    assert together[1] == together[7] and len(set(together)) == len(OPTIONS) - 1


def test_one_pass_for_all_options(pocket, monkeypatch):
    session, calls = watching(pocket, seed=3), []
    peek = session.language.cache.peek
    monkeypatch.setattr(session.language.cache, "peek", lambda *values: calls.append(1) or peek(*values))
    session.score_options("What is it?", OPTIONS)
    assert len(calls) == 1
    assert session.ask("What is it?", max_new_tokens=8) == watching(pocket, seed=3).ask("What is it?", max_new_tokens=8)


@pytest.mark.parametrize(
    ("attention", "window", "length", "takes"),
    [("sdpa", None, 9000, True), ("eager", 512, 512, True), ("sdpa", 512, 513, False)],
)
def test_masks_only_where_they_say_what_the_model_would(attention, window, length, takes):
    config = Phi3Config(sliding_window=window, attn_implementation=attention)
    assert takes_mask(config, length) is takes
    config._attn_implementation = "flash_attention_2"
    assert not takes_mask(config, 1)
