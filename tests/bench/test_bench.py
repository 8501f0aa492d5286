"""The benchmarks run and compare like with like. No timing is asserted: `videochat-online bench` is for that."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import pytest

from videochat_online import StreamingSession, VideoChatOnlineConfig, load_model
from videochat_online.bench import ask, encoder, paper, train
from videochat_online.bench.e2e import bench_e2e
from videochat_online.bench.measure import alternate, seconds_per_call, table
from videochat_online.bench.memory import bench_memory
from videochat_online.bench.stream import against_reencoding, flatness, transform_speed, where_time_goes, write_clip
from videochat_online.bench.suite import write_report
from videochat_online.cli import main


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket", device="cpu")


def test_memory_bench_compares_equal_banks(capsys, tmp_path):
    # the two banks hold the same frames, or bench_memory raises
    assert (
        main(
            [
                "bench",
                "memory",
                "--channels",
                "4",
                "--repeats",
                "1",
                "--threads",
                "1",
                "--json",
                str(tmp_path / "out.json"),
            ]
        )
        == 0
    )
    rows = json.loads((tmp_path / "out.json").read_text())["results"]["milliseconds a frame"]
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


def test_ask_and_e2e_compare_equal_answers(monkeypatch):
    # both raise where the two ways answer differently
    _, processor = load_model("pocket", device="cpu")
    small = functools.partial(ask.measuring_model, width=64, num_layers=1)
    monkeypatch.setattr(ask, "measuring_model", small)
    rows = ask.bench_ask(processor, repeats=1)
    computed = {row["situation"]: row["computed"] for row in rows}
    assert computed["second question, nothing new"] < 20 and computed["one new frame, no eviction"] < 60
    assert computed["oldest frame evicted (worst case)"] > 900
    assert all(row["visual tokens"] == 832 for row in rows)


def test_e2e_encodes_each_frame_once(pocket):
    ours, theirs = bench_e2e(lambda **more: StreamingSession(*pocket, **more), seconds=16, num_questions=4)
    assert ours["frames encoded"] == 32 and theirs["frames encoded"] == 8 + 16 + 24 + 32


def test_reports_are_written_and_compared(tmp_path, capsys):
    parts = {"memory": {"times": [{"bank": "2/2/12", "ms": 1.0, "batch/floor": 1.5}]}}
    write_report(tmp_path / "old", parts)
    parts["memory"]["times"][0]["batch/floor"] = 3.0
    write_report(tmp_path / "new", parts)
    assert sorted(file.name for file in (tmp_path / "old").iterdir()) == ["results.json", "results.md", "results.png"]
    assert main(["bench", "compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-3:] == ["1.5", "3", "2"]
    (tmp_path / "text").write_text("hello")
    assert main(["bench", "compare", str(tmp_path / "text"), str(tmp_path / "new")]) == 2


def test_paper_counts_what_is_known_of_the_published_model(golden, capsys):
    config = VideoChatOnlineConfig(**paper.PUBLISHED_4B)
    assert paper.cache_bytes(config, 1) == 393_216  # 384 KiB a token
    recorded = json.loads((golden / "fullsize_keys.json").read_text())["params_by_prefix"]["language_model"]
    embeddings = config.llm_config.vocab_size * config.llm_config.hidden_size
    assert paper.language_weights(config) == pytest.approx(recorded - embeddings, rel=1e-3)
    assert main(["bench", "paper"]) == 0
    assert "each further token" in capsys.readouterr().out


def test_train_bench_batches_the_same_samples_three_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "WORLD", replace(train.WORLD, videos=1, seconds=(12.0,)))
    model, processor = load_model("pocket", device="cpu")
    dataset = train.mixed_dataset(tmp_path, model, processor)
    rows = train.bench_batches(dataset, model, processor, num_samples=6, batch_size=3)
    assert [row["samples"] for row in rows] == [6, 6, 6]
    assert rows[2]["padding share"] < rows[0]["padding share"] and rows[0]["speed/shuffled"] == 1
    assert all(parameter.requires_grad for parameter in model.parameters()) and not model.training
    pipeline = train.bench_pipeline(tmp_path, dataset, num_samples=3)[0]
    assert pipeline["frames"] > 3 and pipeline["pipeline/decoder"] > 0


def test_encoder_bench_reports_each_way(pocket, monkeypatch):
    def no_compiler():
        raise RuntimeError("no compiler here\nand a long trace")

    offered = encoder.ways
    monkeypatch.setattr(encoder, "matmul_peak", lambda: 1e9)
    monkeypatch.setattr(encoder, "ways", lambda model: {**offered(model), "float32, torch.compile": no_compiler})
    rows = {row["way"]: row for row in encoder.bench_encoder(pocket[0].config, batch=1, repeats=1)}
    assert rows["float32"]["largest difference"] == 0 and rows["float32"]["of matmul peak"] > 0
    for way in ("bfloat16", "int8 weights (dynamic)"):
        assert rows[way]["note"] == "" and 0 < rows[way]["largest difference"] < 0.2
    compiled = rows["float32, torch.compile"]
    assert compiled["ms a frame"] is None and compiled["note"] == "RuntimeError: no compiler here"
