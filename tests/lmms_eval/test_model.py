"""Our model as lmms-eval's: the answers of our own runner, whatever a task shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval.api.instance import unwrap_generation_output
from lmms_eval_ovbench.documents import rows_of_source, stream_of
from lmms_eval_ovbench.model import NO_ANSWER, VideoChatOnlineModel
from PIL import Image, ImageFile

from tests.evaluation.conftest import picture
from videochat_online import StreamingSession
from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.modes import Examiner
from videochat_online.evaluation.videos import open_task_video
from videochat_online.media.find import VideoLibrary


@pytest.fixture(scope="module")
def model() -> VideoChatOnlineModel:
    return VideoChatOnlineModel("pocket", device="cpu")


def asked(model: VideoChatOnlineModel, rows: list[Any], show: Any, **settings: Any) -> list[SimpleNamespace]:
    """Requests as lmms-eval makes them."""
    model.task_dict["t"] = {"test": rows}
    settings = {"max_new_tokens": 4, **settings}
    return [
        SimpleNamespace(args=(row["prompt"], settings, show, number, "t", "test")) for number, row in enumerate(rows)
    ]


def test_one_pass_gives_the_answers_of_the_runner(model: VideoChatOnlineModel, root: Path):
    benchmark = OVBench()
    task = max(benchmark.load(root / "annotations", splits=("ava",)), key=lambda task: len(task.questions))
    video = open_task_video(task, VideoLibrary(root / "videos"))
    settings = replace(benchmark.stream, max_new_tokens=4, system_prompt=benchmark.system_prompt)
    with video.reader:
        examiner = Examiner(model.responder, "streaming", settings)
        outcomes = list(examiner.examine(task, video))
    expected = {question.id: outcome.text for question, outcome in outcomes}
    rows = [row for row in rows_of_source("ava") if row["id"] in expected]
    requests = asked(
        model,
        [{**row, "prompt": row["prompts"]["official"]} for row in reversed(rows)],
        lambda row: [stream_of(row).to_visual()],
        system_prompt=benchmark.system_prompt,
    )
    assert model.generate_until(requests) == [expected[row["id"]] for row in reversed(rows)]
    assert len(rows) > 1


def test_a_video_that_cannot_be_read_costs_its_own_answers_only(model: VideoChatOnlineModel, root: Path):
    path = rows_of_source("coin")[0]["path"]
    rows = [{"prompt": "what?", "path": path}, {"prompt": "what?", "path": "/nowhere.mp4"}]
    first, second = model.generate_until(asked(model, rows, lambda row: [row["path"]]))
    assert second == NO_ANSWER != first


def test_images_and_words_alone(model: VideoChatOnlineModel):
    image = Image.fromarray(picture(5))
    rows = [{"prompt": "what?", "visuals": [image]}, {"prompt": "what?", "visuals": []}]
    replies = model.generate_until(asked(model, rows, lambda row: row["visuals"]))
    session = StreamingSession(model.responder.model, model.responder.processor, timestamps=False)
    session.see(np.asarray(image), 0.0)
    assert replies[0] == session.ask("what?", max_new_tokens=4)
    assert isinstance(replies[1], str)


def test_an_image_that_cannot_be_read_costs_its_own_answer_only(
    model: VideoChatOnlineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # importing lmms-eval's tasks switches it on
    Image.fromarray(picture(5)).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-40])
    torn = Image.open(tmp_path / "torn.png")  # PIL reads it no sooner than it must
    visuals = ([str(tmp_path / "torn.png")], [torn], [str(tmp_path / "whole.png")])
    rows = [{"prompt": "what?", "visuals": one} for one in visuals]
    replies = model.generate_until(asked(model, rows, lambda row: row["visuals"]))
    assert replies[:2] == [NO_ANSWER] * 2 and replies[2] != NO_ANSWER


def test_the_likeliest_continuation_has_the_smallest_loss(model: VideoChatOnlineModel, root: Path):
    path, options = rows_of_source("coin")[0]["path"], ("(A)", "(B)")
    model.task_dict["t"] = {"test": [{"path": path}]}
    requests = [
        SimpleNamespace(args=("Which?", option, lambda row: [row["path"]], 0, "t", "test")) for option in options
    ]
    unwrapped = [unwrap_generation_output(outcome)[0] for outcome in model.loglikelihood(requests)]
    losses = [loss for loss, _ in unwrapped]  # a text here, and lmms-eval's tasks of this kind never finish
    assert len(set(losses)) == 2 and min(losses) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "offline"}, "mode must be one of"),
        ({"batch_size": 0}, "batch_size must be a number >= 1 or auto"),
        ({"batch_size": "many"}, "batch_size must be a number >= 1 or auto"),
        ({"window": 3}, "--window belongs to"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        VideoChatOnlineModel("pocket", device="cpu", **arguments)


def rounds(model: VideoChatOnlineModel, rows: list[dict[str, Any]], say: Any) -> list[list[str]]:
    """As lmms-eval asks for them: the first round's words, and a function for the next."""
    model.task_dict["t"] = {"test": rows}
    show = lambda row: row["visuals"]  # noqa: E731
    about = {"max_new_tokens": 4}
    requests = [SimpleNamespace(args=("first?", about, show, say, number, "t", "test")) for number in range(len(rows))]
    return model.generate_until_multi_round(requests)


def test_rounds_are_questions_of_their_own_about_what_the_task_shows(model: VideoChatOnlineModel):
    images = [Image.fromarray(picture(number)) for number in (5, 9)]
    rows = [{"visuals": [images[0]], "rounds": 3}, {"visuals": [images[1]], "rounds": 1}, {"visuals": [], "rounds": 2}]
    told: list[tuple[int, list[str], Any]] = []

    def say(row: dict[str, Any], *, previous_output: list[str], round_idx: int, previous_round_info: Any) -> Any:
        told.append((round_idx, list(previous_output), previous_round_info))
        ended = round_idx == row["rounds"]
        return images[1:], f"and {round_idx}?", ended, previous_output, (previous_round_info or 0) + 1

    answers = rounds(model, rows, say)
    assert [len(said) for said in answers] == [3, 1, 2]
    shown = (("first?", images[:1]), ("and 1?", images[1:]), ("and 2?", images[1:]))
    questions = [{"prompt": words, "visuals": visuals} for words, visuals in shown]
    assert answers[0] == model.generate_until(asked(model, questions, lambda row: row["visuals"]))
    assert (2, answers[0][:2], 1) in told
    assert [unwrap_generation_output(said)[0] for said in answers] == answers  # lists, also of two texts


def test_a_task_that_says_something_else_about_its_rounds_is_named(model: VideoChatOnlineModel):
    with pytest.raises(ValueError, match="t: expected five things about the next round, got 'more'"):
        rounds(model, [{"visuals": []}], lambda row, **about: "more")


@pytest.mark.parametrize("batch_size", ["1", 16, "auto", "auto:4"])
def test_a_batch_size_changes_no_answer(model: VideoChatOnlineModel, batch_size: Any):
    other = VideoChatOnlineModel("pocket", device="cpu", batch_size=batch_size)
    rows = [{"prompt": "what?", "visuals": [Image.fromarray(picture(number))]} for number in (5, 9)]
    replies = [one.generate_until(asked(one, rows, lambda row: row["visuals"])) for one in (model, other)]
    assert replies[0] == replies[1]
