"""Raw rows -> neutral samples, by pure functions that copy. The fields of a row say which format it has.

LLaVA image / multi-image / video and plain text (`conversations`), VideoChat2-IT (`QA`), online dialogue (turns carry
`timestamps` or `image_file`), tracking (`query_template`); `messages` of OpenAI, ms-swift and LLaMA-Factory, which are
put into LLaVA's fields first. docs/data.md shows each. Knows no files: media are names here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..media.image_source import IMAGE_SUFFIXES
from .sample import IMAGE_MARK, VIDEO_MARK, Box, Kind, Sample, SampleError, Turn, Video, is_number
from .settings import PUBLISHED, DataSettings

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
ROLE_NAMES = f"one of {', '.join(ROLES)}"
MEDIA = ("image", "video")
EXPECTED = (
    "'conversations' ({from, value} turns), 'messages' ({role, content}) or 'QA' ({i, q, a}) with 'image', 'video' or "
    "neither, or 'query_template' with 'image_bboxes'"
)

FRAME_SUFFIXES = IMAGE_SUFFIXES - {".gif"}
"""Of files in a list that are the frames of one video."""
OF_ONE_VIDEO = ("clip", "start", "end", "all_image_files")

Row = Mapping[str, Any]


def read_row(row: Row, settings: DataSettings = PUBLISHED) -> Sample:
    """The sample of one row, which is not changed. SampleError says which field is wrong."""
    # 1. the turns, by the row's format
    row = with_own_fields(row)
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
    video, *more_videos = _videos(row) or (None,)
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
    return Sample(kind, turns, images, video, system, any_order=any_order, more_videos=tuple(more_videos))


def format_of(row: Row) -> str:
    """Whose format a row has, by its fields, for people."""
    if row.get("query_template") is not None:
        return "tracking"
    if isinstance(messages := row.get("messages"), list):
        parts = any(isinstance(one, Mapping) and isinstance(one.get("content"), list) for one in messages)
        return "messages with content parts (OpenAI)" if parts else "messages (ms-swift, LLaMA-Factory)"
    if isinstance(turns := row.get("conversations"), list):
        timed = any(isinstance(one, Mapping) and {"timestamps", "image_file"} & one.keys() for one in turns)
        plural = any(row.get(f"{medium}s") for medium in MEDIA)
        return "dialogue in time" if timed else f"conversations ({'LLaMA-Factory' if plural else 'LLaVA'})"
    return "QA (VideoChat2-IT)" if row.get("QA") is not None else "an unknown format"


def with_own_fields(row: Row) -> Row:
    """A row of OpenAI, ms-swift or LLaMA-Factory in LLaVA's fields; any other row as it is. SampleError as read_row.

    `messages` become `conversations`, content parts become text with placeholders, a part a line; `images` and
    `videos` become `image` and `video`, the field `system` the first turn.
    """
    found = dict(row)
    if not found.keys() & {"messages", "system", *(f"{medium}s" for medium in MEDIA)}:
        return found
    # 1. the media of the row
    media: dict[str, list[str]] = {medium: list(_names(row.get(f"{medium}s") or (), f"{medium}s")) for medium in MEDIA}
    # 2. the messages, with the media of their parts
    if row.get("messages") is not None:
        if row.get("conversations") is not None:
            raise SampleError("a row has one dialogue, got 'messages' and 'conversations'")
        messages = found.pop("messages")
        _need(isinstance(messages, list), "messages", "a list of {role, content}", messages)
        found["conversations"] = [_own_turn(one, media, f"messages: {n}") for n, one in enumerate(messages)]
    # 3. their names in our fields
    turns, system = found.get("conversations"), row.get("system")
    if system and isinstance(turns, list):
        found["conversations"] = [{"from": "system", "value": found.pop("system")}, *turns]
    for medium, names in media.items():
        found.pop(f"{medium}s", None)
        if names and row.get(medium):
            raise SampleError(f"the {medium}s of a row stand in one place, got '{medium}' and {', '.join(names)}")
        if names:
            found[medium] = names
    return found


def _own_turn(message: Any, media: dict[str, list[str]], where: str) -> dict[str, Any]:
    """A message as a turn {from, value}; files that its parts show go to `media`."""
    _need(isinstance(message, Mapping), where, "an object {role, content}", message)
    role, content = message.get("role"), message.get("content")
    _need(str(role) in ROLES, f"{where}: role", ROLE_NAMES, role)
    _need(message.get("loss") in (None, True), f"{where}: loss", "true: every answer is learned", message.get("loss"))
    if isinstance(content, list):
        content = "\n".join(_part_text(part, media, where, may_show=ROLES[str(role)] == "user") for part in content)
    others = {name: value for name, value in message.items() if name not in ("role", "content")}
    speaker = {"user": "human", "assistant": "gpt"}.get(str(role), role)
    return {**others, "from": speaker, "value": content}


def _part_text(part: Any, media: dict[str, list[str]], where: str, *, may_show: bool) -> str:
    """The text of a content part; the placeholder of one that shows a file, whose name goes to `media`."""
    _need(isinstance(part, Mapping), f"{where}: content", "a text, or parts {type, ...}", part)
    kind = str(part.get("type"))
    medium, value = kind.removesuffix("_url"), part.get(kind)
    if kind == "text":
        _need(isinstance(value, str), f"{where}: text", "a text", value)
        return str(value)
    kinds = "text, image_url or video_url" if may_show else "text: only the user shows something"
    _need(may_show and medium in MEDIA, f"{where}: type", kinds, kind)
    name = value.get("url") if isinstance(value, Mapping) else value
    is_path = isinstance(name, str) and not name.startswith(("http:", "https:", "data:"))
    _need(is_path, f"{where}: {kind}", "a path below data_root (nothing is downloaded)", name)
    media[medium].append(str(name).removeprefix("file://"))
    return f"<{medium}>"


def _tracking(row: Row, settings: DataSettings) -> Sample:
    """One turn, the template with <bbox> in it; the boxes become answers when frames are chosen."""
    query = row["query_template"]
    values: Any = row.get("image_bboxes")
    _need(isinstance(query, Mapping) and isinstance(query.get("value"), str), "query_template", "{from, value}", query)
    _need(isinstance(values, list), "image_bboxes", "a list of {timestamp, bbox}", values)
    (video, *more_videos), boxes = _videos(row) or (None,), []
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
    turns = (Turn(query["value"], ""),)
    return Sample("tracking", turns, video=video, boxes=tuple(boxes), more_videos=tuple(more_videos))


def _conversation_turns(values: Any) -> tuple[str | None, tuple[Turn, ...]]:
    """(system message, turns). A last question without an answer is left out: nothing is learned from it."""
    _need(isinstance(values, list), "conversations", "a list of {from, value} turns", values)
    # 1. who says what
    roles = []
    for number, value in enumerate(values):
        _need(isinstance(value, dict), "conversations: turn", "an object {from, value}", value, number)
        speaker, text = value.get("from"), value.get("value")
        is_known = isinstance(speaker, str) and speaker in ROLES
        _need(is_known, "conversations: 'from' of turn", ROLE_NAMES, speaker, number)
        _need(isinstance(text, str), "conversations: 'value' of turn", "a text", text, number)
        roles.append(ROLES[speaker])
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
        _need(isinstance(value, dict), "QA: pair", "an object {i, q, a}", value, number)
        texts = {"i": value.get("i", ""), "q": value.get("q", ""), "a": value.get("a")}
        for key, text in texts.items():
            if not isinstance(text, str):
                _need(False, f"QA: {key!r} of pair", "a text", text, number)
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


def _videos(row: Row) -> tuple[Video, ...]:
    """The videos of a row: a list of names that are no pictures names several, each a file or a folder of frames."""
    value = row.get("video")
    names = _names(value, "video") if isinstance(value, list) else ()
    pictures = [name for name in names if PurePath(name).suffix.lower() in FRAME_SUFFIXES]
    if len(pictures) == len(names):
        return () if (video := _video(row)) is None else (video,)
    _need(not pictures, "video", "a path, a list of frame files, or a list of videos", value)
    if len(names) > 1 and (given := [name for name in OF_ONE_VIDEO if row.get(name) is not None]):
        expected = ", ".join(OF_ONE_VIDEO)
        raise SampleError(f"{len(names)} videos are shown whole: expected no {expected}, got {given[0]!r}")
    return tuple(video for name in names if (video := _video({**row, "video": name})) is not None)


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


def _need(is_right: bool, field: str, expected: str, value: Any, number: int | None = None) -> None:
    """SampleError unless it is; texts are put together only then: millions of rows are read before a run starts."""
    if not is_right:
        raise SampleError(f"{field}{'' if number is None else f' {number}'} must be {expected}, got {value!r:.80}")
