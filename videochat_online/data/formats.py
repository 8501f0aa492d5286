"""Raw rows -> neutral samples, by pure functions that copy. The fields of a row say which format it has.

LLaVA image / multi-image / video and plain text (`conversations`), VideoChat2-IT (`QA`), online dialogue (turns carry
`timestamps` or `image_file`), tracking (`query_template`). Knows no files: media are names here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .sample import IMAGE_MARK, VIDEO_MARK, Box, Kind, Sample, SampleError, Turn, Video, is_number
from .settings import PUBLISHED, DataSettings

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
EXPECTED = (
    "'conversations' ({from, value} turns) or 'QA' ({i, q, a}) with 'image', 'video' or neither, "
    "or 'query_template' with 'image_bboxes'"
)

Row = Mapping[str, Any]


def read_row(row: Row, settings: DataSettings = PUBLISHED) -> Sample:
    """The sample of one row, which is not changed. SampleError says which field is wrong."""
    # 1. the turns, by the row's format
    if row.get("query_template") is not None:
        return _tracking(row, settings)
    if row.get("conversations") is not None:
        system, turns = _conversation_turns(row["conversations"])
    elif row.get("QA") is not None:
        system, turns = None, _qa_turns(row["QA"], settings)
    else:
        raise SampleError(f"unknown format: a row with {', '.join(map(repr, row)) or 'no fields'}; expected {EXPECTED}")
    # 2. the media
    images = _names(row["image"], "image") if row.get("image") not in (None, "", []) else ()
    video = _video(row)
    if images and video:
        raise SampleError("a row is about images or about a video, got 'image' and 'video'")
    # 3. the kind
    kind: Kind = "image" if images else "video" if video else "text"
    if any(turn.is_timed for turn in turns):
        if video is None:
            raise SampleError("turns with timestamps or image_file need a 'video' (or 'all_image_files'), got none")
        kind = "online"
    # 4. pairs may be shuffled, where no time and no place of a picture says which comes first
    placed = any(mark in turn.question for turn in turns for mark in (IMAGE_MARK, VIDEO_MARK))
    any_order = row.get("QA") is not None and row.get("conversations") is None and kind != "online" and not placed
    return Sample(kind, turns, images, video, system, any_order=any_order)


def _tracking(row: Row, settings: DataSettings) -> Sample:
    """One turn, the template with <bbox> in it; the boxes become answers when frames are chosen."""
    query = row["query_template"]
    values: Any = row.get("image_bboxes")
    _need(isinstance(query, Mapping) and isinstance(query.get("value"), str), "query_template", "{from, value}", query)
    _need(isinstance(values, list), "image_bboxes", "a list of {timestamp, bbox}", values)
    video, boxes = _video(row), []
    if video is None:
        raise SampleError("a tracking row needs 'all_image_files' or 'video', got neither")
    for value in values:
        _need(isinstance(value, Mapping), "image_bboxes", "{timestamp, bbox} objects", value)
        box = value.get("bbox")
        if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
            short = settings.box_text == "short"
            box = "[" + ", ".join(f"{number:g}" if short else str(number) for number in box) + "]"
        _need(isinstance(box, str), "image_bboxes: bbox", "a text or four numbers", box)
        boxes.append(Box(_seconds(value.get("timestamp"), "image_bboxes: timestamp"), box))
    return Sample("tracking", (Turn(query["value"], ""),), video=video, boxes=tuple(boxes))


def _conversation_turns(values: Any) -> tuple[str | None, tuple[Turn, ...]]:
    """(system message, turns). A last question without an answer is left out: nothing is learned from it."""
    _need(isinstance(values, list), "conversations", "a list of {from, value} turns", values)
    # 1. who says what
    roles = []
    for number, value in enumerate(values):
        _need(isinstance(value, Mapping), f"conversations: turn {number}", "an object {from, value}", value)
        speaker, text = value.get("from"), value.get("value")
        _need(str(speaker) in ROLES, f"conversations: 'from' of turn {number}", f"one of {', '.join(ROLES)}", speaker)
        _need(isinstance(text, str), f"conversations: 'value' of turn {number}", "a text", text)
        roles.append(ROLES[str(speaker)])
    # 2. the system, then user and assistant in turn
    has_system = roles[:1] == ["system"]
    system = values[0]["value"] if has_system else None
    values, roles = values[has_system:], roles[has_system:]
    for number, role in enumerate(roles):
        expected, speaker = (("user", "human"), ("assistant", "gpt"))[number % 2]
        if role != expected:
            raise SampleError(f"conversations: turn {number} is from {role!r}, expected {speaker!r}: they take turns")
    pairs = zip(values[::2], values[1::2], strict=False)
    return system, tuple([_turn(question["value"], answer["value"], question) for question, answer in pairs])


def _qa_turns(values: Any, settings: DataSettings) -> tuple[Turn, ...]:
    """VideoChat2-IT: the instruction `i` stands before the question `q`, which captions leave empty."""
    _need(isinstance(values, list), "QA", "a list of {i, q, a}", values)
    turns = []
    for number, value in enumerate(values):
        _need(isinstance(value, Mapping), f"QA: pair {number}", "an object {i, q, a}", value)
        texts = {"i": value.get("i", ""), "q": value.get("q", ""), "a": value.get("a")}
        for key, text in texts.items():
            _need(isinstance(text, str), f"QA: {key!r} of pair {number}", "a text", text)
        if settings.pair_joint == "space":
            question = f"{texts['i']} {texts['q']}".strip()
        else:
            question = "\n".join(text for text in (texts["i"], texts["q"]) if text)
        turns.append(_turn(question, texts["a"], value))
    return tuple(turns)


def _turn(question: str, answer: str, row: Row) -> Turn:
    timestamp, image_file = row.get("timestamps"), row.get("image_file")
    _need(image_file is None or isinstance(image_file, str), "image_file", "a file name", image_file)
    return Turn(question, answer, None if timestamp is None else _seconds(timestamp, "timestamps"), image_file)


def _video(row: Row) -> Video | None:
    # 1. where it lies
    value, files = row.get("video"), row.get("all_image_files")
    if not value and not files:
        return None
    if isinstance(value, list):  # frame files, as in sets that were cut into pictures
        value, files = None, value
    _need(value is None or isinstance(value, str), "video", "a path, or a list of frame files", value)
    # 2. its clock
    fps, reset = row.get("fps"), row.get("need_reset_timestamp")
    _need(fps is None or is_number(fps), "fps", "a number", fps)
    _need(reset is None or isinstance(reset, bool), "need_reset_timestamp", "true or false", reset)
    names = _names(files, "all_image_files") if files else ()
    is_listed = bool(names) and not isinstance(row.get("video"), list)
    # 3. its part: `clip`, or VideoChat2-IT's `start` and `end`
    clip = row.get("clip")
    if clip is None and row.get("start") is not None and row.get("end") is not None:
        clip = [row["start"], row["end"]]
    if clip is not None:
        _need(isinstance(clip, list) and len(clip) == 2, "clip", "[start, end] in seconds", clip)
        clip = _seconds(clip[0], "clip"), _seconds(clip[1], "clip")
    return Video(value or "", names, fps, clip, bool(reset), is_listed)


def _names(value: Any, field: str) -> tuple[str, ...]:
    names = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    _need(all(isinstance(name, str) and name for name in names), field, "a file name or a list of them", value)
    return tuple(names)


def _seconds(value: Any, field: str) -> float:
    _need(is_number(value), field, "seconds", value)
    return float(value)


def _need(is_right: bool, field: str, expected: str, value: Any) -> None:
    if not is_right:
        raise SampleError(f"{field} must be {expected}, got {value!r:.80}")
