"""The page's parts and what each of them does. visits.py has what is shown, page.js draws it, page.css has the looks.

One part, the feed, carries the state to the browser with each tick, and brings back what the visitor does as named
actions; gradio's own fields and buttons stand beside it. What the browser sent comes as it is (`preprocess=False`) and
is checked against the action's annotations. A mistake is part of the state, too, with the place where it is told.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
from pydantic import Field, ValidationError, validate_call

from ..config import MEMORY_POLICIES
from ..files import SHIPPED_MODELS
from ..media.source import MediaError
from ..serve.api import validation_text
from ..serve.content import picture_of
from ..serve.limits import SessionSettings, UnknownSession
from ..serve.live_session import USUAL_NEW_TOKENS, LiveSession
from ..serve.sessions import Sessions
from ..serve.sources import SAMPLES, SourceRequest, open_file
from ..streaming.standing import LEAD, MOST_CHARACTERS
from .door import Door
from .visits import State, Visit, Visits, held_view, levels_view, page_view, parse_levels

HERE = Path(__file__).parent
TICK_SECONDS = 0.5
MOST_SEED = 2**31
ENDED = "Your session was not used for a while and has ended. Start it again."
GONE = "Your video and dialogue are not here any more: the session has ended. Start it again."
JS_ON_LOAD = "vcoPage.begin({send: data => trigger('act', data), ask: text => trigger('ask', text), upload, \
value: props.value});\
watch('value', () => vcoPage.show(props.value))"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple"}
BARE: dict[str, Any] = {"show_label": False, "container": False, "max_lines": 1, "interactive": False}
"""For fields that need no label but a screen reader's, and a stream."""
TELL = "Tell me when "
OF_SHAPES: State = {
    "chip": "knows coloured shapes only",
    "questions": ("What is happening now?", "Where is the object now?", "How many objects are on the screen?",
                  "What happened before that?", "What may happen next?"),
    "wishes": ("the yellow square is at the top", "two shapes touch", "there are two objects"),
}  # fmt: skip
OF_REAL_VIDEO: State = {
    "chip": "real video",
    "questions": ("What is happening now?", "What is the person doing?", "What has changed?",
                  "What happened before that?", "Read the text that you see."),
    "wishes": ("somebody comes to the door", "a parcel is on the table", "the light goes on"),
}  # fmt: skip
"""What to ask, and what to look out for, of a model that knows more than the coloured shapes of a generated world."""
Changes = dict[Any, Any]
"""Part -> its new value, or a gr.update."""


def add_page(app: Any, sessions: Sessions) -> Any:
    """Mount the page at / of the server's application."""
    limits = sessions.limits
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.files.uploads)  # the only way to say where gradio keeps uploads
    page = Page(sessions).blocks
    css, js = ((HERE / f"page.{kind}").read_text() for kind in ("css", "js"))
    app = gr.mount_gradio_app(  # gradio would cut our style sheet's selectors at every comma: it goes into the head
        app, page, path="/", max_file_size=limits.max_upload_bytes, show_error=True, footer_links=[],
        head=f"<style>{css}</style><script>{js}</script>", run_history=False,
    )  # fmt: skip
    mounted = app.routes[-1]
    mounted.app = Door(mounted.app, page.upload_file_set, 2 * limits.max_image_bytes, limits.max_upload_bytes)
    return app


