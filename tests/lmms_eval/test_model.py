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
    losses = [loss for loss, _ in model.loglikelihood(requests)]
    assert len(set(losses)) == 2 and min(losses) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "offline"}, "mode must be one of"),
        ({"batch_size": 4}, "batch_size must be 1"),
        ({"window": 3}, "--window belongs to"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        VideoChatOnlineModel("pocket", device="cpu", **arguments)
