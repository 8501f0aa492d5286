"""The small model's tokenizer: what ships is what the script makes, it loses no text, and its words are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from videochat_online.files import SHIPPED_MODELS
from videochat_online.lab.pocket import build_tokenizer
from videochat_online.prompt.messages import TEMPLATES, Image, Message, frame_parts
from videochat_online.prompt.render import describe, end_token_ids, render

FOLDER = SHIPPED_MODELS["pocket"]
PHI3 = TEMPLATES["phi3-chat"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER)


def words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The text of each token."""
    return [tokenizer.decode(id_) for id_ in tokenizer(text, add_special_tokens=False).input_ids]


def test_what_ships_is_what_the_script_trains(tmp_path: Path):
    build_tokenizer.save(build_tokenizer.train_tokenizer(), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        made, ships = (json.loads((folder / name).read_text("utf-8")) for folder in (tmp_path, FOLDER))
        assert made == ships, f"{name}: run python -m videochat_online.lab.pocket.build_tokenizer"


def test_ids_that_the_models_config_relies_on(tokenizer: PreTrainedTokenizerFast):
    assert len(tokenizer) == build_tokenizer.VOCAB_SIZE == 2816
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0, 0)
    marks = [*build_tokenizer.ROLE_MARKS, *build_tokenizer.IMAGE_MARKS]
    assert tokenizer.convert_tokens_to_ids(marks) == list(range(2, 15))
    assert end_token_ids(PHI3, tokenizer) == [5, 0]
    assert tokenizer("x").input_ids[0] == 1


@pytest.mark.parametrize(
    "text",
    [
        "The red circle moves left.\nIt stops at 3.5s, [0.10, 0.22, 0.40, 0.81].",
        "  leading, double  and trailing spaces \t\r\n\n ",
        "你看到了什么？杯子。 Ελληνικά עברית हिन्दी 한국어 e\u0301 ﬁ",
        "👩‍👩‍👧‍👦 🏳️‍🌈 𝔘𝔫𝔦 ￿ \u202e \x00\x01\x7f",
        "".join(map(chr, range(0x20, 0x250))),
        "<|end|> <IMG_CONTEXT> ½ ٣ Ⅷ",
    ],
)
def test_no_text_is_lost(text: str, tokenizer: PreTrainedTokenizerFast):
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text


def test_every_byte_has_its_token(tokenizer: PreTrainedTokenizerFast):
    tokens = [tokenizer.convert_ids_to_tokens(id_) for id_ in range(15, 15 + 256)]
    assert len({token for token in tokens if len(token) == 1}) == 256


def test_a_number_is_the_same_token_wherever_it_stands(tokenizer: PreTrainedTokenizerFast):
    (twelve,) = tokenizer("12", add_special_tokens=False).input_ids
    for text in ("Frame1 at 12.0s: ", "(at 12.5s)", "from 12.0s to 13.0s", "12.0s - now", "the last 12 seconds"):
        assert twelve in tokenizer(text, add_special_tokens=False).input_ids, text
    singles = [str(number) for number in range(build_tokenizer.MAX_NUMBER + 1)]
    assert all(len(tokenizer(number, add_special_tokens=False).input_ids) == 1 for number in singles)
    assert words(tokenizer, "[0.1, 0.4]") == ["[", "0.1", ", ", "0.4", "]"]


def test_digits_behind_a_letter_are_spelt(tokenizer: PreTrainedTokenizerFast):
    """A frame's number may be any; its digits are known from the first frames on."""
    assert words(tokenizer, "Frame2345 at 67.5s: ")[:7] == ["Frame", "2", "3", "4", "5", " at ", "67"]


@pytest.mark.parametrize("letter", "ABCDE")
def test_an_option_letter_is_one_token(letter: str, tokenizer):
    (id_,) = tokenizer(letter, add_special_tokens=False).input_ids
    for text in (f"({letter}) left", f"{letter}. left", f"{letter}", f"\n{letter}. "):
        assert id_ in tokenizer(text, add_special_tokens=False).input_ids
    assert words(tokenizer, f"?\n({letter}) left") == ["?", f"\n({letter})", " left"]
    question = [Message("user", ("Q?",))]
    prompt = render(question, PHI3, tokenizer, generate=True)
    answered = render([*question, Message("assistant", (letter,))], PHI3, tokenizer)
    assert answered.ids == [*prompt.ids, id_, 5]


def test_the_words_of_its_world_are_single_tokens(tokenizer: PreTrainedTokenizerFast):
    names = [*build_tokenizer.COLOURS, *build_tokenizer.SHAPES, *build_tokenizer.SIDES, "yes", "no", "circles"]
    inside = [f" {word}" for word in [*names, *"/".join(build_tokenizer.ACTIONS).split("/")]]
    first = [form for word in names for form in (word, word.capitalize())]
    asked = [
        "What",
        "Where",
        "When",
        "Which",
        "How",
        "Is",
        "Are",
        "Did",
        "Does",
        "After",
        "Before",
        "Frame",
        "Question",
    ]
    assert [form for form in [*inside, *first, *asked] if words(tokenizer, form) != [form]] == []


def test_a_prompt_is_short(tokenizer: PreTrainedTokenizerFast):
    """The published system message too: it costs every prompt of the small model, so its sentences are tokens."""
    prompt = render([Message("user", (*frame_parts([(11, 5.5, 16)]), "What now?"))], PHI3, tokenizer, generate=True)
    assert len(prompt.ids) == 40
    text = f"<s><|system|>{PHI3.system_message}<|end|><|user|>Frame12 at 5.5s: <img>{{16}}</img>\nWhat now?<|end|>"
    assert describe(prompt, tokenizer) == f"{text}<|assistant|>"


def test_ovbench_questions_need_little_more_than_a_token_a_word(shared: Path, tokenizer: PreTrainedTokenizerFast):
    questions = [item["question"] for item in json.loads((shared / "ovbench/ava.json").read_text("utf-8"))]
    text = "\n".join(questions)
    pieces = len(tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text))
    assert len(tokenizer(text, add_special_tokens=False).input_ids) < 1.2 * pieces  # numbers of two decimals take two


def test_marks_swallow_the_newline_behind_them_as_in_phi3(tokenizer: PreTrainedTokenizerFast, golden: Path):
    ours, phi3 = tokenizer, AutoTokenizer.from_pretrained(golden / "tokenizers/phi3_fast")
    shared_tokens = set(ours.added_tokens_encoder) & set(phi3.added_tokens_encoder)
    assert len(shared_tokens) == 15
    flags = ("rstrip", "lstrip", "normalized", "special", "single_word")
    for token in shared_tokens:
        a, b = (t.added_tokens_decoder[t.convert_tokens_to_ids(token)] for t in (ours, phi3))
        assert [getattr(a, flag) for flag in flags] == [getattr(b, flag) for flag in flags], token


def test_an_image_is_its_marks_and_nothing_else(tokenizer: PreTrainedTokenizerFast):
    rendered = render([Message("user", (Image(3),))], PHI3, tokenizer)
    start, num_tokens = rendered.image_spans[0]
    assert rendered.ids[start - 1 : start + num_tokens + 1] == [6, 8, 8, 8, 7]
