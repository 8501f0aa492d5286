"""What each of the page's events does: from gradio's values to a visit's session, and back to the parts of the page.

gradio is optional and imported inside the functions; annotations are evaluated, for gradio looks for gr.Request there.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from html import escape
from inspect import isgeneratorfunction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..media.source import MediaError
from ..serve.limits import SessionSettings
from ..serve.live_session import LiveSession
from ..serve.sources import SourceRequest
from ..serve.track import DialogueTurn
from ..serve.uploads import picture_of
from .memory_view import counters_html, links_html, memory_html, notice_html, screen_html, stamp, status_html
from .visits import Visits

NOW = -1
"""The memory view's choice that follows the stream; questions are numbered from 0."""
ENDED = "Your session was not used for a while and has ended. Start it again."
CAMERA_SECONDS = 0.25
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
ASK_IF_WORDS = "words => ({__type__: 'update', interactive: words.trim() !== ''})"


def connect(parts: SimpleNamespace, visits: Visits) -> None:
    """Each event of the parts to what it does."""
    live = [parts.status, parts.notice, parts.memory, parts.counters, parts.links, parts.play, parts.pause, parts.stop]
    dialogue = [parts.chat, parts.moments]
    begun = [parts.seek, parts.speed, parts.screen, *dialogue, *live]
    _connect_sources(parts, visits, begun)
    _connect_controls(parts, visits, [parts.screen, *dialogue, *live])
    _connect_questions(parts, visits, [parts.question, *dialogue])
    _connect_view(parts, visits, live)
    _connect_settings(parts, visits, begun)


def handler(action: Callable[..., Any]) -> Callable[..., Any]:
    """What gradio calls for an event: `action(visitor, values...)`; a page is known by gradio's session hash.

    A mistake or a limit becomes a notice and leaves the page as it is; all else is a bug and goes to the log.
    """
    import gradio as gr

    def notice(error: Exception) -> Any:  # an error of gradio's would stand over all parts
        gr.Warning(escape(str(error), quote=False), duration=10)
        return gr.skip()

    def run(request: gr.Request, *values: Any) -> Any:
        try:
            return action(str(request.session_hash), *values)
        except (ValueError, ImportError) as error:
            return notice(error)

    def run_stream(request: gr.Request, *values: Any) -> Any:
        try:
            yield from action(str(request.session_hash), *values)
        except ValueError as error:
            yield notice(error)

    return run_stream if isgeneratorfunction(action) else run


# ---- what to watch --------------------------------------------------------------------------------------------------


def _connect_sources(parts: SimpleNamespace, visits: Visits, begun: list[Any]) -> None:
    import gradio as gr

    def sample(visitor: str, name: str) -> Any:
        return _begun(visits, visitor, visits.start(visitor, SourceRequest("sample", name=name)))

    def world(visitor: str, seed: float | None, level: float) -> Any:
        request = SourceRequest("shapeworld", seed=int(seed or 0), level=int(level))
        return _begun(visits, visitor, visits.start(visitor, request))

    def address(visitor: str, text: str) -> Any:
        return _begun(visits, visitor, visits.start(visitor, SourceRequest("url", address=text)))

    def upload(visitor: str, file: dict[str, Any] | None) -> Any:  # gradio's description of what was sent
        if file is None:
            raise MediaError("choose a video file first")
        name = Path(file["orig_name"] or file["path"]).name
        return _begun(visits, visitor, visits.start_upload(visitor, file["path"], name))

    def camera(visitor: str, sent: dict[str, Any] | None) -> Any:
        session = None if sent is None else visits.camera_frame(visitor, picture_sent(sent))
        return gr.skip() if session is None else _begun(visits, visitor, session)

    parts.start_sample.click(handler(sample), parts.sample, begun, **QUIET)
    parts.start_world.click(handler(world), [parts.seed, parts.level], begun, **QUIET)
    gr.on([parts.start_address.click, parts.address.submit], handler(address), parts.address, begun, **QUIET)
    # not preprocessed: there gradio answers a wrong file with an error in the place of the dialogue
    sent = parts.upload.upload(handler(upload), parts.upload, begun, preprocess=False, **QUIET)
    sent.then(lambda: None, None, parts.upload, **QUIET)  # the drop zone is empty again, whatever became of the file
    every = CAMERA_SECONDS  # not preprocessed either: gradio would decode a picture of any size
    parts.camera.stream(handler(camera), parts.camera, begun, stream_every=every, preprocess=False, **QUIET)


def picture_sent(sent: dict[str, Any]) -> np.ndarray:
    """uint8 (H, W, 3) of a picture, sent as bytes or as an upload (see door.py). ValueError where it is none."""
    address, path = sent.get("url") or "", sent.get("path")
    if address.startswith("data:"):
        return picture_of(base64.b64decode(address.partition(",")[2]), "the camera's picture")
    if path is None:
        raise MediaError("the camera sent no picture")
    return picture_of(Path(path).read_bytes(), "the camera's picture")


def _begun(visits: Visits, visitor: str, session: LiveSession | None) -> tuple[Any, ...]:
    """Values for: seek slider, speed, screen, chat, moments, and the parts that tick."""
    import gradio as gr

    state = session.state() if session else None
    duration = state and state["duration"]
    seek = gr.update(maximum=round(duration, 1) if duration else 1, value=0, visible=bool(duration))
    speed = gr.update(value=1.0, interactive=bool(state and state["speed"]))
    return (seek, speed, screen_html(state), [], _choices([]), *_live(visits, visitor, NOW))


# ---- while it runs --------------------------------------------------------------------------------------------------


