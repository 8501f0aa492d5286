"""Raw rows -> neutral samples, by pure functions that copy. The format is told by the row's fields.

LLaVA image / multi-image / video and plain text (`conversations`), VideoChat2-IT (`QA`), online dialogue (turns carry
`timestamps` or `image_file`), tracking (`query_template`). Knows no files: media are names here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .sample import Box, Kind, Sample, SampleError, Turn, Video

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
EXPECTED = (
    "'conversations' ({from, value} turns) or 'QA' ({i, q, a}) with 'image', 'video' or neither, "
    "or 'query_template' with 'image_bboxes'"
)

Row = Mapping[str, Any]


def read_row(row: Row) -> Sample:
    """The sample of one row. SampleError says which field is wrong; the row is not changed."""
    if row.get("query_template") is not None:
        return _tracking(row)
    if row.get("conversations") is not None:
        system, turns = _conversation_turns(row["conversations"])
    elif row.get("QA") is not None:
        system, turns = None, _qa_turns(row["QA"])
    else:
        raise SampleError(f"unknown format: a row with {', '.join(map(repr, row)) or 'no fields'}; expected {EXPECTED}")
    images, video = _images(row), _video(row)
    if images and video:
        raise SampleError("a row is about images or about a video, got 'image' and 'video'")
    kind: Kind = "image" if images else "video" if video else "text"
    if any(turn.is_timed for turn in turns):
        if video is None:
            raise SampleError("turns with timestamps or image_file need a 'video' (or 'all_image_files'), got none")
        kind = "online"
    return Sample(kind, turns, images, video, system)


def _tracking(row: Row) -> Sample:
    """One turn, the template with <bbox> in it; the boxes become answers when frames are chosen."""
    query = row["query_template"]
    _need(isinstance(query, Mapping) and isinstance(query.get("value"), str), "query_template", "{from, value}", query)
    boxes: Any = row.get("image_bboxes")
    _need(isinstance(boxes, list), "image_bboxes", "a list of {timestamp, bbox}", boxes)
    video = _video(row)
    if video is None:
        raise SampleError("a tracking row needs 'all_image_files' or 'video', got neither")
    return Sample("tracking", (Turn(query["value"], ""),), video=video, boxes=tuple(map(_box, boxes)))


def _box(value: Any) -> Box:
    _need(isinstance(value, Mapping), "image_bboxes", "{timestamp, bbox} objects", value)
    box = value.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        box = "[" + ", ".join(f"{number:g}" for number in box) + "]"
    _need(isinstance(box, str), "image_bboxes: bbox", "a text or four numbers", box)
    return Box(_seconds(value.get("timestamp"), "image_bboxes: timestamp"), box)


def _conversation_turns(values: Any) -> tuple[str | None, tuple[Turn, ...]]:
    """(system message, turns). A question that nobody answers, at the end, is left out: nothing is learnt from it."""
    _need(isinstance(values, list), "conversations", "a list of {from, value} turns", values)
    said = [_said(number, value) for number, value in enumerate(values)]
    system = said.pop(0)[1] if said and said[0][0] == "system" else None
    for number, (role, _, _) in enumerate(said):
        expected = "assistant" if number % 2 else "user"
        if role != expected:
            speaker = {"user": "human", "assistant": "gpt"}[expected]
            raise SampleError(f"conversations: turn {number} is from {role!r}, expected {speaker!r}: they take turns")
    pairs = zip(said[::2], said[1::2], strict=False)
    return system, tuple(_turn(question, answer, row) for (_, question, row), (_, answer, _) in pairs)


def _said(number: int, value: Any) -> tuple[str, str, Row]:
    """(role, text, the raw turn)."""
    _need(isinstance(value, Mapping), f"conversations: turn {number}", "an object {from, value}", value)
    role = ROLES.get(str(value.get("from")))
    _need(role is not None, f"conversations: 'from' of turn {number}", f"one of {', '.join(ROLES)}", value.get("from"))
    _need(isinstance(value.get("value"), str), f"conversations: 'value' of turn {number}", "a text", value.get("value"))
    assert role is not None
    return role, value["value"], value


def _turn(question: str, answer: str, row: Row) -> Turn:
    timestamp, image_file = row.get("timestamps"), row.get("image_file")
    _need(image_file is None or isinstance(image_file, str), "image_file", "a file name", image_file)
    return Turn(question, answer, None if timestamp is None else _seconds(timestamp, "timestamps"), image_file)


def _qa_turns(values: Any) -> tuple[Turn, ...]:
    """VideoChat2-IT: the instruction `i` stands before the question `q`, which captions leave empty."""
    _need(isinstance(values, list), "QA", "a list of {i, q, a}", values)
    turns = []
    for number, value in enumerate(values):
        _need(isinstance(value, Mapping), f"QA: pair {number}", "an object {i, q, a}", value)
        instruction, question, answer = (value.get(key, "" if key != "a" else None) for key in ("i", "q", "a"))
        for key, text in (("i", instruction), ("q", question), ("a", answer)):
            _need(isinstance(text, str), f"QA: {key!r} of pair {number}", "a text", text)
        turns.append(_turn("\n".join(part for part in (instruction, question) if part), answer, value))
    return tuple(turns)


def _images(row: Row) -> tuple[str, ...]:
    value = row.get("image")
    if value is None or value == "" or value == []:
        return ()
    return _names(value, "image")


def _video(row: Row) -> Video | None:
    value, files = row.get("video"), row.get("all_image_files")
    if not value and not files:
        return None
    if isinstance(value, list):  # frame files, as in sets that were cut into pictures
        value, files = None, value
    _need(value is None or isinstance(value, str), "video", "a path, or a list of frame files", value)
    fps = row.get("fps")
    _need(fps is None or _is_number(fps), "fps", "a number", fps)
    reset = row.get("need_reset_timestamp")
    _need(reset is None or isinstance(reset, bool), "need_reset_timestamp", "true or false", reset)
    names = _names(files, "all_image_files") if files else ()
    return Video(value or "", names, fps, _clip(row), bool(reset))


def _clip(row: Row) -> tuple[float, float] | None:
    """`clip`, or VideoChat2-IT's `start` and `end`."""
    clip = row.get("clip")
    if clip is None and row.get("start") is not None and row.get("end") is not None:
        clip = [row["start"], row["end"]]
    if clip is None:
        return None
    _need(isinstance(clip, list) and len(clip) == 2, "clip", "[start, end] in seconds", clip)
    return _seconds(clip[0], "clip"), _seconds(clip[1], "clip")


def _names(value: Any, field: str) -> tuple[str, ...]:
    names = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    _need(all(isinstance(name, str) and name for name in names), field, "a file name or a list of them", value)
    return tuple(names)


def _seconds(value: Any, field: str) -> float:
    _need(_is_number(value), field, "seconds", value)
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _need(is_right: bool, field: str, expected: str, value: Any) -> None:
    if not is_right:
        raise SampleError(f"{field} must be {expected}, got {value!r:.80}")
