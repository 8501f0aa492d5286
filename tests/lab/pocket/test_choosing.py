"""What a chooser is trained on: evidence as labels, ages that count alike, and a network that learns from it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from videochat_online.lab.pocket import choosing
from videochat_online.lab.pocket.choosing import batch_of, choice_lessons, fit_chooser, found_of, lesson_of, wanted_of
from videochat_online.lab.shapeworld.simulate import sample_stream
from videochat_online.streaming.chooser import ChooserNetwork

CHANNELS, WIDTH = 12, 8


def encode(frames: np.ndarray) -> torch.Tensor:
    """Colours of nine regions of the picture stand in for an encoder."""
    small = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(frames).permute(0, 3, 1, 2) / 255, 2)
    return small.flatten(1)[..., None, None].expand(-1, -1, 2, 2)


def words(text: str) -> torch.Tensor:
    return torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(len(w))) for w in text.split()])


@pytest.fixture(scope="module")
def lesson():
    return lesson_of(sample_stream(3, "train", 2, 60.0), 1, 1.0, encode, np.random.default_rng(0))


def test_a_lesson_asks_what_names_no_time(lesson):
    assert lesson.maps.shape == (60, CHANNELS) and lesson.states.shape == (2, 60) and len(lesson.asked) > 50
    assert not any(" ago (at" in text for text, *_ in lesson.asked)
    named = [row for row in lesson.asked if row[3] >= 0]
    assert named and all(end <= now for _, now, evidence, _, _ in lesson.asked for _, end in evidence)
    past = sum(row[-1] for row in lesson.asked if row[2][0][0] < row[1] - 2)
    assert past > 0.6 * sum(row[-1] for row in lesson.asked)


def test_evidence_is_what_is_wanted():
    times = torch.arange(0, 40, 4.0)
    wanted = wanted_of(times, [[4, 12], [33, 35]])
    assert wanted.tolist() == pytest.approx([0, 1 / 6, 1 / 6, 1 / 6, 0, 0, 0, 0, 0.5, 0]), "the nearest, where none is"


def test_a_batch_knows_no_later_frame(lesson):
    batch = batch_of([lesson, lesson], random.Random(0), 8)
    assert len(batch.texts) == 16 and batch.wanted.sum(1).tolist() == pytest.approx([1.0] * 16)
    for n, length in enumerate(batch.lengths.tolist()):
        assert (batch.times[n, length:] == 0).all() and (batch.states[n, length:] == -1).all()
        assert not batch.wanted[n, length:].any()


def test_a_network_learns_where_the_evidence_is(lesson, capsys, monkeypatch):
    monkeypatch.setattr(choosing, "GROUPS", ((60.0, 1.0, 1),))
    monkeypatch.setattr(choosing, "TOGETHER", 1)
    lesson.group = 0
    torch.manual_seed(0)
    network = ChooserNetwork(CHANNELS, WIDTH)
    before = found_of(network, [lesson], words)["chosen"]
    fit_chooser(network, [lesson], words, steps=60, tests=[lesson])
    found = found_of(network, [lesson], words)
    assert found["chosen"] > max(before, found["newest"], found["evenly"])
    assert "step 60: loss" in capsys.readouterr().out


def test_streams_are_watched_once(monkeypatch, tmp_path):
    monkeypatch.setattr(choosing, "GROUPS", ((30.0, 1.0, 1),))
    monkeypatch.setattr(choosing, "CHUNK", 1)
    monkeypatch.setattr(choosing, "FrameEncoder", lambda *_: None)
    made, one = [], choosing.ChoiceLesson(*[torch.ones(1)] * 3, [], 0)
    monkeypatch.setattr(choosing, "lesson_of", lambda *_: made.append(1) or one)
    for _ in range(2):
        assert len(choice_lessons(tmp_path, "train", 0, 2, None, None)) == 2
    assert len(made) == 2
