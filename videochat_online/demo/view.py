"""What the page shows of a session, as HTML and words: the stream, the dialogue, and the memory level by level.

Pure functions from a session's state (serve/live_session.py) to text; no gradio. Of the memory: a timeline, one row a
level with a cell for each token, what left and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ..serve.track import DialogueTurn

State = dict[str, Any]
SHOWN_DEPARTURES = 4
SHOWN_EMPTY = 12
PIXELS_A_TOKEN = 4
"""Pixels along one side of the square that a token stands for, in the coarse pictures: they are for the eye only."""


def stamp(seconds: float) -> str:
    """
    >>> stamp(75.25)
    '1:15.2'
    """
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths % 600 // 10:02d}.{tenths % 10}"


def words(text: str) -> str:
    """Words as words: no HTML in them is."""
    return escape(text, quote=False)


# ---- the stream -----------------------------------------------------------------------------------------------------


def screen_html(state: State | None) -> str:
    """The picture on screen; as soon as it is there it fetches the next one."""
    if state is None or state["source"] is None:
        return '<div class="vco-screen vco-empty"><p>Choose what to watch, then ask about it.</p></div>'
    address = f"live/{state['id']}/screen.jpg?{state['run']}"
    again = "if (this.isConnected) this.src = this.dataset.address + '.' + Date.now()"
    return (
        f'<div class="vco-screen"><img src="{address}" data-address="{address}" '
        f'alt="what {escape(state["source"])} shows now" '
        f'onload="setTimeout(() => {{ {again} }}, 20)" onerror="setTimeout(() => {{ {again} }}, 1000)"></div>'
    )


def status_html(state: State | None) -> str:
    """Name, state and second of the stream, and what is true where that is known."""
    if state is None or state["source"] is None:
        return '<div class="vco-status"><span class="vco-chip">nothing is playing</span></div>'
    position, duration = state["position"], state["duration"]
    length = f" / {stamp(duration)}" if duration else ""
    share = f"{100 * min(1.0, position / duration):.1f}%" if duration else "100%"
    speed = f" · {state['speed']:g}x" if state["speed"] not in (None, 1.0) else ""
    truth = f'<p class="vco-truth">What is to be seen: {escape(state["truth"])}</p>' if state["truth"] else ""
    return (
        f'<div class="vco-status"><span class="vco-chip vco-{state["state"]}">{state["state"]}</span>'
        f'<span class="vco-time">{stamp(position)}{length}{speed}</span>'
        f'<span class="vco-name">{escape(state["source"])}</span></div>'
        f'<div class="vco-progress" aria-hidden="true"><i style="width:{share}"></i></div>{truth}'
    )


def notice_html(problem: str | None) -> str:
    """What is wrong; apart from what changes every second, so that a screen reader says it once."""
    return f'<p class="vco-problem" role="alert">{escape(problem)}</p>' if problem else ""


def possible(state: State | None) -> tuple[bool, bool, bool]:
    """Whether Play, Pause and Stop can do something now."""
    now = state["state"] if state else "none"
    is_paced = state is not None and state["speed"] is not None
    return now in ("paused", "over"), is_paced and now in ("waiting", "playing"), now not in ("none", "over")


def counters_html(state: State | None) -> str:
    """Numbers of the session, as a list of terms."""
    if state is None:
        return ""

    def number(value: float | None, unit: str, digits: int = 1) -> str:
        return "–" if value is None else f"{value:.{digits}f}{unit}"

    stats = state["stats"]
    capacity = sum(level["capacity"] for level in state["levels"])
    rows = {
        "frames seen": f"{stats['frames_seen']:,}",
        "frames held": f"{sum(stats['frames_held'])} of {capacity}",
        "visual tokens": f"{stats['tokens']:,}",
        "memory": number(stats["bytes"] / 2**20, " MiB", 2),
        "encoding": number(stats["encode_fps"], " fps"),
        "lag": number(state["lag"], " s"),
        "newest picture": number(state["age"], " s ago"),
        "dropped": f"{state['frames_dropped']:,}",
        "damaged": f"{state['frames_damaged']:,}",
        "reconnects": f"{state['reconnects']:,}",
        "first token": number(stats["time_to_first_token"], " s", 2),
        "prompt reused": f"{stats['cached_tokens']} of {stats['prompt_tokens']}" if stats["prompt_tokens"] else "–",
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows.items())
    return f'<dl class="vco-counters" aria-label="Counters">{cells}</dl>'


# ---- the dialogue ---------------------------------------------------------------------------------------------------


def chat_messages(turns: Sequence[DialogueTurn]) -> list[dict[str, str]]:
    """The dialogue as gradio's chat shows it, two messages a question."""
    messages = []
    for turn in turns:
        answer = turn.answer or ("(no words)" if turn.is_done else "…")
        messages.append({"role": "user", "content": f"`{stamp(turn.timestamp)}` {words(turn.question)}"})
        messages.append({"role": "assistant", "content": words(answer)})
    return messages


def links_html(state: State | None) -> str:
    """The dialogue as files, once there is one."""
    if state is None or not state["questions"]:
        return ""
    links = "".join(
        f'<a class="vco-link" href="live/{state["id"]}/dialogue.{kind}" download="dialogue.{kind}">{text}</a>'
        for kind, text in (("json", "Dialogue as json"), ("srt", "Dialogue as subtitles (srt)"))
    )
    return f'<nav class="vco-links" aria-label="Export">{links}</nav>'


# ---- the memory -----------------------------------------------------------------------------------------------------


