"""What lmms-eval hands to a simple model, in our words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lmms_eval_ovbench.inputs import Generation, Request, request_of
from lmms_eval_ovbench.visuals import Stream
from PIL import Image

GREEDY = Generation()
PICTURE = Image.new("RGB", (8, 8), "red")


@pytest.mark.parametrize(
    "visuals", ["a/v.mp4", ["a/v.mp4"], [["a/v.mp4"]], [{"type": "video", "url": "a/v.mp4"}], ["a/v.gif"], ["a/frames"]]
)
def test_videos(visuals: Any):
    request = request_of("what?\n<image>", visuals, GREEDY)
    assert request.stream is not None
    assert request.stream.path in ("a/v.mp4", "a/v.gif", "a/frames")
    assert (request.images, request.prompt) == ((), "what?\n<image>")


def test_images(tmp_path: Path):
    PICTURE.save(tmp_path / "p.png")
    request = request_of("<image>\nsaid\n<image>\nwhat is <image> here?", [PICTURE, str(tmp_path / "p.png")], GREEDY)
    assert request.stream is None
    assert [image.getpixel((0, 0)) for image in request.pictures()] == [(255, 0, 0)] * 2
    assert request.prompt == "said\nwhat is  here?"
    assert request_of("only words?", None, GREEDY).images == request_of("only words?", [], GREEDY).images == ()


@pytest.mark.parametrize("visuals", [["a.mp4", "b.mp4"], [PICTURE, "a.mp4"], [3]])
def test_what_cannot_be_shown_is_refused(visuals: Any):
    with pytest.raises(ValueError, match="expected one video, or images"):
        request_of("what?", visuals, GREEDY)


def test_sampling_counts_only_where_a_task_samples():
    greedy = {"max_new_tokens": 16, "temperature": 0.7, "top_p": 0.9, "num_beams": 1, "do_sample": False}
    assert Generation.of(greedy) == Generation(16)
    sampled = Generation.of({**greedy, "do_sample": True, "until": ["\n\n"], "system_prompt": "Watch."})
    assert sampled == Generation(16, ("\n\n",), "Watch.", (("do_sample", True), ("temperature", 0.7), ("top_p", 0.9)))
    assert Generation.of({"num_beams": 3}).options == (("num_beams", 3),)
    assert Generation.of({"until": None}).until == ()


def test_an_answer_ends_before_the_first_mark():
    generation = Generation(until=("\n\n", "END"))
    assert generation.cut("\n\n(B) it isEND\n\nmore") == "(B) it is"
    assert Generation().cut(" (B)\n\nas it is ") == "(B)\n\nas it is"


def test_a_pass_is_shared_by_questions_about_one_video():
    def key(generation: Generation = GREEDY, options: tuple[str, ...] = (), **stream: Any) -> str:
        return Request("?", Stream("v.mp4", **stream), (), generation, options).pass_key

    assert key(end=3.0) == key(end=5.0)
    others = {key(end=None), key(end=3.0, start=1.0), key(Generation(8), end=3.0), key(options=("A",), end=3.0)}
    assert len(others | {key(end=3.0)}) == 5
