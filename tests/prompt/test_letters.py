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
]


@pytest.mark.parametrize("reply", REPLIES)
def test_a_letter(reply: str):
    assert read_letter(reply) == REPLIES[reply]


@pytest.mark.parametrize(("reply", "options", "letter"), NAMED)
def test_the_words_of_one_option_stand_for_its_letter(reply: str, options: tuple[str, ...], letter: str | None):
    assert read_letter(reply, "ABCDE"[: len(options)], options) == letter


def test_letters_that_the_question_does_not_have_are_none():
    assert read_letter("F", "ABCDEF") == "F"
    assert read_letter("D", "ABC") is None
    assert read_letter("A") == read_letter("A", "AB") == "A"


def test_the_recorded_replies(shared: Path):
    """Made for this purpose: [reply, the letter that a careful reader takes from it], options A to F."""
    cases = json.loads((shared / "cases/letters.json").read_text())
    assert len(cases) == 47
    assert [read_letter(reply, "ABCDEF") for reply, _ in cases] == [letter for _, letter in cases]