def memory_html(state: State | None, turns: Sequence[DialogueTurn] = (), shown: DialogueTurn | None = None) -> str:
    """The memory now, or as it was when the question `shown` was asked."""
    if state is None:
        return '<p class="vco-hint">The frames in memory appear here as soon as a stream runs.</p>'
    held, departures, now, title = state["held"], state["departures"], state["position"], ""
    if shown is not None:
        held, departures, now = [vars(frame) for frame in shown.held], [], shown.timestamp
        title = f'<p class="vco-then">As it was at {stamp(now)}: “{escape(shown.question)}”</p>'
    rows = "".join(_level(state, number, held, departures) for number in range(len(state["levels"])))
    timeline = _timeline(len(state["levels"]), held, departures, turns, now)
    left = "".join(
        f'<li class="vco-{kind}">{_figure(state, event)}<span><b>{verb}</b> {how}</span></li>'
        for event in reversed(departures[-SHOWN_DEPARTURES:])
        for kind, verb, how in [_fate(event)]
    )
    left = left and f'<div class="vco-left"><b>Just left their level, newest first</b><ul>{left}</ul></div>'
    return f'<section class="vco-memory" aria-label="Memory">{title}{timeline}{rows}{left}</section>'


def _timeline(
    num_levels: int, held: Sequence[State], departures: Sequence[State], turns: Sequence[DialogueTurn], now: float
) -> str:
    """When the frames were seen, on a line from the start to now."""
    end = max(now, 1e-3)

    def mark(kind: str, seconds: float, title: str, text: str = "") -> str:
        place = f"left:{min(100.0, 100 * seconds / end):.2f}%"
        return f'<i class="vco-{kind}" style="{place}" title="{title}">{text}</i>'

    marks = [
        mark(f"dot vco-l{frame['level']}", frame["timestamp"], f"{stamp(frame['timestamp'])}, level {frame['level']}")
        for frame in held
    ]
    marks += [mark("q", turn.timestamp, escape(turn.question), "?") for turn in turns if turn.timestamp <= end]
    for last in departures[-1:]:
        kind, verb, how = _fate(last)
        marks.append(mark(kind, last["timestamp"], f"{verb} {how}"))
    levels = "".join(f'<span><i class="vco-dot vco-l{k}"></i>level {k}</span>' for k in range(num_levels))
    label = f"{len(held)} frames held between 0 and {now:.0f} seconds"
    return (
        f'<div class="vco-timeline"><div class="vco-line" role="img" aria-label="{label}">{"".join(marks)}</div>'
        f'<div class="vco-ends"><span>0:00.0</span><span class="vco-legend" aria-hidden="true">{levels}'
        '<span><b>?</b> question</span><span><i class="vco-demoted"></i>just demoted</span>'
        f'<span><i class="vco-gone"></i>just forgotten</span></span><span>{stamp(now)}</span></div></div>'
    )


def _level(state: State, number: int, held: Sequence[State], departures: Sequence[State]) -> str:
    """One row: the frames of a level, with lines between the cells that become one token each."""
    level = state["levels"][number]
    frames = [frame for frame in held if frame["level"] == number]
    came_down = [event["number"] for event in departures[-1:]]
    grid = (level["rows"], level["columns"])
    pictures = [_figure(state, frame, grid, frame["number"] in came_down) for frame in frames]
    empty = '<span class="vco-slot" aria-hidden="true"></span>' * min(SHOWN_EMPTY, level["capacity"] - len(frames))
    every = "every frame" if level["every"] == 1 else f"one frame in {level['every']}"
    tokens = f"{level['tokens']} token{'s' if level['tokens'] > 1 else ''}"
    return (
        f'<div class="vco-level vco-l{number}"><div class="vco-head"><b>Level {number}</b>'
        f"<span>{level['rows']}×{level['columns']}: {tokens} a frame</span>"
        f"<span>{len(frames)} of {level['capacity']} held, {every}</span></div>"
        f'<div class="vco-frames">{"".join(pictures)}{empty}</div></div>'
    )


def _figure(state: State, frame: State, grid: tuple[int, int] | None = None, came_down: bool = False) -> str:
    """A frame's picture; with a grid, under a coarse one that has PIXELS_A_TOKEN^2 pixels for each token."""
    address = f"live/{state['id']}/frames/{frame['number']}?run={state['run']}"
    mark = ' <em title="came down from the level above">↓</em>' if came_down else ""
    rows, columns = grid or (1, 1)
    cells = f"cells={PIXELS_A_TOKEN * columns}&rows={PIXELS_A_TOKEN * rows}"
    coarse = f'<img class="vco-coarse" src="{address}&{cells}" alt="">' if grid else ""
    style = f"--rows:{rows};--columns:{columns}"
    return (
        f'<figure class="vco-frame{" vco-down" if came_down else ""}"><div class="vco-pic" style="{style}">'
        f'<img src="{address}" alt="frame {frame["number"] + 1}, seen at {frame["timestamp"]:.1f} s">{coarse}'
        f"</div><figcaption>{stamp(frame['timestamp'])}{mark}</figcaption></figure>"
    )


def _fate(event: State) -> tuple[str, str, str]:
    """How a frame that left its level is marked, in page.css and in words.

    >>> _fate({"timestamp": 8.0, "from_level": 0, "to_level": 1, "similarity": 0.9991})
    ('demoted', 'demoted', '0:08.0 · level 0 → 1, similarity 0.999')
    """
    kind, verb, below = "demoted", "demoted", event["to_level"]
    if below < 0:
        kind, verb, below = "gone", "forgotten", "∅"
    alike = "" if event["similarity"] is None else f", similarity {event['similarity']:.3f}"
    return kind, verb, f"{stamp(event['timestamp'])} · level {event['from_level']} → {below}{alike}"
