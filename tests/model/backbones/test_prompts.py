"""A dialogue is written as the chat templates of the families' checkpoints write it."""

from __future__ import annotations

import pytest

from videochat_online.prompt.messages import (
    AnsweredQuestion,
    FrameStyle,
    Image,
    Message,
    frame_parts,
    get_template,
    lay_out,
    stream_dialogue,
)

FRAME = {
    "internvl-hf": "<img><IMG_CONTEXT><IMG_CONTEXT></img>",
    "qwen3-vl": "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>",
    "qwen2.5-vl": "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>",
    "smolvlm": "<fake_token_around_image><global-img><image><image><fake_token_around_image>",
    "llava-onevision": "<image><image>",
}
CHATML = (
    "<|im_start|>user\n{0}Where?<|im_end|>\n<|im_start|>assistant\nThere.<|im_end|>\n"
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
)
DIALOGUE = {
    **dict.fromkeys(("internvl-hf", "qwen3-vl", "llava-onevision"), CHATML),
    "qwen2.5-vl": f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{CHATML}",
    "smolvlm": "<|im_start|>User:{0}Where?<end_of_utterance>\nAssistant: There.<end_of_utterance>\n"
    "User: Why?<end_of_utterance>\nAssistant:",
}


def text_of(messages, name):
    return "".join(piece.text * piece.count for piece in lay_out(messages, get_template(name), generate=True))


@pytest.mark.parametrize("name", sorted(FRAME))
def test_a_picture_and_two_turns(name):
    shown = FRAME[name] + ("\n" if name in ("internvl-hf", "llava-onevision") else "")
    parts = (Image(2), "\n") if shown.endswith("\n") else (Image(2),)
    messages = [
        Message("user", (*parts, "Where?")), Message("assistant", ("There.",)), Message("user", ("Why?",)),
    ]  # fmt: skip
    assert text_of(messages, name) == DIALOGUE[name].format(shown)


def test_smolvlm_is_written_as_its_processor_has_it():
    """Its chat template ships with transformers; the processor then puts the marks of a picture for <image>."""
    from jinja2 import Environment
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, _prompt_single_image

    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "There."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    written = Environment().from_string(DEFAULT_CHAT_TEMPLATE).render(messages=messages, add_generation_prompt=True)
    picture = _prompt_single_image(2, "<fake_token_around_image>", "<image>", "<global-img>")
    ours = [
        Message("system", ("Be short.",)), Message("user", (Image(2), "Where?")),
        Message("assistant", ("There.",)), Message("user", ("Why?",)),
    ]  # fmt: skip
    assert text_of(ours, "smolvlm") == written.replace("<image>", picture)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("internvl-hf", "Frame1 at 0.5s: {0}\nFrame2 at 65.0s: {0}\nWhat?"),
        ("qwen3-vl", "<0.5 seconds>{0}<65.0 seconds>{0}What?"),
        ("smolvlm", "\nFrame from 00:00:{0}\nFrame from 01:05:{0}\n\nWhat?"),
    ],
)
def test_frames_of_a_stream_have_the_words_that_the_family_knows(name, expected):
    template = get_template(name)
    frames = [(0, 0.5, 2), (1, 65.0, 2)]
    messages = stream_dialogue([], "What?", frames, system_prompt=None, style=template.frame)
    assert expected.format(FRAME[name]) in text_of(messages, name)
    untimed = [(number, None, num_tokens) for number, _, num_tokens in frames]
    messages = stream_dialogue([AnsweredQuestion("What?", "It.", 1, None)], "Then?", untimed, system_prompt="Be brief.")
    assert "Be brief." in text_of(messages, name)


def test_words_around_frames_can_be_chosen():
    style = FrameStyle("[{clock}]", "[{number}]", ";", "!")
    assert frame_parts([(0, 61.5, 4), (1, None, 4)], style) == ("[01:01]", Image(4), ";", "[2]", Image(4), ";", "!")
    assert frame_parts([], style) == ()


def test_the_tokens_of_an_answer_hold_its_first_word(loaded):
    """SmolVLM writes "Assistant: There.", where the space belongs to the first word."""
    for model, processor in loaded.values():
        spoken = processor.answer_ids("red circle")
        assert processor.decode(spoken).strip() == "red circle", model.config.model_type
        assert spoken[-1] in processor.end_token_ids
