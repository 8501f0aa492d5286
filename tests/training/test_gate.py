"""`gate train`: from rows and videos to a file that a session and `chat` decide by; and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from videochat_online import load_model
from videochat_online.cli import main
from videochat_online.streaming.gate import FORMAT, GATE_FILE, Gate, GateNetwork, gate_file
from videochat_online.streaming.moments import fired, judged
from videochat_online.streaming.reading import StandingRow
from videochat_online.streaming.standing import Rule
from videochat_online.training.gate import Lesson, fit, held, set_threshold, targets


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build = ["--videos", "4", "--seconds", "10", "--level", "1", "--fps", "2", "--questions", "0"]
    assert main(["world", "build", str(folder), *build, "--split", "test"]) == 0
    assert main(["world", "standing", str(folder), "--every"]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    file = tmp_path_factory.mktemp("gate") / "gate.safetensors"
    where = ["--videos", str(world), "--output", str(file), "--epochs", "3"]
    assert main(["gate", "train", str(world / "standing.json"), *where]) == 0
    return file


def test_a_gate_is_trained_from_what_is_stored(world, trained, capsys, monkeypatch):
    """The second time nothing is read, and the same gate comes of it."""
    monkeypatch.setattr("videochat_online.training.gate.open_video", None)
    again = trained.with_name("again.safetensors")
    where = ["--videos", str(world), "--output", str(again), "--epochs", "3"]
    stored = ["--looks", str(trained.with_suffix(".looks"))]
    assert main(["gate", "train", str(world / "standing.json"), *where, *stored]) == 0
    assert "held-out loss" in capsys.readouterr().out and again.read_bytes() == trained.read_bytes()


def test_it_learns_what_is_to_be_told():
    """Something comes into one cell and stays, earlier in one video than in another: told within 2 s, in others too."""
    lessons, words, times = [], torch.ones(3, 4), [float(k) for k in range(20)]
    generator = torch.Generator().manual_seed(0)
    for k in range(12):
        start = 4.0 + k
        row = StandingRow(f"v{k}", "Tell me when it comes.", ((start, start),), holds=((start, 30.0),))
        seen = 0.1 * torch.randn(20, 16, 12, generator=generator)
        seen[4 + k :, 5, :3] += 3
        wanted = torch.tensor([[targets(row.moments, times, 0.0), held(row, times)]]).transpose(1, 2)
        lessons.append(Lesson([row], times, seen.half(), [(words, words)], wanted))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gate = Gate(GateNetwork(8, 4), 0.5, "x")
        _, _, (recall, alarms, empty) = fit(gate, lessons, epochs=40)
    assert recall == 1 and alarms <= 1 and 0 < gate.threshold < 1 and empty is None
    assert max(gate.margins(times, torch.zeros(20, 16, 12), [words])[0]) < 0  # where nothing comes


def test_a_threshold_is_quiet_where_nothing_happens():
    """All three moments could be told with one false alarm in two minutes: of an empty hour these are 60."""
    times = [float(second) for second in range(61)]
    rows = [StandingRow("v", "Tell me.", tuple((t, t) for t in (10.0, 20.0, 30.0))), StandingRow("v", "Warn me.", ())]
    told = {0: {10: 2.0, 20: 2.0, 30: 1.0}, 1: {40: 1.5}}
    margins = [[told[n].get(second, -5.0) for second in range(61)] for n in range(2)]
    gate = Gate(GateNetwork(8, 4), 0.5, "x")
    gate.margins = lambda *_: margins
    words = [(torch.ones(3, 4),) * 2] * 2
    recall, alarms, empty = set_threshold(
        gate, [Lesson(rows, times, torch.zeros(61, 16, 12), words, torch.zeros(2, 61, 2))]
    )
    assert recall == pytest.approx(2 / 3) and alarms == empty == 0
    assert 1.5 < torch.logit(torch.tensor(gate.threshold)) <= 2.01


def test_a_gate_is_scored_alone(world, trained, tmp_path, capsys, monkeypatch):
    """It costs the language model nothing: no readout is made."""
    monkeypatch.setattr("videochat_online.streaming.session.read_out", None)
    assert main(["world", "standing", str(world)]) == 0
    where = ["--annotations", str(world / "standing.json"), "--videos", str(world), "--output", str(tmp_path / "run")]
    assert main(["eval", "standing", *where, "--gate", str(trained), "--gate-only"]) == 0
    players = json.loads((tmp_path / "run/report.json").read_text())["players"]
    assert "likelihood" not in players and players["gate"]["curve"] and "gate, another instruction" in players


def test_chat_takes_a_gate(world, trained, capsys):
    video = str(next((world / "videos").glob("*.mp4")))
    told = ["--tell-me", "Is there a ring?", "--fps", "1", "--gate", str(trained)]
    assert main(["chat", video, *told]) == 0
    note = capsys.readouterr().err
    gate = Gate.load(trained, load_model("pocket", device="cpu")[0])
    assert f"{trained} decides when to speak, at a threshold of {gate.threshold:.3f}" in note
    assert main(["chat", video, *told, "--threshold", "0.25"]) == 0
    assert "at a threshold of 0.250" in capsys.readouterr().err


def test_a_gate_beside_the_model_is_found_and_said(trained, capsys, monkeypatch):
    monkeypatch.setattr("videochat_online.streaming.gate.SHIPPED_MODELS", {"pocket": trained.parent})
    assert main(["chat", "videochat_online/pocket/sample.mp4", "--tell-me", "Is it?", "--fps", "0.2"]) == 0
    assert f"{trained} decides when to speak" in capsys.readouterr().err


def test_a_gate_of_another_model_is_refused(trained, tmp_path, capsys):
    assert main(["tiny-model", "internvl", str(tmp_path / "tiny")]) == 0
    capsys.readouterr()
    command = ["chat", "videochat_online/pocket/sample.mp4", "--tell-me", "x", "--device", "cpu"]
    assert main([*command, "--model", str(tmp_path / "tiny"), "--gate", str(trained)]) == 2
    assert "is a gate of another model (pocket)" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "no.safetensors").write_text("no")
    for wrong in (tmp_path / "no.safetensors", tmp_path / "nowhere", "videochat_online/pocket/model.safetensors"):
        assert main([*command, "--gate", str(wrong)]) == 2
        assert "is not a gate that `gate train` has written" in capsys.readouterr().err.splitlines()[-1]


def test_what_is_to_be_told_when():
    found = targets([(2.0, 4.0)], list(range(9)), 1.0)
    assert str(found) == "[nan, 0.0, nan, nan, 1.0, 1.0, nan, 0.0, 0.0]"


def test_what_holds_when():
    row = StandingRow("a", "x", (), holds=((2.0, 4.0),))
    assert str(held(row, [1.0, 1.8, 2.5, 3.0, 4.2, 5.0])) == "[0.0, nan, 1.0, 1.0, nan, 0.0]"
    assert str(held(StandingRow("a", "x", ()), [1.0])) == "[nan]"


def test_hits_and_false_alarms():
    moments = [(2.0, 3.0), (8.0, 9.0)]
    outcome = judged(moments, [1.0, 2.0, 3.0, 11.0, 20.0], 60.0)
    assert (outcome.hits, outcome.false, outcome.duplicates, outcome.delays) == (2, 3, 1, (-1.0, 2.0))
    assert outcome.recall == 1 and outcome.alarms == 3 and outcome.f1 == pytest.approx(4 / 7)
    assert fired([0, 1, 2, 3], [0.9, 0.1, 0.9, 0.1], Rule(0.5, 2.0)) == [0, 2]


MISTAKES = {
    "no file": ("nowhere.json", [], "nowhere.json cannot be read"),
    "no rows": ("[]", [], "holds no rows; expected a list of rows"),
    "no moments": ('[{"video": "a", "standing": {"text": "x", "events": []}}]', [], "a gate needs rows of two videos"),
    "a row": ('[{"video": "a", "standing": {"text": "x"}}]', [], "row 0 cannot be read (KeyError: 'events'); expected"),
    "a text": ("[3]", [], "row 0 cannot be read"),
    "seconds": (
        '[{"video": "a", "standing": {"text": "x", "events": [{"start": 3, "time": 1}]}}]',
        [],
        "from <= start",
    ),
    "expect": ('[{"video": "a", "standing": {"text": "x", "expect": "?", "events": []}}]', [], "row 0: an instruction"),
    "too long": (
        '[{"video": "a", "standing": {"text": "LONG", "events": []}}]'.replace("LONG", "x" * 501),
        [],
        "row 0: an instruction may have 500 characters",
    ),
    "twice": (
        '[{"video": "a", "standing": {"text": "x", "events": []}},'
        ' {"video": "a", "standing": {"text": "x ", "events": []}}]',
        [],
        "row 1: a has the instruction 'x ' already",
    ),
    "output": ("[]", ["--output", "gate.bin"], "--output ends in .safetensors"),
    "fps": ("[]", ["--fps", "0"], "--fps"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_said_before_a_model_is_loaded(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("videochat_online.training.gate.load_from_flags", None)
    rows, more, message = MISTAKES[name]
    file = tmp_path / "rows.json"
    if rows.startswith("["):
        file.write_text(rows)
    given = str(file) if rows.startswith("[") else rows
    where = ["--videos", str(tmp_path), "--output", str(tmp_path / "gate.safetensors")]
    assert main(["gate", "train", given, *where, *more]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_gate_is_one_clear_error(tmp_path):
    model, path = load_model("pocket", device="cpu")[0], tmp_path / GATE_FILE
    tensors = load_file(gate_file("pocket"))
    about = {"format": FORMAT, "threshold": 0.5, "model": "pocket"}
    save_file(tensors, path, metadata={"gate": json.dumps(about)})
    assert Gate.load(path, model).threshold == 0.5
    damaged = [(tensors, header) for header in ([], {"format": FORMAT}, {**about, "threshold": "x"})]
    damaged.append((tensors, {**about, "threshold": float("nan")}))
    damaged.append(({**tensors, "mean": tensors["mean"] * float("nan")}, about))
    damaged.append(({name: value for name, value in tensors.items() if name != "mean"}, about))
    for stored, header in damaged:
        save_file(stored, path, metadata={"gate": json.dumps(header)})
        with pytest.raises(ValueError, match=r"gate.safetensors is not a gate that `gate train` has written: ."):
            Gate.load(path, model)
