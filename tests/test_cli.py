"""The command line as a user meets it."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from videochat_online.cli import build_parser, main
from videochat_online.lab.bench.measure import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", width=128, height=96, num_frames=80, fps=20))


def test_chat_asks_each_question_at_its_moment(clip, capsys):
    flags = ["-q", "At the end?", "-q", "Early?", "--at", "1", "--max-new-tokens", "4", "--json"]
    assert main(["chat", clip, *flags]) == 0
    out = capsys.readouterr()
    document = json.loads(out.out)
    assert [(a["question"], a["at"], a["stats"]["frames_seen"]) for a in document["answers"]] == [
        ("Early?", 1.0, 3),
        ("At the end?", 3.5, 8),
    ]
    assert document["model"] == "pocket" and document["video"] == clip


def test_chat_in_text_says_what_it_cost(clip, capsys):
    assert main(["chat", clip, "-q", "What?", "--max-new-tokens", "3", "--memory", "1/1/4", "--policy", "fifo"]) == 0
    out = capsys.readouterr()
    assert "What?" in out.out and "frames seen 8, held 8" in out.out and "first token after" in out.out


def test_chat_recalls_a_time_that_is_named(clip, capsys):
    asked = []
    for flags in ([], ["--recall", "time"]):
        for question in ("What was it at 1.0s?", "What is it?"):
            assert main(["chat", clip, "-q", question, "--max-new-tokens", "3", "--json", *flags]) == 0
            asked.append(json.loads(capsys.readouterr().out)["answers"][0]["stats"]["prompt_tokens"])
    assert asked[2] < asked[0] and asked[3] == asked[1]  # one token a frame
    with pytest.raises(SystemExit, match="2"):
        main(["chat", clip, "-q", "What?", "--recall", "tim"])
    assert "--recall" in capsys.readouterr().err


def test_chat_while_the_video_plays(clip, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", _SlowLines(["what now?\n", "\n", "and now?\n"]))
    assert main(["chat", clip, "--speed", "40", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.count("first token after") == 2


def test_questions_that_come_at_once_wait_for_the_first_frame(clip, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("what now?\n"))
    assert main(["chat", clip, "--max-new-tokens", "3", "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["stats"]["frames_seen"] >= 1
    assert "the video is over" not in out.err  # the lines ended, not the video


class _SlowLines(io.StringIO):
    """Somebody who waits for the video to begin."""

    def __init__(self, lines):
        super().__init__("".join(lines))

    def readline(self, *args):
        import time

        time.sleep(0.5)
        return super().readline(*args)


def test_a_folder_of_images_is_a_video(tmp_path, capsys):
    for k in range(1, 12):
        Image.fromarray(np.full((32, 32, 3), 20 * k, np.uint8)).save(tmp_path / f"{k}.png")
    assert main(["chat", str(tmp_path), "-q", "What?", "--max-new-tokens", "2", "--json", "--fps", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["stats"]["frames_seen"] == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mp4", "-q", "x"], "missing.mp4"),
        (["CLIP", "-q", "x", "--model", "nowhere"], "nowhere"),
        (["CLIP", "-q", ""], "must be a text that is not empty"),
        (["CLIP", "--at", "3", "-q", "x"], "--at SECONDS belongs behind the -q QUESTION it is meant for"),
        (["CLIP", "-q", "x", "--at", "1", "--at", "2"], "--at SECONDS belongs behind the -q"),
        (["CLIP", "-q", "x", "--at", "99"], "--at 99.0 lies outside the video, which lasts 4.0 s"),
        (["CLIP", "-q", "x", "--memory", "2/2"], "this model's memory has 3 levels, got capacities 2/2"),
        (["CLIP", "-q", "x", "--memory", "2/2/-1"], "capacity must be an integer >= 0, got -1"),
        (["CLIP", "-q", "x", "--device", "quantum"], "unknown device 'quantum'"),
        (["CLIP", "-q", "x", "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["CLIP", "-q", "x", "--fps", "0"], "--fps must be a number > 0, got 0.0"),
        (["CLIP", "--speed", "-1"], "--speed must be a number > 0, got -1.0"),
        (["CLIP", "-q", "x", "--model", "poket"], "no model 'poket'; did you mean 'pocket'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(clip, arguments, message, capsys):
    assert main(["chat", *[clip if word == "CLIP" else word for word in arguments]]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and lines[0].startswith("videochat-online: error: ") and message in lines[0]


@pytest.mark.parametrize("kind", [ImportError, PermissionError])
def test_a_missing_package_or_permission_is_no_traceback(clip, kind, capsys, monkeypatch):
    def fail(options):
        raise kind("needs the package x: pip install x")

    monkeypatch.setattr("videochat_online.chat.load_from_flags", fail)
    assert main(["chat", clip, "-q", "x"]) == 2
    assert capsys.readouterr().err == "videochat-online: error: needs the package x: pip install x\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "v.mp4", "-q", "x", "--policy", "newest"], "invalid choice: 'newest'"),
        (["chat", "v.mp4", "-q", "x", "--memory", "two"], "expected numbers of frames such as 2/2/12"),
        (["dance"], "unknown command 'dance'; expected one of chat, info, "),
        ([], "required: COMMAND; `videochat-online --help` explains them"),
    ],
)
def test_wrong_flags(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2 and message in capsys.readouterr().err


def test_info_counts_without_weights(golden, capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"]["total"] == sum(
        facts["parameters"][k] for k in ("vision_model", "mlp1", "language_model")
    )
    assert facts["memory_tokens"] == 52 and facts["vision"]["grid"] == 4
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"{facts['parameters']['total']:,}" in text and "at most 52 visual tokens" in text


def test_info_of_the_published_size(golden, tmp_path, capsys):
    """The 4B model's config alone is enough; its numbers are those of the recorded key list."""
    recorded = json.loads((golden / "fullsize_keys.json").read_text())
    vision, llm = recorded["config"]["vision"], {"model_type": "phi3", **recorded["config"]["llm"]}
    config = {"model_type": "internvl_chat", "vision_config": vision, "llm_config": llm, "template": "phi3-chat"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["info", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"]["total"] == recorded["total_params"] == 4_146_855_936
    assert facts["parameters"]["vision_model"] == recorded["params_by_prefix"]["vision_model"]
    assert facts["memory_tokens"] == 832 and facts["kv_cache_values_per_token"] * 2 == 393_216


def test_every_command_explains_itself(capsys):
    commands = next(action for action in build_parser()._actions if action.choices)
    for name in commands.choices:
        with pytest.raises(SystemExit) as exit_:
            main([name, "--help"])
        assert exit_.value.code == 0 and "usage: videochat-online " + name in capsys.readouterr().out


def test_help_loads_no_model_code():
    """`--help` and a mistyped flag answer at once: torch and transformers take seconds to import."""
    code = (
        "import sys; from videochat_online.cli import build_parser; build_parser(); "
        "print({'torch', 'transformers', 'av', 'gradio', 'fastapi'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
