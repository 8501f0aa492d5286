"""`videochat-online chat` on streams without an end."""

from __future__ import annotations

import argparse
import io
import json
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from videochat_online.chat import _read_questions
from videochat_online.cli import main
from videochat_online.lab.bench.measure import write_clip


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "clip.mp4", width=128, height=96, num_frames=30, fps=10)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/clip.mp4"
    server.shutdown()
    server.server_close()


def test_questions_are_asked_when_their_second_comes(address, capsys):
    flags = ["-q", "Behind the end?", "--at", "9", "-q", "Early?", "--at", "1", "--max-new-tokens", "3", "--json"]
    assert main(["chat", address, *flags]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [a["question"] for a in answers] == ["Early?", "Behind the end?"]
    assert 1.0 <= answers[0]["at"] < 2.5 and answers[1]["at"] == 2.5 and answers[1]["stats"]["frames_seen"] == 6


@pytest.mark.usefixtures("no_thread_is_left")
def test_typed_questions_from_a_camera(monkeypatch, capsys):
    class Device:
        def __init__(self, number):
            pass

        def isOpened(self):
            return True

        def read(self):
            time.sleep(0.05)
            return True, np.zeros((48, 64, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr("sys.stdin", io.StringIO("what now?\n\n"))
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Device))
    assert main(["chat", "--camera", "0", "--max-new-tokens", "3"]) == 0
    out = capsys.readouterr()
    assert "watching camera 0" in out.err and "first token after" in out.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to watch: a video or an address, or --camera N"),
        (["clip.mp4", "--camera", "0"], "say what to watch"),
        (["rtsp://127.0.0.1:9/live", "-q", "x"], "say with --at SECONDS when to ask 'x'"),
        (["rtsp://127.0.0.1:9/live", "-q", "x", "--at", "1"], "rtsp://127.0.0.1:9/live: cannot be read"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["chat", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_is_wrong_with_the_stream_is_said_before_the_answer(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("what now?\n"))
    monkeypatch.setattr("videochat_online.chat._answer_line", lambda options, session, line: print(f"answer to {line}"))
    _read_questions(argparse.Namespace(), None, lambda: "the camera broke off")
    said = capsys.readouterr()
    assert said.err == "videochat-online: the camera broke off\n" and said.out == "answer to what now?\n"
