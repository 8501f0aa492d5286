"""Real models behind the runner: ours through a session, and a transformers model of another family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import examined, picture, write_video
from videochat_online.config import MemoryConfig
from videochat_online.evaluation.benchmarks import Settings
from videochat_online.evaluation.questions import Question, Reply, VideoTask
from videochat_online.evaluation.responders import SessionResponder, TransformersResponder, memory_of_all
from videochat_online.evaluation.videos import OpenVideo
from videochat_online.media.readers import open_video
from videochat_online.processing import load_model

if TYPE_CHECKING:
    from videochat_online.model.videochat import VideoChatOnline
    from videochat_online.processing import Processor

Loaded = tuple["VideoChatOnline", "Processor"]


@pytest.fixture(scope="module")
def pocket() -> Loaded:
    return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> OpenVideo:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, seconds=30)
    reader = open_video(path)
    return OpenVideo(reader, reader.timestamps)


@pytest.fixture(scope="module")
def task() -> VideoTask:
    prompt = "Question at {}s: what is it?\nOptions:\n(A) red\n(B) blue\nAnswer:"
    questions = [
        Question(
            f"q{i}", moment, prompt.format(moment), "A", "t", "c", "s", labels=("(A)", "(B)"), options=("red", "blue")
        )
        for i, moment in enumerate([0.0, 4.2, 11.0, 11.0, 29.0])
    ]
    return VideoTask("v", "v", ("v.mp4",), tuple(questions))


SETTINGS = Settings(2.0, max_new_tokens=8, system_prompt="Watch carefully.\n")


def replies(outcomes: Any) -> list[Reply]:
    found = [outcome for _, outcome in outcomes]
    assert all(isinstance(outcome, Reply) for outcome in found)
    return found


@pytest.mark.parametrize("policy", ["pyramid", "recent"])
def test_one_pass_answers_as_if_the_stream_were_encoded_anew_for_each_question(
    policy: Any, pocket: Loaded, video: OpenVideo, task: VideoTask
):
    model, processor = pocket
    responder = SessionResponder(model, processor, MemoryConfig.of_budget(policy, MemoryConfig.pyramid()))
    one_pass = replies(examined("streaming", task, video, SETTINGS, responder))
    again = replies(examined("prefix", task, video, SETTINGS, responder))
    assert [reply.text for reply in one_pass] == [reply.text for reply in again]
    assert sum(reply.new_frames for reply in one_pass) == 59  # every frame up to 29.0 s once
    assert sum(reply.new_frames for reply in again) == 1 + 9 + 23 + 23 + 59

    likelihood = replace(SETTINGS, answer="likelihood")
    chosen = replies(examined("streaming", task, video, likelihood, responder))
    chosen_anew = replies(examined("prefix", task, video, likelihood, responder))
    for first, second in zip(chosen, chosen_anew, strict=True):
        assert first.scores == pytest.approx(second.scores, abs=1e-3)  # other batches of frames: float noise only


def test_a_dialogue_with_the_real_model_differs_from_single_questions(
    pocket: Loaded, video: OpenVideo, task: VideoTask
):
    model, processor = pocket
    opened = []

    class Opened(SessionResponder):
        def open(self, system_prompt: str | None) -> Any:
            opened.append(super().open(system_prompt))
            return opened[-1]

    for multi_turn in (False, True):
        settings = replace(SETTINGS, multi_turn=multi_turn)
        replies(examined("streaming", task, video, settings, Opened(model, processor)))
    assert [len(conversation.session.turns) for conversation in opened] == [0, 5]
    assert [turn.num_seen for turn in opened[1].session.turns] == [1, 9, 23, 23, 59]


def test_a_sliding_window_forgets_nothing(pocket: Loaded, video: OpenVideo, task: VideoTask):
    model, processor = pocket
    memory = memory_of_all(20, model.config.memory_config)
    assert memory.capacities == (3, 2, 15)  # frames 0, 8, 16; 4, 12; and the rest, each at its level
    conversation = SessionResponder(model, processor, memory).open(None)
    conversation.see([picture(i) for i in range(20)], [float(i) for i in range(20)])
    held = conversation.session.memory.read()
    assert [frame.index for frame in held] == list(range(20))
    assert [frame.level for frame in held[:9]] == [0, 2, 2, 2, 1, 2, 2, 2, 0]

    settings = replace(SETTINGS, window=9.0, frames=20)
    responder = SessionResponder(model, processor, memory)
    [*_, last] = replies(examined("sliding_window", task, video, settings, responder))
    assert (last.num_frames, last.first_time, last.last_time) == (19, 20.0, 29.0)


def test_unchanged_frames_can_be_skipped(pocket: Loaded):
    conversation = SessionResponder(*pocket, skip_below=2.0).open(None)
    conversation.see([picture(1)] * 5, [float(i) for i in range(5)])
    assert conversation.session.stats()["frames_skipped"] == 4


def test_our_model_can_be_asked_blind(pocket: Loaded, task: VideoTask):
    model, processor = pocket
    responder = SessionResponder(model, processor)
    found = replies(examined("blind", task, None, replace(SETTINGS, answer="likelihood"), responder))
    assert {reply.num_frames for reply in found} == {0}
    assert all(reply.text in ("(A)", "(B)") and len(reply.scores) == 2 for reply in found)


def write_tiny_llava(folder: Path) -> None:
    """A Llava of a few thousand random weights with a byte tokenizer, as any model folder of transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bytes_only = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    template = (
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=16, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(**small, vocab_size=len(vocabulary), max_position_embeddings=4096),
        image_token_index=3,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    write_tiny_llava(folder)
    return folder


@pytest.fixture
def llava(llava_folder: Path) -> TransformersResponder:
    return TransformersResponder.load(
        str(llava_folder), device="cpu", dtype="auto", attn_implementation="auto", max_frames=4
    )


def test_a_transformers_model_answers_in_every_mode(llava: TransformersResponder, video: OpenVideo, task: VideoTask):
    for answer in ("generate", "likelihood"):
        settings = replace(SETTINGS, fps=1.0, window=8.0, frames=4, answer=answer)
        for mode in ("streaming", "sliding_window", "prefix"):
            assert len(replies(examined(mode, task, video, settings, llava))) == 5
        assert len(replies(examined("blind", task, None, settings, llava))) == 5


def test_a_transformers_model_sees_the_newest_frames_with_their_times(llava: TransformersResponder):
    conversation = llava.open("Watch.")
    conversation.see([picture(i) for i in range(6)], [float(i) for i in range(6)])
    system, user = conversation.messages("What?", lambda _: {"type": "image"})
    assert system["content"] == [{"type": "text", "text": "Watch."}]
    text = "".join(part.get("text", "<image>") for part in user["content"])
    lines = [f"Frame{i + 1} at {i}.0s: <image>\n" for i in range(2, 6)]
    assert text == "".join(lines) + "What?"
    assert [int(frame[0, 0, 0]) for _, _, frame in conversation.frames] == [40, 255, 40, 255]


def test_a_transformers_models_scores_are_those_of_its_own_words(llava: TransformersResponder):
    conversation = llava.open(None)
    conversation.see([picture(9)], [0.0])
    said = conversation.ask("What?", max_new_tokens=3, keep=False)
    inputs = conversation._inputs("What?")
    tokenizer, model = llava.processor.tokenizer, llava.model
    ids = tokenizer(said, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    grown = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    with torch.inference_mode():
        logits = model(input_ids=grown, pixel_values=inputs["pixel_values"]).logits[0]
    expected = sum(float(logits[i - 1].log_softmax(-1)[grown[0, i]]) for i in range(-len(ids), 0))
    assert conversation.score_options("What?", [said]) == pytest.approx([expected], abs=1e-4)


def test_a_transformers_dialogue_is_kept_when_asked(llava: TransformersResponder):
    conversation = llava.open(None)
    conversation.see([np.zeros((16, 16, 3), np.uint8)], [0.0])
    said = conversation.ask("One?", max_new_tokens=2, keep=True)
    roles = [message["role"] for message in conversation.messages("Two?", lambda _: {"type": "image"})]
    assert roles == ["user", "assistant", "user"]
    assert conversation.turns == [("One?", said)]


def test_what_is_no_such_model_is_refused(tmp_path: Path, llava: TransformersResponder):
    with pytest.raises(ValueError, match="is no image-text-to-text model of transformers"):
        TransformersResponder.load(str(tmp_path), device="cpu", dtype="auto", attn_implementation="auto", max_frames=1)
    with pytest.raises(ValueError, match="at least one frame"):
        TransformersResponder(llava.model, llava.processor, max_frames=0)
    llava.processor.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        TransformersResponder(llava.model, llava.processor, max_frames=1)
