"""`protocol=published` of our model in lmms-eval: frames, words, memory of the scripts, their rules written twice."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval_ovbench import model as module
from lmms_eval_ovbench.model import NO_ANSWER, VideoChatOnlineModel
from lmms_eval_ovbench.published import words

from tests.evaluation.conftest import FakeResponder, picture, write_frames
from videochat_online.evaluation.benchmarks.ovbench import SYSTEM_PROMPT

RATES = [Fraction(10), Fraction(24000, 1001), Fraction(25), Fraction(30), Fraction(3)]
FILM = {"question": "Which?", "options": ["A. A. Smith ", "B. two", "C. three", "D. four \n"]}
CLIP = {"question": "What next?", "candidates": ["run", "sit"], "answer": "sit"}


@pytest.fixture(scope="module")
def model() -> VideoChatOnlineModel:
    return VideoChatOnlineModel("pocket", device="cpu", protocol="published")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> FakeResponder:
    """In the place of the model's weights."""
    responder = FakeResponder()
    monkeypatch.setattr(module, "_Responder", lambda base, generation: responder)
    return responder


def write(path: Path, rate: Fraction, seconds: float) -> int:
    """An mp4 of this rate; how many frames it has."""
    num_frames = round(seconds * rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return num_frames


def ask(model: VideoChatOnlineModel, task: str, path: Path, *rows: dict[str, Any]) -> list[str]:
    model.task_dict[task] = {"test": list(rows)}
    show = lambda row: [str(path)]  # noqa: E731
    numbers = range(len(rows))
    requests = [
        SimpleNamespace(args=("lmms-eval's words", {"max_new_tokens": 4}, show, n, task, "test")) for n in numbers
    ]
    return model.generate_until(requests)


def rule(rate: Fraction, numbers: range, cap: int) -> list[float]:
    """Times of every max(round(rate / 4), 1)-th of these frames, uniform down to `cap`."""
    taken = list(numbers)[:: max(round(rate / 4), 1)]
    if len(taken) > cap:
        taken = [taken[i] for i in np.linspace(0, len(taken) - 1, cap, dtype=int)]
    return [round(float(np.float32((number + 1) / rate)), 1) for number in taken]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("cap", [1800, 7])
def test_frames_of_a_whole_video(model: VideoChatOnlineModel, shown: FakeResponder, tmp_path: Path, rate: Fraction,
                                 cap: int, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    assert model.settings.frames == 1800
    monkeypatch.setattr(model, "settings", module.replace(model.settings, frames=cap))
    num_frames = write(tmp_path / "v.mp4", rate, 6.5)
    ask(model, "videomme", tmp_path / "v.mp4", FILM, FILM)
    [conversation] = shown.conversations  # two questions, one pass
    assert conversation.shown == rule(rate, range(num_frames), cap)
    assert len(conversation.asked) == 2


def test_mvbench_is_cut_where_its_video_is_whole(model: VideoChatOnlineModel, shown: FakeResponder, tmp_path: Path):
    bounds = [{**CLIP, "start": 2.0, "end": 5.0}, {**CLIP, "start": 2.0, "end": 4.0}]
    write(tmp_path / "whole.mp4", Fraction(10), 9)
    ask(model, "mvbench_action_sequence", tmp_path / "whole.mp4", *bounds)
    first, second = (conversation.shown for conversation in shown.conversations)
    # The first frame not known before the start, 2.0 s, ends then: number 19; round(10 / 4) = 2
    assert first == [2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6, 3.8, 4.0, 4.2, 4.4, 4.6, 4.8, 5.0]
    assert second == first[:11]
    num_frames = write(tmp_path / "segment.mp4", Fraction(10), 3.2)  # cut already, as lmms-eval keeps it
    ask(model, "mvbench_action_sequence", tmp_path / "segment.mp4", bounds[0])
    assert shown.conversations[-1].shown == rule(Fraction(10), range(num_frames), 1800)


def test_a_video_that_is_missing_costs_its_own_answer_only(
    model: VideoChatOnlineModel, shown: FakeResponder, tmp_path: Path
):
    row = {**CLIP, "start": 2.0, "end": 5.0}
    assert ask(model, "mvbench_action_sequence", tmp_path / "nowhere.mp4", row) == [NO_ANSWER]
    assert shown.conversations == []


def test_mvbenchs_folders_have_three_frames_a_second(model: VideoChatOnlineModel, shown: FakeResponder, tmp_path: Path):
    write_frames(tmp_path / "f", [f"{number:05d}.jpg" for number in range(9)])
    ask(model, "mvbench_episodic_reasoning", tmp_path / "f", {**CLIP, "start": 0.0, "end": 3.0})
    assert shown.conversations[0].shown == [0.0, 0.3, 0.7, 1.0, 1.3, 1.7, 2.0, 2.3, 2.7]


def test_words(model: VideoChatOnlineModel, shown: FakeResponder, tmp_path: Path):
    write(tmp_path / "v.mp4", Fraction(10), 4.2)
    asked = []
    for task, row in (
        ("videomme", FILM),
        ("mvbench_object_shuffle", CLIP),
        ("videomme_w_subtitle", FILM),
        ("mlvu_dev", {}),
    ):
        ask(model, task, tmp_path / "v.mp4", row)
        asked += shown.conversations[-1].asked
    options = "(A) A. Smith \n(B) two\n(C) three\n(D) four"
    assert asked == [
        f"This entire video lasts for 4.2 seconds.\nQuestion: Which?\n{options}\nAnswer:  \n",
        "Question: What next?\n(A) run\n(B) sit\nAnswer:  \n",
        "lmms-eval's words",
        "lmms-eval's words",
    ]
    assert words("Q?", ["yes"]) == "Question: Q?\n(A) yes\nAnswer:  \n"


def test_memory_and_system_text(model: VideoChatOnlineModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    memory = model.responder.memory
    assert memory is not None and [level.capacity for level in memory.levels] == [24, 24, 144]
    systems = []
    opened = model.responder.open
    monkeypatch.setattr(model.responder, "open", lambda system: systems.append(system) or opened(system))
    write(tmp_path / "v.mp4", Fraction(10), 1)
    [reply] = ask(model, "videomme", tmp_path / "v.mp4", FILM)
    assert systems == [SYSTEM_PROMPT] and isinstance(reply, str)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Which?"}, "videomme: a row without question and options"),
        ({**FILM, "options": None}, "videomme: a row without question and options"),
    ],
)
def test_rows_of_another_kind_are_named(model: VideoChatOnlineModel, tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ask(model, "videomme", tmp_path / "v.mp4", row)


def test_what_the_protocol_does_not_have_is_refused(model: VideoChatOnlineModel, tmp_path: Path):
    for arguments in ({"protocol": "publshed"}, {"mode": "sliding_window"}, {"system_prompt": "Look."}):
        with pytest.raises(ValueError, match="protocol"):
            VideoChatOnlineModel("pocket", device="cpu", **{"protocol": "published", **arguments})
    write(tmp_path / "v.mp4", Fraction(10), 9)
    with pytest.raises(ValueError, match=r"start and end must be seconds in this order, got 5\.0 and 2\.0"):
        ask(model, "mvbench_x", tmp_path / "v.mp4", {**CLIP, "start": 5, "end": 2})
    model.task_dict["t"] = {"test": [FILM]}
    late = lambda row: [{"url": str(tmp_path / "v.mp4"), "video_end": 3.0}]  # noqa: E731
    with pytest.raises(ValueError, match="for questions about whole videos"):
        model.generate_until([SimpleNamespace(args=("?", {}, late, 0, "t", "test"))])