def markup() -> dict[str, str]:
    """The parts of page.html by name, with their icons."""
    parts = re.split(r"<!-- (\w+) -->\n", (HERE / "page.html").read_text())
    icon = r'<svg class="v-i" aria-hidden="true"><use href="#i-\1"/></svg>'
    return {name: re.sub(r"\{(\w+)\}", icon, text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@dataclass
class Sent:
    """A file as the browser describes it: its bytes in a data address, or the path of an upload (see door.py)."""

    path: str | None = None
    url: str | None = None
    orig_name: str | None = None

    def picture(self) -> np.ndarray:
        """uint8 (H, W, 3); ValueError where it is no picture."""
        if self.url and self.url.startswith("data:"):
            return picture_of(base64.b64decode(self.url.partition(",")[2]), "the camera's picture")
        raise MediaError("the camera sent no picture")


class Page:
    """The page over `sessions` as gradio's `blocks`, not mounted yet."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions, self.limits, self.visits = sessions, sessions.limits, Visits(sessions)
        self.parts, self.fits = markup(), OF_SHAPES if sessions.model_name in SHIPPED_MODELS else OF_REAL_VIDEO
        self.actions: dict[str, Callable[..., State | None]] = {
            action.__name__: validate_call(config={"arbitrary_types_allowed": True})(action)
            for action in (
                self.watch, self.upload, self.camera, self.control, self.moment, self.rule, self.drop, self.tell,
                self.resume,
            )
        }  # fmt: skip
        with gr.Blocks(title="videochat-online", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            self._html("top")
            with gr.Column(elem_id="vco-main"):
                self._html("stage")
                self._html("transport")
                with gr.Column(elem_id="vco-chat"):
                    self._add_dialogue()
                self._html("memory")
                with gr.Column(elem_id="vco-tell"):
                    self._add_telling()
            for name in ("about", "address", "settings"):
                with gr.Column(elem_id=f"vco-{name}", elem_classes="v-sheet"):
                    self._html(name)
                    {"about": lambda: None, "address": self._add_address, "settings": self._add_settings}[name]()
            self._add_feed()
            self.blocks.unload(self._leave)
        self.blocks.queue(default_concurrency_limit=self.limits.max_sessions, api_open=False)

    def _html(self, name: str) -> None:
        gr.HTML(self.parts[name], js_on_load=None, apply_default_css=False)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _add_dialogue(self) -> None:
        self._html("log")
        with gr.Row(elem_id="vco-asking", elem_classes="v-fields"):
            most = self.limits.max_question_chars
            self.question = gr.Textbox(label="Your question", elem_id="vco-question", max_length=most, **BARE)
            self.ask_button = gr.Button("Ask", variant="primary", elem_id="vco-ask", interactive=False)
        self._html("wrong")

    def _add_telling(self) -> None:
        with gr.Row(elem_id="vco-telling", elem_classes="v-fields"):
            gr.HTML("<h2>Tell me when…</h2>", js_on_load=None, apply_default_css=False)
            most = MOST_CHARACTERS - len(TELL)  # it is put before what is written here
            self.wish = gr.Textbox(label="Tell me when", elem_id="vco-wish", max_length=most, **BARE)
            self.add_button = gr.Button("Add", elem_id="vco-add", interactive=False)
        self._html("wishes")

    def _add_address(self) -> None:
        with gr.Row(elem_classes="v-fields"):
            bare = BARE | {"interactive": self.limits.allow_urls}
            self.address = gr.Textbox(label="RTSP, HTTP, HLS or UDP address", elem_id="vco-url", **bare)
            self.connect = gr.Button(
                "Connect", variant="primary", elem_id="vco-connect", interactive=self.limits.allow_urls
            )

    def _add_settings(self) -> None:
        usual, levels = SessionSettings(), self.sessions.model.config.memory_config.capacities
        most = self.limits.max_new_tokens
        self.settings = [
            gr.Slider(0.5, self.limits.max_fps, value=usual.fps, step=0.5, label="Frames a second"),
            gr.Textbox("/".join(map(str, levels)), label="Frames each level holds, finest first"),
            gr.Radio(list(MEMORY_POLICIES), value=usual.policy, label="What leaves a full memory"),
            gr.Checkbox(usual.cascade, label="Displaced frames go further down (cascade)"),
            gr.Textbox(label="System prompt (empty: the model's own)", lines=2),
            gr.Slider(1, most, value=min(most, USUAL_NEW_TOKENS), step=1, label="Longest answer, tokens"),
        ]
        self.apply = gr.Button("Apply (the stream restarts)", variant="primary", elem_id="vco-apply")
        self.world = [
            gr.Number(None, label="Endless shapes: seed (empty: new each time)", precision=0),
            gr.Slider(1, 4, value=2, step=1, label="Endless shapes: difficulty"),
        ]
        self.start_world = gr.Button("Watch endless shapes", elem_id="vco-world")

    def _add_feed(self) -> None:
        """The part that carries the state, and all events."""
        self.feed = gr.HTML({"about": self._about()}, html_template="", js_on_load=JS_ON_LOAD, elem_id="vco-feed")
        self.followers = [self.feed, self.question, self.ask_button, self.wish, self.add_button, self.address]
        options: dict[str, Any] = {"outputs": self.followers, "preprocess": False, **QUIET}
        self.feed.act(self._act, None, **options)
        # 1. the dialogue: a question is answered beside others; the button ends what is being answered
        self.feed.ask(self._asks_example, None, **options)
        self.question.submit(self._asks, self.question, **options)
        self.ask_button.click(self._asks_or_cancels, self.question, **options)
        # 2. what is done by one field or form
        gr.on([self.add_button.click, self.wish.submit], self._doing(self.tell, "wish"), self.wish, **options)
        address = self._doing(self.connect_to, "address")
        gr.on([self.connect.click, self.address.submit], address, self.address, **options)
        self.apply.click(self._doing(self.change, "settings"), self.settings, **options)
        self.start_world.click(self._doing(self.watch_world, "settings"), self.world, **options)
        # 3. the state, again and again
        ticks: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.Timer(TICK_SECONDS).tick(self._tick, None, self.feed, queue=False, **ticks)

    def _about(self) -> State:
        """What does not change: the model, what fits it, and what this server takes."""
        name, config = self.sessions.model_name, self.sessions.model.config
        sample = open_file(next(iter(SAMPLES.values())), self.limits, name="the sample").source
        seconds = getattr(sample, "duration", 0.0)
        sample.close()
        levels = [(one.grid, one.grid, one.capacity) for one in config.memory_config.levels]
        return {
            "model": name, "is_small": self.fits is OF_SHAPES, "note": config.note or "", **self.fits,
            "sample_seconds": round(seconds), "levels": levels_view(levels), "urls": self.limits.allow_urls,
            "upload_bytes": self.limits.max_upload_bytes, "upload_minutes": self.limits.max_video_seconds / 60,
        }  # fmt: skip

    # ---- how an event is answered -----------------------------------------------------------------------------------

    def _visit(self, request: gr.Request, *, enters: bool = False) -> Visit:
        page = str(request.session_hash)
        return self.visits.enter(page) if enters else self.visits.look(page)

    def _act(self, request: gr.Request, event: gr.EventData) -> Any:
        """One of the named actions, as page.js sends it."""
        sent = dict(event._data) if isinstance(event._data, dict) else {}
        name = str(sent.pop("do", ""))
        if (action := self.actions.get(name)) is None:
            return self._told(f"the page has no action {name!r:.40}", "start")
        place = {"tell": "wish", "rule": "wish", "drop": "wish", "control": "screen", "moment": "screen"}.get(
            name, "start"
        )
        visit = self._visit(request, enters=name in ("watch", "upload", "camera", "resume"))
        return self._done(visit, partial(action, visit, **sent), place)

    def _doing(self, action: Callable[..., State | None], place: str) -> Callable[..., Any]:
        """For gradio's listeners: the action, whose mistakes are told at that place."""
        checked = validate_call(config={"arbitrary_types_allowed": True})(action)

        def do(request: gr.Request, *values: Any) -> Any:
            visit = self._visit(request, enters=place != "wish")
            return self._done(visit, partial(checked, visit, *values), place)

        return do

    def _done(self, visit: Visit, action: Callable[[], State | None], place: str) -> Any:
        """Do it and say how things stand then. A mistake or a limit is told; all else is a bug and goes to the log."""
        try:
            part = action()
        except (ValueError, ImportError) as error:
            return self._told(error, place)
        return gr.skip() if part is None else self._all(visit, part)

    def _told(self, error: Exception | str, place: str) -> Changes:
        """A mistake, at its place: nothing else changes. The number tells two that are alike apart."""
        text = validation_text(error.errors()) if isinstance(error, ValidationError) else str(error)
        return {self.feed: {"fault": {"at": place, "text": text, "number": secrets.randbits(32)}}}

    def _all(self, visit: Visit, part: State) -> Changes:
        """The state with that part, and fields that can be used or not."""
        session = visit.session
        can = session is not None and session.source is not None
        first = "Start a video first"
        empty: dict[str, Any] = {"value": ""} if part.get("is_told") else {}
        return {
            self.feed: self._state(session) | part,
            self.question: gr.update(interactive=can, placeholder="Ask about now or before" if can else first),
            self.ask_button: gr.update(interactive=can, value="Cancel" if visit.num_asking else "Ask"),
            self.wish: gr.update(
                interactive=can, placeholder=f"for example: {self.fits['wishes'][0]}" if can else first, **empty
            ),
            self.add_button: gr.update(interactive=can),
        }

    def _state(self, session: LiveSession | None) -> State:
        return {"id": None} if session is None else {**page_view(session), "ended": None}

    def _tick(self, request: gr.Request) -> Any:
        visit = self._visit(request)
        if (session := visit.session) is not None:
            return self._state(session)
        return {"id": None, "ended": ENDED} if visit.has_ended else gr.skip()

    def _leave(self, request: gr.Request) -> None:
        self.visits.leave(str(request.session_hash))

    # ---- actions ----------------------------------------------------------------------------------------------------

    def watch(self, visit: Visit, request: SourceRequest, is_new: bool = False) -> State:
        """A stream; `is_new`: of a generated world, one that nobody has seen."""
        if is_new:
            request.seed = secrets.randbelow(MOST_SEED)
        visit.start(request)
        return {}

    def watch_world(self, visit: Visit, seed: float | None, level: int) -> State:
        number = None if seed is None else round(seed)
        return self.watch(visit, SourceRequest("shapeworld", seed=number or 0, level=level), is_new=number is None)

    def connect_to(self, visit: Visit, address: str) -> State:
        return self.watch(visit, SourceRequest("url", address=address))

    def upload(self, visit: Visit, file: Sent) -> State:
        if file.path is None:
            raise MediaError("choose a video file first")
        visit.start_upload(file.path, Path(file.orig_name or file.path).name)
        return {}

    def camera(self, visit: Visit, frame: Sent, begins: bool = False) -> State | None:
        return {} if visit.camera_frame(frame.picture(), begins=begins) else None

    def control(self, visit: Visit, action: Literal["play", "pause", "stop", "seek", "speed"],
                value: float | None = None) -> State:  # fmt: skip
        visit.running().control(action, value)
        return {}

    def moment(self, visit: Visit, turn: int | None = None, event: int | None = None) -> State:
        """What was in memory when a question was asked, or when something was said unasked."""
        session = visit.running()
        one = next((one for one in session.track.turns if one.number == turn), None)
        held = session.track.moments.get(event or 0) if one is None else one.held
        if held is None:
            raise UnknownSession("what was in memory then is not kept any more")
        return {"then": {"turn": turn, "event": event, "held": held_view(held)}}

    def tell(self, visit: Visit, text: str) -> State:
        if not text.strip():
            raise ValueError("Say what to look out for first.")
        is_whole = LEAD.match(text.strip()) or text.strip().endswith("?")
        visit.running().session.watch_for(text if is_whole else TELL + text.strip())
        return {"is_told": True}

    def rule(
        self,
        visit: Visit,
        key: str,
        threshold: float | None = Field(default=None, gt=0, lt=1),
        once: bool | None = None,
        paused: bool | None = None,
    ) -> State:
        changes = {"threshold": threshold, "once": once, "paused": paused}
        visit.rule(key, **{name: value for name, value in changes.items() if value is not None})
        return {}

    def drop(self, visit: Visit, key: str) -> State:
        visit.running().session.drop_standing(key)
        return {}

    def resume(self, visit: Visit, key: str) -> State | None:
        """The page was loaded again and remembers its session."""
        try:
            visit.resume(key)
        except UnknownSession:
            return {"id": None, "ended": GONE}
        return {"again": True}

    def change(
        self, visit: Visit, fps: float, levels: str, policy: str, cascade: bool, prompt: str | None, tokens: int
    ) -> State:
        prompt = (prompt or "").strip()
        visit.change(SessionSettings(fps, parse_levels(levels), policy, cascade, prompt or None, tokens))
        return {"saved": True}

    # ---- questions --------------------------------------------------------------------------------------------------

    def _asks_or_cancels(self, request: gr.Request, question: Any) -> Iterator[Any]:
        visit = self._visit(request)
        if visit.num_asking:
            visit.num_cancelled += 1
        else:
            yield from self._asks(request, question)

    def _asks_example(self, request: gr.Request, event: gr.EventData) -> Iterator[Any]:
        yield from self._asks(request, event._data)

    def _asks(self, request: gr.Request, question: Any) -> Iterator[Any]:
        """The dialogue again with each piece of the answer."""
        visit = self._visit(request)
        before = visit.num_cancelled
        try:
            if not str(question or "").strip():
                raise ValueError("Type a question first.")
            session = visit.running()
            visit.num_asking += 1
            try:
                _, pieces = session.ask(str(question).strip())
                yield {**self._all(visit, {}), self.question: gr.update(value="")}
                for _ in pieces:
                    if visit.num_cancelled != before:
                        break
                    yield {self.feed: self._state(session)}
                pieces.close()  # type: ignore[attr-defined]
            finally:
                visit.num_asking -= 1
            yield self._all(visit, {})
        except ValueError as error:
            yield self._told(error, "question")