def _connect_controls(parts: SimpleNamespace, visits: Visits, outputs: list[Any]) -> None:
    def control(action: str) -> Any:
        def run(visitor: str, shown: int, value: float | None = None) -> Any:
            session = visits.running(visitor)
            session.control(action, None if value is None else float(value))
            turns = session.track.dialogue()
            chat, choices = chat_messages(turns), _choices(turns, shown)
            return (screen_html(session.state()), chat, choices, *_live(visits, visitor, shown))

        return handler(run)

    for name in ("play", "pause", "stop"):
        getattr(parts, name).click(control(name), parts.moments, outputs, **QUIET)
    parts.seek.release(control("seek"), [parts.moments, parts.seek], outputs, **QUIET)
    parts.speed.input(control("speed"), [parts.moments, parts.speed], outputs, **QUIET)


def _connect_questions(parts: SimpleNamespace, visits: Visits, outputs: list[Any]) -> None:
    import gradio as gr

    def ask(visitor: str, question: str) -> Iterator[tuple[Any, ...]]:  # values again with each piece of the answer
        session = visits.running(visitor)
        _, pieces = session.ask(question.strip())
        yield _dialogue(session)
        for _ in pieces:
            yield _dialogue(session)
        yield _dialogue(session)

    asked = handler(ask)
    gr.on([parts.ask.click, parts.question.submit], asked, parts.question, outputs, **QUIET)
    parts.question.change(None, parts.question, parts.ask, js=ASK_IF_WORDS, **QUIET)
    for button in parts.examples:
        filled = button.click(lambda text=button.value: text, None, parts.question, **QUIET)
        filled.then(asked, parts.question, outputs, **QUIET)


def _dialogue(session: LiveSession) -> tuple[Any, ...]:
    """Values for: question box, chat, moments."""
    turns = session.track.dialogue()
    return "", chat_messages(turns), _choices(turns)


def chat_messages(turns: Sequence[DialogueTurn]) -> list[dict[str, Any]]:
    """The dialogue as gradio's chat shows it, two messages a question. Words are words: no HTML in them is."""
    messages = []
    for turn in turns:
        answer = turn.answer or ("(no words)" if turn.is_done else "…")
        question = f"`{stamp(turn.timestamp)}` {escape(turn.question, quote=False)}"
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": escape(answer, quote=False)},
        ]
    return messages


def _choices(turns: Sequence[DialogueTurn], shown: int = NOW) -> Any:
    """The memory view's choices: now, and each question's second."""
    import gradio as gr

    asked = [(f"{stamp(turn.timestamp)} {turn.question[:24]}", turn.number) for turn in reversed(turns)]
    value = shown if any(turn.number == shown for turn in turns) else NOW
    return gr.update(choices=[("now", NOW), *asked], value=value)


# ---- looking at it --------------------------------------------------------------------------------------------------


def _connect_view(parts: SimpleNamespace, visits: Visits, live: list[Any]) -> None:
    import gradio as gr

    def tick(visitor: str, shown: int) -> Any:
        return _live(visits, visitor, shown)

    def leave(request: gr.Request) -> None:
        visits.leave(str(request.session_hash))

    def clicked_question(request: gr.Request, event: gr.SelectData) -> int:  # two messages of the chat are a question
        session = visits.session(str(request.session_hash))
        turns = session.track.dialogue() if session else []
        number = (event.index if isinstance(event.index, int) else event.index[0]) // 2
        return turns[number].number if number < len(turns) else NOW

    gr.on([parts.timer.tick, parts.moments.change], handler(tick), parts.moments, live, queue=False, **QUIET)
    parts.chat.select(clicked_question, None, parts.moments, **QUIET)
    parts.page.unload(leave)


def _live(visits: Visits, visitor: str, shown: int) -> tuple[Any, ...]:
    """Values for: status, notice, memory, counters, links, play, pause, stop."""
    import gradio as gr

    session = visits.session(visitor)
    state, turns = (None, []) if session is None else (session.state(), session.track.dialogue())
    problem = state["problem"] if state else ENDED if visits.has_ended(visitor) else None
    return (
        status_html(state),
        notice_html(problem),
        memory_html(state, turns, next((turn for turn in turns if turn.number == shown), None)),
        counters_html(state),
        links_html(state),
        *(gr.update(interactive=can) for can in possible(state)),
    )


def possible(state: dict[str, Any] | None) -> tuple[bool, bool, bool]:
    """Whether Play, Pause and Stop can do something now."""
    now = state["state"] if state else "none"
    is_paced = state is not None and state["speed"] is not None
    return now in ("paused", "over"), is_paced and now in ("waiting", "playing"), now not in ("none", "over")


# ---- settings -------------------------------------------------------------------------------------------------------


def _connect_settings(parts: SimpleNamespace, visits: Visits, begun: list[Any]) -> None:
    def change(
        visitor: str, fps: float, levels: str, policy: str, cascade: bool, prompt: str, most: float
    ) -> tuple[Any, ...]:
        settings = SessionSettings(fps, parse_levels(levels), policy, cascade, prompt.strip() or None, int(most))
        return _begun(visits, visitor, visits.change(visitor, settings))

    settings = [parts.fps, parts.levels, parts.policy, parts.cascade, parts.prompt, parts.most]
    parts.apply.click(handler(change), settings, begun, **QUIET)


def parse_levels(text: str) -> tuple[int, ...] | None:
    """
    >>> parse_levels("2/2/12"), parse_levels("")
    ((2, 2, 12), None)
    """
    if not text.strip():
        return None
    try:
        return tuple(int(part) for part in text.replace(",", "/").split("/"))
    except ValueError as error:
        raise ValueError(f"frames a level holds are written as 2/2/12, got {text!r}") from error
