"""Parts of videos to learn from: they ask about nothing but their seconds, and their answers are the oracles'."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np

from videochat_online.lab.shapeworld import sample_stream, samples
from videochat_online.lab.shapeworld.clips import CLIPS, clips
from videochat_online.lab.shapeworld.questions.context import Decks

from . import oracles
from .oracles import Record

CLIP_QUESTIONS = {
    "doing at": oracles.doing_at,
    "last start": oracles.when_started,
    "come into sight": oracles.when_back,
    "last out of sight": oracles.when_away,
    "How long": oracles.how_long,
    "in the next second": oracles.movement,
    "direction does": oracles.movement,
    "likely to do next": oracles.next_action,
    "is the next step": oracles.next_step,
    "is the goal": oracles.goal,
    "from the last to the first": oracles.history,
    "follow the procedure": oracles.followed,
    "first action": oracles.first_action,
    "still performing the step": oracles.still_step,
    "Are there still": oracles.still_count,
    "Was the": oracles.was_there,
    "Does the number": oracles.how_many,
    "on the screen at": oracles.count_at,
    "the trajectory of": oracles.object_trajectory,
}
"""What a question holds, and who else can answer it."""
SCENES = [sample_stream(seed, "train", 1 + seed % 3, 20) for seed in range(20)]
TAKES_TWO = ("likely to do next", "is the goal", "follow the procedure")


def test_clips_ask_about_nothing_but_their_seconds():
    rng = np.random.default_rng(0)
    checked: Counter[str] = Counter()
    for scene, (kind, clip) in product(SCENES, CLIPS.items()):
        told_of = clips(scene, "videos/one.mp4", kind, rng, Decks(rng))
        assert len(told_of) <= clip.number
        for row in told_of:
            start, end, record = row["start"], row["end"], Record(scene, row["end"])
            assert (
                (clip.shortest - 0.5 <= end - start or start <= 0.5) and end - start <= clip.longest + 0.5 and row["QA"]
            )
            whens = [told["q"] for told in row["QA"] if "When did this happen" in told["q"]]
            assert len(set(whens)) == len(whens)
            for told in row["QA"]:
                text = re.sub(r"^Question at [^:]+: ", "", told["q"].split("\n")[0])
                question: Any = SimpleNamespace(question=text, time=end, answer=told["a"])
                for moment in re.findall(r"at ([\d.]+)s", text + told["a"]):
                    assert start <= float(moment) <= end
                for words in (words for words in CLIP_QUESTIONS if words in text):
                    assert told["a"] == CLIP_QUESTIONS[words](record, question)
                    checked[words] += 1
                    if words in TAKES_TWO:
                        assert record.sequence(record.called(text)[0])[-2][1] >= start
    assert set(checked) == set(CLIP_QUESTIONS)


def test_what_was_to_be_seen_once_is_found_again():
    rng = np.random.default_rng(0)
    found = 0
    for scene in SCENES:
        for row in clips(scene, "videos/one.mp4", "clip_moments", rng, Decks(rng)):
            seconds = np.arange(row["start"] + 0.5, row["end"]).tolist()
            for told in row["QA"]:
                if told["q"].startswith("When was this to be seen: "):
                    look = told["q"].removeprefix("When was this to be seen: ").removesuffix("?")
                    assert [f"at {time:.1f}s" for time in seconds if samples.seen_at(scene, time) == look] == [
                        told["a"]
                    ]
                    found += 1
    assert found
