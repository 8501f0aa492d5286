"""The benchmarks run and compare like with like. No timing is asserted: `videochat-online bench` is for that."""

from __future__ import annotations

import json

import pytest

from videochat_online import StreamingSession, load_model
from videochat_online.bench.measure import alternate, seconds_per_call, table
from videochat_online.bench.memory import bench_memory
from videochat_online.bench.stream import against_reencoding, flatness, transform_speed, where_time_goes, write_clip
from videochat_online.cli import main


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket", device="cpu")


def test_memory_bench_compares_equal_banks(capsys, tmp_path):
    # the two banks hold the same frames, or bench_memory raises
    assert main(["bench", "memory", "--channels", "4", "--repeats", "1", "--json", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["results"]["memory"]
    assert [(row["bank"], row["maps"]) for row in rows] == [
        (bank, maps) for bank in ("2/2/12", "24/24/144") for maps in ("channels_last", "channels_first")
    ]
    assert all(row["batch/floor"] > 0 for row in rows)
    assert "one by one ms" in capsys.readouterr().out


def test_memory_bench_refuses_to_compare_different_banks(monkeypatch):
    monkeypatch.setattr("videochat_online.bench.memory.StraightforwardBank.indices", property(lambda self: []))
    with pytest.raises(AssertionError, match="different frames"):
        bench_memory(channels=4, repeats=1)


def test_stream_bench_measures_every_step(pocket, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", width=128, height=96, num_frames=12)
    row = where_time_goes(*pocket, clip, num_frames=12, batch=5)
    assert list(row) == ["decode", "transform", "encoder", "bank", "connector"] and min(row.values()) > 0


def test_one_pass_answers_like_re_encoding(pocket):
    row = against_reencoding(lambda: StreamingSession(*pocket), num_frames=24, num_questions=3)
    assert row["questions"] == 3  # equal answers, or it raises


def test_flatness_and_transform(pocket):
    row = flatness(StreamingSession(*pocket), num_frames=30)
    assert row["frames"] == 30 and row["memory bank bytes"] == 52 * 512 * 4
    assert transform_speed(repeats=1)["largest difference of 255"] <= 2


def test_timing_helpers():
    calls = []
    assert seconds_per_call(lambda: calls.append(1), repeats=3) >= 0 and len(calls) == 4
    order = []
    alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert "".join(order) == "ababab"
    assert table([{"name": "x", "ms": 1.5}]).splitlines()[2].split() == ["x", "1.5"]
