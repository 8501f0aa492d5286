"""What a dialogue may hold, and the lines that stand before frames."""

from __future__ import annotations

import pytest

from videochat_online.prompt.messages import (
    AnsweredQuestion,
    Image,
    Message,
    check_dialogue,
    frame_line,
    frame_parts,
    stream_dialogue,
)

SYSTEM, USER, ASSISTANT = (Message(role, ("x",)) for role in ("system", "user", "assistant"))


def test_frame_line_counts_from_one_and_gives_seconds():
    assert frame_line(0) == "Frame1: "
    assert frame_line(11, 5.5) == "Frame12 at 5.5s: "
    assert frame_line(0, 0) == "Frame1 at 0.0s: "
    assert frame_line(2, 3661.26) == "Frame3 at 3661.3s: "


@pytest.mark.parametrize("timestamp", [float("nan"), float("inf")])
def test_frame_line_refuses_a_time_that_is_no_number(timestamp: float):
    with pytest.raises(ValueError, match=r"frame 3 must be finite seconds"):
        frame_line(3, timestamp)


def test_frame_line_refuses_a_negative_index():
    with pytest.raises(ValueError, match=r"frame_index must be >= 0, got -1"):
        frame_line(-1)


def test_frame_parts_close_each_line():
    expected = ("Frame1: ", Image(4), "\n", "Frame3 at 1.0s: ", Image(16), "\n")
    assert frame_parts([(0, None, 4), (2, 1.0, 16)]) == expected


@pytest.mark.parametrize("order", [(0, 9, 3), (3, 0), (0, 0, 9)])
def test_frames_out_of_order_are_refused(order: tuple[int, ...]):
    """In a second turn they would be shown twice or not at all, and their maps stand in each other's places."""
    first = AnsweredQuestion("What?", "It.", 5, 2.0)
    with pytest.raises(ValueError, match=r"oldest first, each once: got number \d behind \d"):
        stream_dialogue([first], "Then?", [(index, None, 1) for index in order], system_prompt=None)


@pytest.mark.parametrize("num_tokens", [0, -4, 2.0, True, "4"])
def test_image_refuses_a_count_that_is_no_count(num_tokens):
    with pytest.raises(ValueError, match=r"Image.num_tokens must be an integer >= 1"):
        Image(num_tokens)


@pytest.mark.parametrize(
    ("role", "parts", "message"),
    [
        ("bot", ("x",), r"unknown role 'bot', expected one of system, user, assistant"),
        ("user", "What?", r"must be a tuple of texts and images, got str"),
        ("user", ("x", 3), r"a str or an Image, got int"),
        ("assistant", ("x", Image(4)), r"only the user shows images, got one in a message of role 'assistant'"),
        ("system", (Image(4),), r"only the user shows images, got one in a message of role 'system'"),
        ("user", ("caf\udce9",), r"not Unicode, at character 3"),
    ],
)
def test_message_refuses(role, parts, message: str):
    with pytest.raises(ValueError, match=message):
        Message(role, parts)


@pytest.mark.parametrize(
    "messages", [[], [SYSTEM], [USER], [SYSTEM, USER, ASSISTANT], [USER, ASSISTANT, USER]], ids=lambda m: f"{len(m)}"
)
def test_check_dialogue_accepts(messages: list[Message]):
    check_dialogue(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([ASSISTANT], r"message 0 has role 'assistant', expected 'user'"),
        ([SYSTEM, ASSISTANT], r"message 1 has role 'assistant', expected 'user'"),
        ([USER, USER], r"message 1 has role 'user', expected 'assistant'"),
        ([SYSTEM, USER, ASSISTANT, ASSISTANT], r"message 3 has role 'assistant', expected 'user'"),
        ([USER, SYSTEM], r"message 1 has role 'system', expected 'assistant'"),
        ([SYSTEM, SYSTEM], r"message 1 has role 'system', expected 'user'"),
    ],
)
def test_check_dialogue_refuses_roles_out_of_order(messages: list[Message], message: str):
    with pytest.raises(ValueError, match=message):
        check_dialogue(messages)


@pytest.mark.parametrize(
    ("messages", "last"), [([], "None"), ([SYSTEM], "'system'"), ([USER, ASSISTANT], "'assistant'")]
)
def test_check_dialogue_wants_a_question_to_answer(messages: list[Message], last: str):
    with pytest.raises(ValueError, match=rf"the last message must be the user's, got {last}"):
        check_dialogue(messages, generate=True)
