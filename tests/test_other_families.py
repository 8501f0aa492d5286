"""Models of other families through the doors that users have: every command with `--model FOLDER`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videochat_online.cli import main
from videochat_online.files import SHIPPED_MODELS
from videochat_online.processing import load_model

CLIP = SHIPPED_MODELS["pocket"] / "sample.mp4"


@pytest.fixture(scope="module", params=["internvl", "qwen3_vl"])
def folder(request, tmp_path_factory) -> Path:
    """Written by the command that users have."""
    folder = tmp_path_factory.mktemp("models") / request.param
    assert main(["tiny-model", request.param, str(folder)]) == 0
    return folder


def test_info_reads_no_weights(folder: Path, capsys):
    weights = folder / "model.safetensors"
    weights.rename(folder / "elsewhere")
    try:
        assert main(["info", str(folder), "--json"]) == 0
    finally:
        (folder / "elsewhere").rename(weights)
    facts = json.loads(capsys.readouterr().out)
    model, _ = load_model(folder, device="cpu")
    assert facts["parameters"]["total"] == sum(p.numel() for p in model.held.parameters())
    assert facts["memory_tokens"] == model.config.memory_config.max_tokens
    assert facts["template"] == model.config.template
    if folder.name == "qwen3_vl":
        assert facts["small_frames"] == "encoded" and "trained on pictures of many sizes" in facts["note"]
        assert facts["memory_16_9"] == {"grids": [[12, 21], [6, 10], [3, 5]], "tokens": 804}
        cells = 2 * (256 + 64 + 16) + 2 * (64 + 16) + 12 * 16
    else:
        assert facts["small_frames"] == "pooled" and "trained on whole frames" in facts["note"]
        assert facts["memory_16_9"] is None
        cells = facts["memory_tokens"]
    assert facts["memory_values"] == cells * model.config.feature_size


@pytest.mark.parametrize(
    "command", [["chat", str(CLIP), "-q", "What?"], ["serve", "--port", "0"]], ids=["chat", "serve"]
)
def test_a_model_without_a_chooser_says_so_at_the_start(folder: Path, command: list[str], capsys, monkeypatch):
    monkeypatch.setattr("videochat_online.streaming.session.StreamingSession.see_many", None)  # nothing is watched
    assert main([*command, "--model", str(folder), "--device", "cpu", "--recall", "chosen"]) == 2
    assert f"chooser.safetensors beside the model's weights: there is none in '{folder}'" in capsys.readouterr().err


def test_small_frames_can_be_chosen_where_the_encoder_can(folder: Path, capsys):
    command = ["chat", str(CLIP), "-q", "What?", "--max-new-tokens", "2", "--model", str(folder), "--device", "cpu"]
    if folder.name == "internvl":
        assert main([*command, "--small-frames", "encoded"]) == 2
        assert "small frames cannot be encoded by this internvl model" in capsys.readouterr().err
        return
    sizes = {}
    for way in ("pooled", "encoded"):
        assert main([*command, "--small-frames", way, "--json"]) == 0
        out = capsys.readouterr()
        sizes[way] = json.loads(out.out)["answers"][0]["stats"]["bytes"] // (4 * 192)
        assert ("averaged frames" if way == "pooled" else "smaller pictures") in out.err
    assert sizes == {"pooled": 832, "encoded": 1024}, "an encoded frame keeps the maps that it may go down to"


def test_chat_answers_about_a_clip(folder: Path, capsys):
    asked = ["-q", "What is happening now?", "--at", "4", "-q", "And before?", "--max-new-tokens", "4"]
    assert main(["chat", str(CLIP), *asked, "--model", str(folder), "--device", "cpu", "--json"]) == 0
    out = capsys.readouterr()
    answers = json.loads(out.out)["answers"]
    assert [answer["question"] for answer in answers] == ["What is happening now?", "And before?"]
    assert answers[1]["stats"]["cached_tokens"] > 0 and answers[1]["stats"]["frames_held"] == [2, 2, 12]
    assert "note: " in out.err


@pytest.mark.parametrize("mode", [["streaming"], ["streaming", "--recent", "2"], ["sliding_window", "--frames", "4"]])
def test_ovbench_scores_it(folder: Path, mode: list[str], tmp_path: Path):
    record = {
        "id": "1", "video": CLIP.name, "source": "coin", "start": 0.0, "end": 9.0, "middle_frame_timestamp": 9.0,
        "question": "Where is it?", "candidates": ["top", "bottom"], "answer": "top",
        "answer_type": "FuturePrediction", "sub_answer_type": "FuturePrediction-2",
    }  # fmt: skip
    (tmp_path / "coin.json").write_text(json.dumps([record]))
    where = ["--annotations", str(tmp_path), "--videos", str(CLIP.parent), "--output", str(tmp_path / "run")]
    command = ["eval", "ovbench", *where, "--model", str(folder), "--device", "cpu", "--max-new-tokens", "2"]
    assert main([*command, "--fps", "1", "--mode", *mode]) == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["scores"]["questions"] == 1


def test_data_show_writes_a_row_as_the_family_reads_it(folder: Path, tmp_path: Path, capsys):
    """(Training: tests/training/test_families.py.)"""
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "It."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"video": CLIP.name, "conversations": turns}]))
    listed = {"x": {"annotation": str(tmp_path / "rows.json"), "data_root": str(CLIP.parent)}}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    shown = ["--num-frames", "2", "--frame-times", "always"]
    assert main(["data", "show", str(tmp_path / "list.json"), "0", *shown, "--model", str(folder)]) == 0
    told = capsys.readouterr().out
    line = {"internvl": "Frame1 at 0.5s: <img>{", "qwen3_vl": "<0.5 seconds><|vision_start|>{"}[folder.name]
    assert line in told and "«It.<|im_end|>»" in told, told


@pytest.mark.parametrize(
    "size", [["--layers", "100000"], ["--layers", "0"], ["--width", "6400000"], ["--pixels", "65"]]
)
def test_no_tiny_model_is_as_large_as_that(size: list[str], tmp_path: Path, capsys):
    assert main(["tiny-model", "qwen3_vl", str(tmp_path / "new"), *size]) == 2
    assert f"{size[0]} must be " in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_question_can_be_measured_on_it(folder: Path, capsys):
    assert main(["bench", "ask", "--model", str(folder), "--repeats", "1", "--frames", "220"]) == 0
    assert "second question, nothing new" in capsys.readouterr().out
    for name in ("encoder", "eval", "serve", "train", "lists"):
        assert main(["bench", name, "--model", str(folder)]) == 2
        assert "expected 'internvl_chat' here" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_left_alone(folder: Path, capsys):
    assert main(["tiny-model", "qwen3_vl", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_visitor_of_the_server_is_answered(folder: Path):
    from videochat_online.demo.visits import page_view
    from videochat_online.serve.limits import Limits
    from videochat_online.serve.sessions import Sessions
    from videochat_online.serve.track import mosaic

    sessions = Sessions(*load_model(folder, device="cpu"), limits=Limits(), model_name=folder.name)
    try:
        live = sessions.create()
        for second in range(3):
            live.see(np.full((48, 64, 3), 40 * second, np.uint8), float(second))
        turn, pieces = live.ask("What is it?", max_new_tokens=4)
        assert "".join(pieces) == turn.answer and turn.prompt_tokens > 0
        state = live.state()
        assert state["stats"]["frames_seen"] == 3
        # a 4:3 camera stays one where the encoder takes any shape, on the page as well
        shape = [(14, 18), (7, 9), (3, 4)] if folder.name == "qwen3_vl" else [(4, 4), (2, 2), (1, 1)]
        assert [(level["rows"], level["columns"]) for level in state["levels"]] == shape
        assert state["levels"][0]["tokens"] == shape[0][0] * shape[0][1]
        page = page_view(live)
        assert [(level["rows"], level["columns"]) for level in page["levels"]] == shape
        rows, columns = shape[0]
        with Image.open(io.BytesIO(mosaic(live.track.pictures[0], columns, rows))) as coarse:
            assert coarse.size == (columns, rows)
    finally:
        sessions.close()


def test_a_chat_completion_is_what_a_session_answers(folder: Path):
    """Frames are told in the family's own words, also where a client brings our line ("Frame2 at 1.0s: ")."""
    from videochat_online import MemoryConfig, StreamingSession, load_model
    from videochat_online.prompt.messages import frame_line
    from videochat_online.serve.completions import ChatMessage, ChatRequest, Completion, _begun_alone
    from videochat_online.serve.sessions import Sessions

    model, processor = load_model(folder)
    pictures = [np.random.default_rng(k).integers(0, 256, (48, 64, 3), np.uint8) for k in range(2)]
    with Sessions(model, processor, model_name="tiny") as sessions:
        for timestamps in (False, True):
            content: list[dict] = []
            for k, picture in enumerate(pictures):
                out = io.BytesIO()
                Image.fromarray(picture).save(out, "PNG")
                uri = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
                line = [{"type": "text", "text": frame_line(k, float(k))}] if timestamps else []
                content += [*line, {"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "\n"}]
            content.append({"type": "text", "text": "What?"})
            request = ChatRequest(model="tiny", messages=[ChatMessage("user", content)], max_tokens=8)

            async def answered(request: ChatRequest = request) -> tuple[Completion, str]:
                completion = await _begun_alone(request, sessions, {}, 8)
                return completion, "".join([piece async for piece in completion.pieces])

            completion, text = asyncio.run(answered())
            session = StreamingSession(model, processor, memory=MemoryConfig.recent(2), timestamps=timestamps)
            session.see_many(pictures, [0.0, 1.0])
            assert completion.turn.prompt_tokens == len(session.prompt("What?")[0].ids)
            assert text == session.ask("What?", max_new_tokens=8)
