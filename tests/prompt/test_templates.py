"""The prompt strings of the published templates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videochat_online.prompt.messages import IMG_CONTEXT, TEMPLATES, Image, Message, get_template, lay_out

# Published too, but for checkpoints before InternVL 1.5, which this project does not load.
LEFT_OUT = {"internvl_zh"}
OURS = ["phi3-chat", "Hermes-2", "internlm2-chat", "internvl2_5"]


@pytest.fixture(scope="module")
def published(golden: Path) -> dict[str, Any]:
    entries = json.loads((golden / "templates.json").read_text("utf-8"))
    return {entry["attrs"]["name"]: entry for entry in entries}


def dialogue(case: dict[str, Any]) -> list[Message]:
    """The golden case in our words; an answer that was left out asks for generation and is no message."""
    system = {"override": ("You are a helper.\n",), "empty": ("",)}
    messages = [Message("system", system[case["system"]])] if case["system"] in system else []
    turns = [(("user", "assistant")[number % 2], text) for number, (_, text) in enumerate(case["messages"])]
    return messages + [Message(role, (text,)) for role, text in turns if text is not None]


def prompt(messages: list[Message], name: str, *, generate: bool = False) -> str:
    return "".join(piece.text * piece.count for piece in lay_out(messages, TEMPLATES[name], generate=generate))


def test_the_templates_are_the_published_ones(published: dict[str, Any]):
    assert set(published) - LEFT_OUT == set(OURS) <= set(TEMPLATES)


@pytest.mark.parametrize("name", OURS)
def test_prompts_equal_the_published(name: str, published: dict[str, Any]):
    cases = [case for case in published[name]["cases"] if "note" not in case]
    assert len(cases) == 24
    for case in cases:
        generate = case["trailing_none"] and case["n_turns"] > 0
        assert prompt(dialogue(case), name, generate=generate) == case["prompt"]


@pytest.mark.parametrize("name", OURS)
def test_an_empty_answer_is_an_answer(name: str, published: dict[str, Any]):
    """On purpose not as published, where it counts as no answer: here the end mark follows, and has loss."""
    (case,) = [
        case for case in published[name]["cases"] if case.get("note") == "empty-string answer is treated like None"
    ]
    template = TEMPLATES[name]
    assert prompt(dialogue(case), name) == case["prompt"] + template.end + template.after_end


@pytest.mark.parametrize("name", OURS)
def test_only_the_assistants_words_and_its_end_mark_have_loss(name: str):
    messages = [Message("user", ("Q", Image(2))), Message("assistant", ("A.",)), Message("user", ("R",))]
    spoken = [piece.text for piece in lay_out(messages, TEMPLATES[name]) if piece.loss]
    assert spoken == ["A.", TEMPLATES[name].end]


def test_a_variant_has_another_system_message():
    variant = replace(TEMPLATES["phi3-chat"], system_message="Be brief.")
    pieces = [piece.text for piece in lay_out([Message("user", ("Q",))], variant)]
    assert pieces[:3] == ["<|system|>", "\n", "Be brief."]
    assert "Be brief." not in prompt([], "phi3-chat")


def test_marks_hold_everything_that_must_be_one_token():
    template = TEMPLATES["internvl2_5"]
    messages = [Message("user", (Image(1), "Q")), Message("assistant", ("A",)), Message("user", ("R",))]
    used = {piece.text for piece in lay_out(messages, template, generate=True) if piece.is_mark}
    assert used == set(template.marks)
    assert IMG_CONTEXT in used


def test_an_unknown_template_is_named_with_its_neighbour():
    with pytest.raises(ValueError, match=r"unknown prompt template 'phi3_chat', .*did you mean 'phi3-chat'\?"):
        get_template("phi3_chat")
    assert get_template("Hermes-2") is TEMPLATES["Hermes-2"]
