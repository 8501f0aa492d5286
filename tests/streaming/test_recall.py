"""Recall: which questions name a time, what they and others are shown, and that nothing else changes."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from videochat_online import MemoryConfig, StreamingSession
from videochat_online.streaming.chooser import CHOOSER_FILE, CHOOSER_FORMAT, Chooser, ChooserNetwork, chooser_file
from videochat_online.streaming.gate import Gate
from videochat_online.streaming.recall import ARCHIVED, CACHED, NEAREST, NEWEST, named_times

from .sessions import pictures, watching

PAST = "What did it do at 12.0s?"


@pytest.mark.parametrize(
    ("question", "times"),
    [
        ("What did it do 8 seconds ago (at 92.0s)?", [92, 92]),
        ("And at 1:05, please?", [65]),
        ("Two minutes ago?", []),  # before the stream began
        ("half a minute ago", [70]),
        ("one minute and 5 seconds earlier", [35]),
        ("at 1m5s, or an 8-second ago", [92, 65]),
        ("between 10s and 20 seconds", [10, 20]),
        ("What did it do at 00:00:07.5?", [7.5]),
        ("between 5 and 9 seconds", [9, 5]),
        ("from 5 to 9s, or at 20-25 seconds?", [9, 5, 20]),
        ("at 1:05:30", []),  # the stream is shorter
        ("at 3 o'clock, 12 cars, 2 seconds apart; from 5 to 9 meters", []),
        ("in the last 30 seconds, for 5 seconds", []),
        ("Is it still in the screen 5 second(s) before?", [95]),
        ("What actions was the person performing before the last 12 seconds?", [88]),
        ("What happened 3 seconds before the fall?", []),
        ("at 0:30 pm", []),
        ("at the 12 second mark, or the 1 minute 5 second mark", [12, 65]),
        ("12 seconds into the video; half a minute into it", [12, 30]),
        ("near the 1:05 mark, or 0:07 into the stream", [65, 7]),
        ("the 3 second rule, a 5 second timer, mark 12 seconds", []),
        ("a few seconds ago; it moved, and 5 seconds later?", []),
        ("Question at 100.0s: what is it?", []),  # now
        ("at 250s", []),  # still to come
        ("When?\nOptions:\n(A) at 5s\n(B) at 9s\nAnswer:", []),
        ("When?\nA. at 5s\nB. 7 seconds ago", []),
        ("What at 3s?\nOptions:\n(A) at 5s", [3]),
        (f"at {'9' * 400}s", []),
        ("", []),
    ],
)
def test_times_are_read_as_they_are_asked(question: str, times: list[float]):
    assert named_times(question, 0.0, 100.0) == pytest.approx(times)


def test_a_hundred_thousand_characters_are_read_at_once():
    for text in (
        "1 " * 50_000,
        "at " * 33_000,
        "1" * 100_000,
        "one and " * 12_000,
        "at 1" + " " * 100_000,
        "1:0" * 9_000,
    ):
        assert named_times(text, 0.0, 100.0) == []


def test_a_question_about_a_time_sees_the_frames_around_it(pocket):
    session = watching(pocket, 200, recall="time")
    rendered, frames = session.prompt("What did it do at 30.0s?")
    shown = [frame.index for frame in frames]
    assert len(shown) == NEWEST + NEAREST and shown == sorted(set(shown)) and shown[-1] == 199
    nearest = sorted(abs(frame.timestamp - 30) for frame in frames)[:NEAREST]
    assert max(nearest) < 8 and nearest[0] <= 1
    assert {frame.num_tokens for frame in frames} == {1} == {count for _, count in rendered.image_spans}
    assert len(rendered.ids) <= 2 * len(session.prompt("What is it doing?")[0].ids)


def test_the_archive_is_even_and_bounded(pocket):
    session = watching(pocket, 500, recall="time")
    archive = session._recall.archive
    times = list(archive.times.values())
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) == ARCHIVED and times[0] == 0 and times[-1] == 249.5
    assert max(gaps) <= 4 * 250 / ARCHIVED
    bytes_held = archive.num_bytes
    session.see_many(pictures(40), [300 + k for k in range(40)])
    assert archive.num_bytes == bytes_held and session.stats()["bytes"] == session.memory.num_bytes + bytes_held


def test_full_maps_make_a_smaller_archive(pocket, monkeypatch):
    monkeypatch.setattr("videochat_online.streaming.recall.CELLS", 320)
    session = watching(pocket, 60, recall="time", memory=MemoryConfig.recent(3))
    assert len(session._recall.archive.times) == 320 // 16 and session.ask(PAST)
    assert {frame.num_tokens for frame in session.prompt(PAST)[1]} == {16}


@pytest.mark.parametrize("question", ["What is it doing?", "Question at 60.0s: what?\nOptions:\n(A) at 5s\n(B) at 9s"])
def test_without_a_time_nothing_changes(pocket, question):
    plain, recalling = watching(pocket, 60), watching(pocket, 60, recall="time")
    assert recalling.ask(PAST, keep=False)
    one, other = (session.prompt(question) for session in (plain, recalling))
    assert one[0] == other[0] and all(map(torch.equal, *([f.features for f in shown] for _, shown in (one, other))))
    assert plain.ask(question) == recalling.ask(question)
    assert plain.score_options(question, ["yes", "no"]) == recalling.score_options(question, ["yes", "no"])
    assert plain.language.cache.keys == recalling.language.cache.keys


def test_answers_on_the_small_cache_are_the_cold_ones(pocket):
    warm, cold = watching(pocket, 150, recall="time"), watching(pocket, 150, recall="time", reuse_cache=False)
    asked = [PAST, "And 60 seconds ago?", "What is it doing?", PAST, PAST, "Where was it at 0:59?"]
    reused = []
    for number, question in enumerate(asked):
        assert warm.ask(question, max_new_tokens=8) == cold.ask(question, max_new_tokens=8)
        reused.append(warm.stats()["cached_tokens"])
        scores = [torch.tensor(one.score_options(question, ["red", "a circle"])) for one in (warm, cold)]
        torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-4)
        for session in (warm, cold) if number != 3 else ():  # the archive thins, the memory lets go: other maps
            session.see_many(pictures(30, seed=number), [100 * (number + 1) + k for k in range(30)])
    assert warm.turns == cold.turns and max(reused) > 100
    assert len(warm._recall.language.cache) <= CACHED and cold._recall.language.num_bytes == 0
    assert warm.stats()["cache_bytes"] > warm.language.num_bytes


def test_a_named_time_keeps_the_dialogue(pocket):
    session = watching(pocket, 40, recall="time")
    session.ask("What is it?")
    text = session.processor.tokenizer.decode(session.prompt(PAST)[0].ids)
    assert "What is it?" in text and text.index("What is it?") < text.index(PAST)
    session.ask(PAST)
    assert [turn.question for turn in session.turns] == ["What is it?", PAST]


def test_a_saved_session_recalls_alike(pocket, tmp_path):
    session = watching(pocket, 200, recall="time")
    session.save(tmp_path / "session")
    restored = StreamingSession.restore(*pocket, tmp_path / "session")
    for one in (session, restored):
        one.see_many(pictures(5, seed=3), [200 + k for k in range(5)])
    assert restored.recall == "time" and restored._recall.archive.times == session._recall.archive.times
    assert restored.ask(PAST) == session.ask(PAST)
    one, other = (session.prompt(PAST) for session in (session, restored))
    assert one[0] == other[0] and all(map(torch.equal, *([f.features for f in shown] for _, shown in (one, other))))


def test_reset_forgets_the_archive(pocket):
    session = watching(pocket, 30, recall="time")
    session.ask(PAST)
    session.reset()
    assert not session._recall.archive.times and session._recall.language.num_bytes == 0
    with pytest.raises(ValueError, match="before any frame"):
        session.ask(PAST)
    session.see_many(pictures(30, seed=1), [k / 2 for k in range(30)])
    assert session.ask(PAST) == watching(pocket, 30, seed=1, recall="time").ask(PAST)


def test_a_refused_frame_leaves_memory_and_archive_alike(pocket):
    session = watching(pocket, 20, recall="time")
    with pytest.raises(ValueError, match="time went back"):
        session.see(pictures(1)[0], 1.0)
    assert session._recall.archive.num_written == session.memory.num_written == 20


@pytest.mark.parametrize("recall", ["tim", "", True])
def test_an_unknown_way_is_refused(pocket, recall):
    with pytest.raises(ValueError, match="recall must be 'time' or 'chosen' or None"):
        StreamingSession(*pocket, recall=recall)


# ---- questions that name no time ------------------------------------------------------------------------------------

PLAIN = "Where was the red circle when it last performed the spin?"


@pytest.fixture
def chooser(pocket, tmp_path, monkeypatch):
    """A chooser that has learnt nothing yet, but is sure of some frames: the sessions of a test find it."""
    torch.manual_seed(0)
    network = ChooserNetwork(*Gate.sizes(pocket[0]))
    network.out[1].weight.data *= 20
    network.tune.weight.data *= 20
    Chooser(network, 6, 0.95, "pocket").save(tmp_path / CHOOSER_FILE)
    monkeypatch.setattr("videochat_online.streaming.chooser.chooser_file", lambda model: tmp_path / CHOOSER_FILE)
    return Chooser.load(tmp_path / CHOOSER_FILE, pocket[0])


def test_a_question_without_a_time_sees_what_the_chooser_finds(pocket, chooser):
    session, by_time = watching(pocket, 200, recall="chosen"), watching(pocket, 200, recall="time")
    shown = [frame.index for frame in session.prompt(PLAIN)[1]]
    assert shown == sorted(set(shown)) and shown[-NEWEST:] == [196, 197, 198, 199] and NEWEST < len(shown) <= NEWEST + 6
    assert shown != [frame.index for frame in session.prompt("What was the first action the blue ring did?")[1]]
    assert shown == [frame.index for frame in session.prompt(f"{PLAIN}\nOptions:\n(A) at 5s\n(B) at 9s")[1]]
    assert session.prompt(PAST)[0] == by_time.prompt(PAST)[0], "a time that is named comes first"
    assert len(session.prompt(PLAIN)[0].ids) <= 2 * len(by_time.prompt(PLAIN)[0].ids)
    assert session.ask(PLAIN) == watching(pocket, 200, recall="chosen", reuse_cache=False).ask(PLAIN)
    assert session.stats()["prompt_tokens"] < 250 and not session.language.cache.keys


def test_a_chooser_stops_where_it_is_sure(pocket, chooser):
    frames = watching(pocket, 60, recall="chosen")._recall._read(set(range(60)))
    words = torch.randn(9, chooser.network.word.in_features)
    few, more = ([f.index for f in chooser.choose(frames, words, NEWEST)] for chooser.sure in (0.0, 2.0))
    assert few == [56, 57, 58, 59] and len(more) == NEWEST + 6 and set(few) < set(more)


def test_questions_chosen_for_together_are_those_chosen_for_alone(chooser):
    network, (channels, width) = chooser.network, (chooser.network.look.in_features, chooser.network.word.in_features)
    lengths = torch.tensor([12, 30, 1])
    seen, times = network.seen(torch.randn(3, 30, channels)), torch.arange(90.0).reshape(3, 30)
    words = [torch.randn(num, width) for num in (4, 9, 6)]
    together = network(seen, times, lengths, words)[0]
    for k, num in enumerate(lengths.tolist()):
        alone = network(seen[k : k + 1, :num], times[k : k + 1, :num], lengths[k : k + 1], words[k : k + 1])[0]
        torch.testing.assert_close(together[k : k + 1, :num], alone, atol=1e-4, rtol=1e-4)
        assert (together[k, num:] == -torch.inf).all()


def test_a_saved_session_chooses_alike(pocket, chooser, tmp_path):
    session = watching(pocket, 90, recall="chosen")
    session.save(tmp_path / "session")
    restored = StreamingSession.restore(*pocket, tmp_path / "session")
    assert restored.recall == "chosen" and restored.prompt(PLAIN)[0] == session.prompt(PLAIN)[0]


def test_a_damaged_chooser_is_one_clear_error(pocket, chooser, tmp_path):
    path = tmp_path / CHOOSER_FILE
    tensors, about = load_file(path), {"format": CHOOSER_FORMAT, "most": 6, "sure": 0.9, "model": "pocket"}
    damaged = [
        (tensors, header) for header in ([], {**about, "most": "x"}, {**about, "sure": None}, {**about, "most": -1})
    ]
    damaged += [(tensors, {"format": CHOOSER_FORMAT})]
    for name, value in (("mean", None), ("out.1.bias", None), ("word.weight", torch.zeros(3)), ("x", torch.zeros(3))):
        damaged.append(({key: each for key, each in {**tensors, name: value}.items() if each is not None}, about))
    damaged.append(({**tensors, "mean": tensors["mean"] * torch.nan}, about))
    for held, header in damaged:
        save_file(held, path, metadata={"chooser": json.dumps(header)})
        with pytest.raises(ValueError, match=r"chooser.safetensors is not a chooser that .* has written: ."):
            Chooser.load(path, pocket[0])


def test_sessions_share_the_chooser_until_its_file_is_another(pocket, chooser, tmp_path):
    first, second = (StreamingSession(*pocket, recall="chosen")._recall.chooser for _ in range(2))
    assert first is second and first.most == 6
    Chooser(chooser.network, 5, 0.95, "pocket").save(tmp_path / CHOOSER_FILE)
    os.utime(tmp_path / CHOOSER_FILE, ns=(1, 1))
    assert StreamingSession(*pocket, recall="chosen")._recall.chooser.most == 5


def test_a_chooser_that_is_none_is_an_error(pocket, chooser, tmp_path):
    with pytest.raises(ValueError, match="is not a chooser"):
        Chooser.load(tmp_path / "absent", pocket[0])
    save_file({"mean": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match="expected format"):
        Chooser.load(tmp_path / "other", pocket[0])
    Chooser(ChooserNetwork(8, 16), 6, 0.9, "tiny").save(tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"of another model .tiny.: maps of 8 channels and words of width 16, here"):
        Chooser.load(tmp_path / "tiny", pocket[0])
    folder = SimpleNamespace(config=SimpleNamespace(name_or_path=str(tmp_path / "model")))
    with pytest.raises(ValueError, match=r"chooser.safetensors beside the model's weights: there is none in"):
        chooser_file(folder)
