"""Which option a reply chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videochat_online.prompt.letters import read_letter

REPLIES = {
    "B": "B",
    "b": "B",
    "(C)": "C",
    "(c) the red one": "C",
    "[D]": "D",
    "D.": "D",
    "a) walking": "A",
    "The answer is C.": "C",
    "Answer: b": "B",
    "The correct option is d": "D",
    "**B**": "B",
    "Best option:(A) a man": "A",
    "I think it is a dog, so B": "B",
    "Option A is right": "A",
    "A": "A",
    "A.": "A",
    "A, because he stands": "A",
    "A is right": "A",
    "E": "E",
    "It is a cat.\nC": "C",
    "First B then C": "B",
    # no answer
    "": None,
    "A man walks": None,
    "Someone stands. A dog barks.": None,
    "a man walks": None,
    "There is a cat": None,
    "yes": None,
    "Bob and Dan": None,
    "I don't know": None,
    "It's a B-movie": None,
    "F": None,
    "42": None,
    # announced, boxed, thought about, denied, in other languages
    "I would choose option B.": "B",
    "Option C": "C",
    "C is correct": "C",
    "The correct answer is: **D**": "D",
    "answer is a man": None,
    "Answer: A man is walking": None,
    "The answer is A man": None,
    "正确答案是：C": "C",
    "我选择D": "D",
    "정답은 B입니다": "B",
    "Antwort: C": "C",
    "<think>it is A</think>\n\nB.": "B",
    "<think>A": None,
    "\\boxed{\\text{D}}": "D",
    "<answer>(c)</answer>": "C",
    "(A) is wrong. (B) is right.": "B",
    "The answer is not A but B": "B",
    "the person says a word": None,
    "choose between a and b": None,
    "option A is correct, not B": "A",
}
NAMED = [
    ("Yes, the man is there", ("Yes", "No"), "A"),
    ("no.", ("Yes", "No"), "B"),
    ("The answer is a dog.", ("a cat", "a dog"), "B"),
    ("the red ball", ("a ball", "the red ball", "red"), "B"),
    ("a red or a blue ball", ("red", "blue"), None),
    ("Nobody knows", ("Yes", "No"), None),
    ("B", ("A dog", "C"), "B"),
    ("Yes, there is no dog left", ("Yes", "No"), "A"),
    ("No, he isn't. A man walks.", ("Yes", "No"), "B"),
    ("Yes or no", ("Yes", "No"), None),
    ("Yes/No", ("No", "Yes"), None),
    ("B. No", ("Yes", "No"), "B"),
    ("I can not say", ("Yes", "No"), None),
    ("\\boxed{\\text{a dog}}", ("a cat", "a dog"), "B"),
    ("A) a cat B) a dog", ("a cat", "a dog"), None),
    ("A. a cat\nB. a dog\nAnswer: B", ("a cat", "a dog"), "B"),
    ("D. Both A and B", ("a cat", "a dog", "a cow", "Both A and B"), "D"),
]
NO_SINGLE_ANSWER = (
    *("Both A and B", "A and B", "A, B", "(A) and (B)", "A or B", "Either A or B", "A/B", "A & B", "answer: a and b"),
    *("The answer is both A and B.", "Answers: A, C", "options A and B", "\\boxed{A, B}", "<answer>A and B</answer>"),
    *("A和B", "答案是A和B", "答案是A、B", "ＡとＢ", "A와 B", "neither A nor B", "A.\nB.", "A y B", "A, B and C"),
)
BESIDES = {
    "A and B are wrong, so C": "C",
    "Between A and B, B": "B",
    "A, B and C are wrong. The answer is D.": "D",
    "I rule out A and B. C": "C",
    "Not B, C": "C",
    "B, and a dog": "B",
    "◁think▷A◁/think▷B": "B",
    "thinking of A </think> B": "B",
    "「B」": "B",
    "『C』は正しい": "C",
    "Ⓑ": "B",
    "$$\\boxed{\\mathrm{D}}$$": "D",
    "\\boxed{A} no wait \\boxed{B}": "B",
    "B\nB": "B",
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_letter(reply: str):
    assert read_letter(reply) == REPLIES[reply]


@pytest.mark.parametrize(("reply", "options", "letter"), NAMED)
def test_the_words_of_one_option_stand_for_its_letter(reply: str, options: tuple[str, ...], letter: str | None):
    assert read_letter(reply, "ABCDE"[: len(options)], options) == letter


@pytest.mark.parametrize("reply", NO_SINGLE_ANSWER)
def test_several_letters_are_no_answer(reply: str):
    assert read_letter(reply, "ABCD") is None


@pytest.mark.parametrize("reply", BESIDES)
def test_a_letter_beside_several(reply: str):
    assert read_letter(reply, "ABCD") == BESIDES[reply]


def test_letters_that_the_question_does_not_have_are_none():
    assert read_letter("F", "ABCDEF") == "F"
    assert [read_letter(text, "ABCDEFGH") for text in ("(G)", "The answer is H", "g")] == ["G", "H", "G"]
    assert read_letter("D", "ABC") is None
    assert read_letter("A") == read_letter("A", "AB") == "A"


def test_the_recorded_replies(shared: Path):
    """Made for this purpose: [reply, the letter that a careful reader takes from it], options A to F."""
    cases = json.loads((shared / "cases/letters.json").read_text())
    assert len(cases) == 47
    assert [read_letter(reply, "ABCDEF") for reply, _ in cases] == [letter for _, letter in cases]
