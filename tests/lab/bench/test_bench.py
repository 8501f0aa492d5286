"""The benchmarks run and compare like with like. No timing is asserted: `videochat-online bench` is for that."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from tests.stand_in_engine import StandIn, running
from videochat_online import StreamingSession, VideoChatOnlineConfig, load_model
from videochat_online.cli import main
from videochat_online.lab.bench import ask, decode, encoder, paper, serve, train
from videochat_online.lab.bench import eval as eval_bench
from videochat_online.lab.bench.e2e import bench_e2e
from videochat_online.lab.bench.endurance import bench_endurance
from videochat_online.lab.bench.lists import time_a_start, write_lists
from videochat_online.lab.bench.measure import alternate, seconds_per_call, text_table, write_clip
from videochat_online.lab.bench.memory import bench_memory
from videochat_online.lab.bench.stream import (
    against_reencoding,
    flatness,
    shapes_and_ways,
    transform_speed,
    where_time_goes,
)
from videochat_online.lab.bench.train import bench_real_clips
from videochat_online.lab.tiny_models import write_tiny_model
from videochat_online.model.engine import Engine
from videochat_online.streaming.cache import PromptCache
from videochat_online.streaming.together import SharedDecoder


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
    monkeypatch.setattr("videochat_online.lab.bench.memory.StraightforwardBank.indices", property(lambda self: []))
    with pytest.raises(AssertionError, match="different frames"):
        bench_memory(channels=4, repeats=1)


def test_standing_bench_has_both_that_decide(tmp_path):
    assert main(["bench", "standing", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "out.json")]) == 0
    (rows,) = json.loads((tmp_path / "out.json").read_text())["results"].values()
    both = product(("likelihood", "gate"), (0, 1, 4, 16))
    assert [(row["decides"], row["instructions"]) for row in rows] == list(both)
    costs = {row["decides"]: row["readout positions"] for row in rows if row["instructions"]}
    assert costs["likelihood"] > 0 == costs["gate"]


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


def test_cameras_and_small_frames_are_compared(tmp_path):
    """What one run compares: each way costs the tokens that `info` says, and a way of its own."""
    write_tiny_model("qwen3_vl", tmp_path / "tiny")
    rows = shapes_and_ways(*load_model(tmp_path / "tiny", device="cpu"), repeats=1, num_frames=24)
    tokens = {(row["camera"], row["small frames"]): (row["visual tokens"], row["bank bytes"] // 768) for row in rows}
    assert tokens == {
        ("square", "pooled"): (832, 832), ("square", "encoded"): (832, 1024),
        ("16:9", "pooled"): (804, 804), ("16:9", "encoded"): (804, 984),
    }  # fmt: skip
    assert rows[0]["ratio, 16 at once"] == 1 and min(row["ms a frame, one by one"] for row in rows) > 0


def test_timing_helpers():
    calls = []
    assert seconds_per_call(lambda: calls.append(1), repeats=3) >= 0 and len(calls) == 4
    order = []
    alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert "".join(order) == "ababab"
    assert text_table([{"name": "x", "ms": 1.5}]).splitlines()[2].split() == ["x", "1.5"]


def test_ask_compares_equal_answers_and_counts_what_is_computed(pocket):
    model = ask.measuring_model(pocket[1], width=64, num_layers=1)
    rows = ask.bench_ask(model, pocket[1], repeats=1)  # raises where warm and cold answer differently
    computed = {row["situation"]: row["computed"] for row in rows}
    assert computed["second question, nothing new"] < 20 and computed["one new frame, no eviction"] < 60
    assert computed["one new frame, prefilled while idle"] <= computed["second question, nothing new"]
    assert computed["oldest frame evicted (worst case)"] > 900
    assert all(row["visual tokens"] == 832 and row["warm/alone"] > 0 for row in rows)


def test_order_counts_what_a_new_frame_changes():
    rows = {(row["bank"], row["order"]): row for row in ask.bench_order(num_frames=220, channels=4)}
    shares = {order: row["mean share computed"] for (bank, order), row in rows.items() if bank == "2/2/12"}
    assert shares["by time, question first"] == 1 == shares["newest frame first"]  # nothing stays in place
    assert 0 < shares["by time, question last (trained)"] < shares["coarsest level first"] < 1
    assert len(rows) == 10


def test_e2e_encodes_each_frame_once(pocket):
    tables = bench_e2e(lambda **more: StreamingSession(*pocket, **more), seconds=16, num_questions=4)
    ours, theirs = tables["a stream with questions"]  # equal answers, or it raises
    assert ours["frames encoded"] == 32 and theirs["frames encoded"] == 8 + 16 + 24 + 32
    assert [row["frames so far"] for row in tables["each question"]] == [8, 16, 24, 32]
    assert ours["re-encoding/this"] > 0 and theirs["re-encoding/this"] == 1


def test_endurance_checks_against_a_cold_session(pocket):
    rows = bench_endurance(*pocket, keep=True, num_frames=120, num_questions=30)
    assert [row["questions"] for row in rows] == [6, 12, 18, 24, 30] and rows[-1]["frames"] == 120
    assert sum(row["checked against cold"] for row in rows) == 3
    assert all(row["logits apart"] is None or row["logits apart"] < 1e-4 for row in rows)
    assert all(row["cache MiB"] <= row["cache MiB at most"] for row in rows)


def test_endurance_refuses_a_wrong_cache(pocket, monkeypatch):
    """Keys that are kept though their frames have gone are noticed."""

    def keep_all(cache, keys, num_positions=None):
        kept = min(len(cache.keys), len(keys) - 1)
        cache.kv.crop(kept - len(cache.keys))
        cache.keys = list(keys[:kept])
        return kept

    monkeypatch.setattr(PromptCache, "keep_common", keep_all)
    with pytest.raises(AssertionError, match="the cached answer is"):
        bench_endurance(*pocket, keep=False, num_frames=2000, num_questions=100)


def test_sessions_share_batches_and_decoding_goes_ahead(pocket, tmp_path):
    rows = encoder.bench_sessions(*pocket, repeats=1, num_frames=5)
    assert [row["sessions"] for row in rows] == [1, 4, 8]
    assert rows[0]["frames in a batch"] == 1 and rows[2]["frames in a batch"] > 2
    clip = write_clip(tmp_path / "clip.mp4", width=64, height=48, num_frames=20)
    row = encoder.bench_overlap(*pocket, clip, repeats=1)[0]
    assert row["frames"] == 20 and row["overlapped/longer side"] > 0


def test_unchanged_frames_are_counted(pocket, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "WORLD", replace(encoder.WORLD, seconds=(10.0,)))
    monkeypatch.setattr(encoder, "THRESHOLDS", (0.01, 255.0))
    few, many = encoder.bench_unchanged(*pocket, tmp_path / "world")
    assert few["share encoded"] == 1 and few["mean relative difference of their maps"] < 1e-5
    assert many["share encoded"] == pytest.approx(1 / many["frames"])
    assert many["mean relative difference of their maps"] > 0


def test_paper_counts_what_is_known_of_the_published_model(golden, capsys):
    config = VideoChatOnlineConfig(**paper.PUBLISHED_4B)
    assert paper.cache_bytes(config, 1) == 393_216  # 384 KiB a token
    recorded = json.loads((golden / "fullsize_keys.json").read_text())["params_by_prefix"]["language_model"]
    embeddings = config.llm_config.vocab_size * config.llm_config.hidden_size
    assert paper.language_weights(config) == pytest.approx(recorded - embeddings, rel=1e-3)
    assert main(["bench", "paper"]) == 0
    page = (Path(__file__).parents[3] / "docs" / "performance.md").read_text()
    assert capsys.readouterr().out.strip() == page.split("```")[1].strip(), "docs/performance.md is of another formula"


def test_eval_bench_answers_alike_in_one_pass_and_again(pocket, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_bench, "WORLD", replace(eval_bench.WORLD, videos=1, seconds=(10.0,)))
    rows = {row["mode"]: row for row in eval_bench.bench_eval(*pocket, tmp_path / "world")}
    assert list(rows) == ["streaming", "prefix", "sliding_window"]
    assert rows["streaming"]["answers as in streaming"] == rows["prefix"]["answers as in streaming"] > 5
    assert rows["streaming"]["frames encoded"] <= 20 < rows["prefix"]["frames encoded"]


def test_eval_bench_says_how_much_the_models_are(pocket, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_bench, "WORLD", replace(eval_bench.WORLD, videos=1, seconds=(10.0,)))
    monkeypatch.setattr(eval_bench, "SPARSE", replace(eval_bench.SPARSE, videos=1, seconds=(20.0,)))
    dense, sparse = eval_bench.bench_models(*pocket, tmp_path, 1)
    assert dense["frames a question"] < 5 and sparse["frames a question"] > 50
    assert sparse["encoder/this"] > dense["encoder/this"] > 0
    for row in (dense, sparse):
        used = row["encoder cpu ms"] + row["language model cpu ms"]
        assert row["both models/this"] > row["encoder/this"]
        assert row["rest of the cpu time"] == pytest.approx(1 - used / row["this cpu ms"]) and used > 0


def test_train_bench_batches_the_same_samples_three_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "WORLD", replace(train.WORLD, videos=1, seconds=(12.0,)))
    model, processor = load_model("pocket", device="cpu")
    dataset = train.mixed_dataset(tmp_path, model, processor)
    rows = train.bench_batches(dataset, model, processor, num_samples=6, batch_size=3)
    assert [row["samples"] for row in rows] == [6, 6, 6]
    assert rows[2]["padding share"] < rows[0]["padding share"] and rows[0]["speed/shuffled"] == 1
    assert all(parameter.requires_grad for parameter in model.parameters()) and not model.training
    (attention,) = train.bench_attention([512], sample=128)
    assert (attention["samples"], attention["mask MiB"]) == (4, 0.25)
    assert attention["peak by sample/mask"] < 0.8
    whole, *parts = train.bench_loss(num_tokens=512, width=4, vocabulary=997)
    assert [row["chunks"] for row in parts] == [4, 16]
    assert parts[1]["peak MiB"] < parts[0]["peak MiB"] < whole["peak MiB"]
    pipeline = train.bench_pipeline(tmp_path, dataset, num_samples=3)[0]
    assert pipeline["samples"] == 3 and pipeline["pipeline/decoder"] > 0 and 0 < pipeline["cache/pipeline"] < 1


def test_the_input_pipeline_is_measured_on_the_same_frames(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", width=64, height=48, num_frames=60)
    (row,) = bench_real_clips([clip], tmp_path / "real", "pocket", samples=5, repeats=1)
    assert row["frames"] == "2 of 60" and row["alone/ours"] > 0
    assert (row["decord way/ours"] is None) == (find_spec("decord") is None)


def test_a_start_is_timed_on_lists_of_every_published_set(tmp_path):
    path, count = write_lists(tmp_path, 200)
    assert 180 < count < 260 and len(json.loads(path.read_text())) == 33
    rows = {row["step"]: row for row in time_a_start(path, "pocket")}
    assert {"read the rows", "estimate the lengths", "plan for 512 processes"} <= rows.keys()
    assert all(row["held MB"] > 0 for row in rows.values() if sys.platform == "linux")


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


def test_decode_is_measured_against_the_decoder_alone_and_decord(tmp_path, capsys, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", width=128, height=96, num_frames=40)
    rows = decode.bench_decode([clip], repeats=1)
    choices = ["every: 40 of 40", "spread: 16 of 40", "any order: 16 of 40"]
    assert [(row["threads"], row["frames"]) for row in rows] == list(product((1, 2), choices))
    assert all(row["alone/pyav"] > 0 for row in rows)
    assert rows[0]["clip"] == "clip.mp4 128x96"
    assert (rows[0]["decord/pyav"] is None) == (find_spec("decord") is None)
    monkeypatch.setitem(sys.modules, "decord", None)
    assert main(["bench", "decode", "--repeats", "1", "--threads", "1", "--clips", str(clip)]) == 0
    said = capsys.readouterr()
    assert "only PyAV is measured: the package decord is missing" in said.err and "spread: 16 of 40" in said.out
    clip.write_bytes(clip.read_bytes()[:-500])
    wrong = {("--clips", str(clip)): "clip.mp4: ", ("--repeats", "0"): "--repeats must be at least 1"}
    for flags, problem in wrong.items():
        assert main(["bench", "decode", "--repeats", "1", *flags]) == 2
        assert problem in capsys.readouterr().err


def test_sessions_at_once_by_threads_together_and_at_an_engine(pocket):
    """All say the same words: of each session its own, and as many as asked for."""
    processor = serve.Endless(pocket[1].tokenizer, pocket[1].template, pocket[1].transform)
    with running(StandIn(pocket[0])) as engine, SharedDecoder(pocket[0]) as decoder:
        there, _ = load_model("pocket", device="cpu", engine=Engine(engine.address))
        ways = {**serve.ways_of(pocket[0], decoder), "vLLM": serve.AskingWay(there)}
        rows = serve.compare(ways, processor, repeats=1, num_new=5, counts=(1, 3))
        asked = len(engine.bodies)
        assert decoder.num_tokens == 4 * 4  # the first of each comes of its prompt
    assert [row["sessions"] for row in rows] == [1, 3] == [row["equal answers"] for row in rows]
    assert list(ways) == ["one by one", "threads", "together", "vLLM"] and asked == 2 * (1 + 3)
    assert all(row[f"{name} tokens/s"] > 0 and row[f"{name} first ms"] > 0 for row in rows for name in ways)
    with pytest.raises(AssertionError, match="ended early"):
        serve.compare({"one by one": serve.AskingWay(pocket[0])}, pocket[1], repeats=1, num_new=200, counts=(1,))


def test_stream_runs_with_the_model_that_ships(capsys):
    """Through the command: what is measured of pictures of any shape is left out where the encoder takes squares."""
    flags = ["--frames", "40", "--large-frames", "0", "--repeats", "1", "--threads", "1"]
    assert main(["bench", "stream", *flags]) == 0
    told = capsys.readouterr().out
    assert "against re-encoding at each question" in told and "shapes and small frames" not in told
