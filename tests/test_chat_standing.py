"""`videochat-online chat --tell-me`: what is said unasked, of files and live streams, printed and written."""

from __future__ import annotations

import io
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import pytest

from videochat_online.cli import main
from videochat_online.files import SHIPPED_MODELS

CLIP = str(SHIPPED_MODELS["pocket"] / "sample.mp4")
TOP = "Is the yellow square at the top?"
"""It comes there at 3 s, of 20; it stands in the middle from 15 s on."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The first 3 seconds of the clip."""
    folder = tmp_path_factory.mktemp("short")
    with av.open(CLIP) as whole, av.open(str(folder / "short.mp4"), "w") as short:
        stream = short.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and packet.dts * packet.time_base < 3:
                packet.stream = stream
                short.mux(packet)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/short.mp4"
    server.shutdown()
    server.server_close()


def test_a_file_is_watched_to_its_end_and_moments_stand_between_answers(capsys, tmp_path):
    told = ["--gate", "none", "--tell-me", TOP, "--tell-me", "Is the yellow square at the center?"]
    asked = ["-q", "Where is the yellow square?", "--at", "12"]
    assert main(["chat", CLIP, "--fps", "1", *told, *asked, "--events", str(tmp_path / "told.srt")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines[0].startswith("[3.0 s, P 0.9") and lines[0].endswith(TOP)
    assert lines[1] == "[12.0 s] Where is the yellow square?"
    assert lines[2].startswith("[1") and lines[2].endswith("Is the yellow square at the center?")
    cues = (tmp_path / "told.srt").read_text().split("\n\n")
    assert len(cues) == 2 and cues[0].splitlines() == ["1", "00:00:03,000 --> 00:00:05,160", TOP, "Yes"]


def test_the_rule_is_what_the_flags_say(capsys, tmp_path):
    told = ["--gate", "none", "--tell-me", TOP, "--threshold", "0.01", "--refractory", "5", "--json", "--fps", "1"]
    assert main(["chat", CLIP, *told, "--events", str(tmp_path / "told.jsonl")]) == 0
    document = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert lines == document["events"] and document["answers"] == []
    assert [event["time"] for event in lines] == [1.0] and 0.01 <= lines[0]["probability"] < 0.5
    more = ["--gate", "none", "--tell-me", TOP, "--threshold", "0.9999", "--events", str(tmp_path / "no.srt")]
    assert main(["chat", CLIP, *more]) == 0
    assert capsys.readouterr().out == "" and (tmp_path / "no.srt").read_text() == ""


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_live_stream_is_told_about_until_its_end(address, capsys, monkeypatch):
    """No one types: the program that started it reads lines of json."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("videochat_online.streaming.standing.minute_of_day", lambda: 0)
    quiet = ["--quiet-hours", "23:00-1:00", "--gate", "none"]
    assert main(["chat", address, "--tell-me", TOP, "--threshold", "0.01", "--once", "--json", *quiet]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert event["instruction"] == TOP and event["text"] and event["quiet"]
    assert main(["chat", address, "--tell-me", TOP, "--threshold", "0.01", *quiet]) == 0
    assert capsys.readouterr().out == ""  # nobody is disturbed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tell-me", "  "], "an instruction must be a text that is not empty, got '  '"),
        (["--tell-me", "x", "--tell-me", "x"], "the instruction 'x' stands already"),
        ([word for k in range(17) for word in ("--tell-me", f"x{k}")], "16 instructions may stand at a time"),
        (["--tell-me", "x" * 501], "an instruction may have 500 characters, got 501"),
        (["--tell-me", "x", "--threshold", "1.5"], "the threshold must be a probability between 0 and 1, got 1.5"),
        (["--tell-me", "x", "--threshold", "0"], "the threshold must be a probability between 0 and 1, got 0"),
        (["--tell-me", "x", "--refractory", "-1"], "the refractory must be seconds >= 0, got -1"),
        (["--tell-me", "x", "--quiet-hours", "22-7"], "quiet hours are two different times of the day"),
        (["--tell-me", "x", "--quiet-hours", "22:00-7:00"], "a file that is watched as fast as it goes has none"),
        (["--tell-me", "x", "--events", "told.txt"], "the file of events ends in .jsonl or .srt, got told.txt"),
        (["--tell-me", "x", "--events", "nowhere/told.srt"], "nowhere/told.srt: there is no folder"),
        (["-q", "x", "--threshold", "0.5"], "--threshold belongs to --tell-me TEXT"),
        (["-q", "x", "--quiet-hours", "22:00-7:00"], "--quiet-hours belongs to --tell-me TEXT"),
        (["--events", "told.srt"], "--events belongs to --tell-me TEXT"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(flags, message, capsys, monkeypatch):
    monkeypatch.setattr("videochat_online.chat.load_from_flags", None)
    assert main(["chat", CLIP, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("videochat-online: error: ") and message in line
