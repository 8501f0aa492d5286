"""Sessions: recorded chats of the published model, equivalences, independence and state."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer

from videochat_online import MemoryConfig, StreamingSession
from videochat_online.media.transforms import FrameTransform
from videochat_online.model.weights import load_pretrained
from videochat_online.processing import Processor
from videochat_online.prompt.messages import get_template

from .sessions import pictures, watching

TOKENIZERS = {"model_phi3": "phi3_fast", "model_qwen2": "chatml"}


# ---- the published model --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def published(request, golden, tmp_path_factory):
    """A recorded tiny model with its tokenizer and chats."""
    folder = tmp_path_factory.mktemp(request.param)
    source = golden / request.param
    (folder / "config.json").write_text((source / "config.json").read_text())
    (folder / "model.safetensors").symlink_to(source / "weights.safetensors")
    model = load_pretrained(folder, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(golden / "tokenizers" / TOKENIZERS[request.param])
    model.config.img_context_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    processor = Processor(tokenizer, get_template(model.config.template), FrameTransform(64))
    chats = json.loads((source / "chat.json").read_text())
    frames = load_file(golden / "frames40.safetensors")["pixel_values"]
    return model, processor, chats, frames


@pytest.mark.parametrize("name", ["stream_plain", "stream_timestamps", "stream_hist_turn1"])
def test_answers_as_the_published_model(published, name):
    model, processor, chats, frames = published
    chat = chats[name]
    num_frames = max(chat["frame_indices"]) + 1
    session = StreamingSession(model, processor, timestamps=name != "stream_plain")
    with torch.no_grad():
        features = model.encode_frames(frames[:num_frames])
    session.memory.write(features, [k / 2 for k in range(num_frames)])
    question = chat["query_collapsed"].split("</img>\n")[-1].split(processor.template.end)[0]

    rendered, held = session.prompt(question)
    assert [frame.index for frame in held] == chat["frame_indices"]
    assert [frame.num_tokens for frame in held] == chat["token_counts"]
    assert rendered.ids == chat["input_ids"]

    expected = chat["generated_ids"][0][1:] if isinstance(chat["generated_ids"][0], list) else chat["generated_ids"][1:]
    ids = model.generate(inputs_embeds=session.language.embed(rendered, held), max_new_tokens=len(expected))[0].tolist()
    safe = next(
        (k for k, step in enumerate(chat["steps_top5"]) if step[0][1] - step[1][1] < 1e-3), len(chat["steps_top5"])
    )
    assert safe > 3 and ids[:safe] == expected[:safe]
    if safe == len(expected):
        assert session.ask(question, max_new_tokens=len(expected)) == processor.decode(expected).strip()


# ---- equivalences ---------------------------------------------------------------------------------------------------


def test_frame_by_frame_is_all_at_once(pocket):
    together, single = watching(pocket, 37), StreamingSession(*pocket)
    for k, picture in enumerate(pictures(37)):
        single.see(Image.fromarray(picture), k / 2)
    left, right = together.memory.read(), single.memory.read()
    assert [(f.index, f.level, f.timestamp) for f in left] == [(f.index, f.level, f.timestamp) for f in right]
    for one, other in zip(left, right, strict=True):  # the encoder sums batches in another order
        torch.testing.assert_close(one.features, other.features, atol=1e-4, rtol=1e-4)
    assert together.ask("What now?", max_new_tokens=8) == single.ask("What now?", max_new_tokens=8)


def test_streamed_answer_is_the_answer(pocket):
    question = "What is the red circle doing?"
    pieces = list(watching(pocket).ask_stream(question, max_new_tokens=24))
    assert "".join(pieces) == watching(pocket).ask(question, max_new_tokens=24)
    assert len(pieces) > 1


def test_an_answer_that_is_taken_after_a_reset_leaves_nothing_behind(pocket):
    session, fresh = watching(pocket, 12), StreamingSession(*pocket)
    pieces = session.ask_stream("What now?", max_new_tokens=8)
    session.reset()
    assert list(pieces) == [] and pieces.question.answer is None and session.turns == ()
    for one in (session, fresh):
        one.see_many(pictures(3, seed=9), [0.0, 1.0, 2.0])
    assert session.ask("Where is it?", max_new_tokens=8) == fresh.ask("Where is it?", max_new_tokens=8)
    torch.testing.assert_close(*(one.score_options("Where?", ["left", "right"]) for one in (session, fresh)))


def test_frames_stand_in_the_turn_in_which_they_were_seen(pocket):
    session = watching(pocket, 4)
    session.ask("First?", max_new_tokens=4)
    session.see_many(pictures(3, seed=1), [2.0, 2.5, 3.0])
    rendered, frames = session.prompt("Second?")
    text = pocket[1].tokenizer.decode(rendered.ids)
    order = [text.index(f"Frame{k}") for k in range(1, 8)]
    first, second = text.index("First?"), text.index("Second?")
    assert order == sorted(order) and order[3] < first < order[4] < order[6] < second
    assert [frame.index for frame in frames] == list(range(7))
    assert session.turns[0].num_seen == 4 and session.turns[0].timestamp == 1.5


def test_a_question_may_leave_no_trace(pocket):
    session = watching(pocket)
    before = session.prompt("Now?")[0].ids
    session.ask("What?", max_new_tokens=4, keep=False)
    session.score_options("What?", ["yes", "no"])
    assert session.prompt("Now?")[0].ids == before and session.turns == ()


def test_option_scores_are_the_models_own(pocket):
    session = watching(pocket)
    answer = session.ask("What?", max_new_tokens=6, keep=False)
    scores = session.score_options("What?", ["circle", "a red square", answer])
    assert all(score < 0 for score in scores) and len(set(scores)) == 3
    model, processor = pocket
    rendered, frames = session.prompt("What?")
    ids = processor.tokenizer("circle", add_special_tokens=False)["input_ids"] + processor.end_token_ids[:1]
    embeds, expected = session.language.embed(rendered, frames), 0.0
    with torch.no_grad():
        for token in ids:  # one token at a time, nothing shared with the scoring code
            logits = model(inputs_embeds=embeds).logits[0, -1]
            expected += float(logits.log_softmax(-1)[token])
            embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([[token]]))], 1)
    assert scores[0] == pytest.approx(expected, abs=1e-3)


# ---- independence ---------------------------------------------------------------------------------------------------


def test_two_sessions_do_not_touch_also_from_two_threads(pocket):
    alone = {seed: watching(pocket, 30, seed).ask("What now?", max_new_tokens=12) for seed in (1, 2)}
    together = {}

    def run(seed):
        session = StreamingSession(*pocket)
        for k, picture in enumerate(pictures(30, seed)):
            session.see_many([picture], [k / 2])
        together[seed] = session.ask("What now?", max_new_tokens=12)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_one_may_watch_while_another_asks(pocket):
    session, expected = watching(pocket, 20), watching(pocket, 20).ask("What now?", max_new_tokens=40)
    pieces = session.ask_stream("What now?", max_new_tokens=40)
    text = next(pieces)
    session.see_many(pictures(10, seed=5), [10 + k for k in range(10)])
    text += "".join(pieces)
    assert text == expected
    assert session.stats()["frames_seen"] == 30 and session.turns[0].num_seen == 20


def test_leaving_an_answer_early_ends_it(pocket):
    session = watching(pocket)
    pieces = session.ask_stream("What now?", max_new_tokens=2000)
    first = next(pieces)
    pieces.close()
    assert session.turns[0].answer.startswith(first)
    assert len(session.turns[0].answer) < 2000
    session.ask("And now?", max_new_tokens=2)


# ---- state ----------------------------------------------------------------------------------------------------------


def test_reset_is_a_new_session(pocket):
    session = watching(pocket)
    session.ask("What?", max_new_tokens=3)
    session.reset()
    assert session.stats()["frames_seen"] == 0 and session.turns == () and session.stats()["last_timestamp"] is None
    session.see_many(pictures(20), [k / 2 for k in range(20)])
    assert session.ask("What?", max_new_tokens=6) == watching(pocket).ask("What?", max_new_tokens=6)


def test_stats_count_what_happened(pocket):
    session = watching(pocket, 20)
    prompt_tokens = len(session.prompt("What?")[0].ids)
    session.ask("What?", max_new_tokens=5)
    stats = session.stats()
    assert stats["frames_seen"] == 20 and stats["frames_held"] == [2, 2, 12] and stats["tokens"] == 52
    assert stats["bytes"] == 52 * 512 * 4 and stats["last_timestamp"] == 9.5
    assert stats["questions"] == 1 and stats["prompt_tokens"] == prompt_tokens
    assert 0 < stats["time_to_first_token"] <= stats["latency"] and stats["encode_fps"] > 0
    json.dumps(stats)


def test_memory_follows_the_encoder_unless_grids_were_asked_for(pocket):
    assert StreamingSession(*pocket, memory=MemoryConfig.pyramid()).memory.config.grids == (4, 2, 1)
    assert StreamingSession(*pocket).memory.config.grids == (4, 2, 1)
    asked_for = MemoryConfig.pyramid(grids=(2, 2, 1))
    assert StreamingSession(*pocket, memory=asked_for).memory.config.grids == (2, 2, 1)
    with pytest.raises(ValueError, match=r"grids \(16, 8, 4\) do not fit an encoder that gives 4x4 maps"):
        StreamingSession(*pocket, memory=MemoryConfig.pyramid(grids=(16, 8, 4)))


def test_a_session_of_another_model(pocket, published, tmp_path):
    watching(pocket).save(tmp_path / "one.session")
    with pytest.raises(ValueError, match="is a session of a model"):
        StreamingSession.restore(published[0], published[1], tmp_path / "one.session")


def test_a_long_dialogue_forgets_its_oldest_turns(pocket, caplog, monkeypatch):
    """The prompt stays within the model, the newest turns stay in it; a question too long in itself forgets nothing."""
    monkeypatch.setattr("videochat_online.model.videochat.max_positions", lambda config: 700)
    session, cold = watching(pocket, 20), watching(pocket, 20, reuse_cache=False)
    for k in range(25):
        question = f"Question number {k}, and what did the red circle do before the blue square came?"
        assert session.ask(question, max_new_tokens=8) == cold.ask(question, max_new_tokens=8)
        session.prefill()
        stats = session.stats()
        assert stats["prompt_tokens"] + 8 <= 700
    assert stats["questions"] == 25 and stats["turns_forgotten"] > 0 and session.turns == cold.turns
    assert "oldest" in caplog.text and session.turns[-1].question.startswith("Question number 24")
    text = pocket[1].tokenizer.decode(session.prompt("Now?")[0].ids)
    assert "number 24," in text and "number 0," not in text and text.count("Frame") == 16
    turns = session.turns
    with pytest.raises(ValueError, match=r"answer may have 5000, but 700 are taken"):
        session.ask("What?", max_new_tokens=5000)
    assert session.turns == turns and session.stats()["turns_forgotten"] == stats["turns_forgotten"]
    long = "Is it the case that " * 60 + "the circle is red?"  # fits a prompt, but not behind the whole dialogue
    scores = [each.score_options(long, ["yes", "no"]) for each in (session, cold)]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)
    assert session.turns == turns


def test_a_streamed_question_is_about_the_moment_of_the_call(pocket):
    session, expected = watching(pocket, 10), watching(pocket, 10).ask("What now?", max_new_tokens=12)
    pieces = session.ask_stream("What now?", max_new_tokens=12)
    session.see_many(pictures(9, seed=4), [9.0 + k for k in range(9)])
    assert "".join(pieces) == expected and session.turns[0].num_seen == 10


@pytest.mark.parametrize("option", ["eos_token_id", "streamer", "return_dict_in_generate"])
def test_options_that_are_the_sessions_are_refused(pocket, option):
    with pytest.raises(ValueError, match=f"'{option}' is the session's to set"):
        watching(pocket, 3).ask("What?", max_new_tokens=3, **{option: 1})


def test_a_frame_that_was_being_encoded_at_a_reset_is_forgotten(pocket):
    session = watching(pocket, 3)
    encode = session.encoder.encode

    class Slow:
        prepare = session.encoder.prepare

        def encode(self, pixels):
            session.reset()
            return encode(pixels)

    session.encoder = Slow()
    assert session.see(pictures(1)[0], 50.0) == []
    assert session.stats()["frames_seen"] == 0 and session.stats()["last_timestamp"] is None


def test_counting_goes_on_while_frames_are_projected(pocket):
    """What stats() looks at in one thread is replaced in another, never changed."""
    session = watching(pocket, 3)
    session.ask("What now?", max_new_tokens=2)
    held = session.language._tokens
    size = len(held)
    session.see_many(pictures(2, seed=5), [10.0, 11.0])
    session.ask("And now?", max_new_tokens=2)
    assert len(held) == size and session.language._tokens is not held
