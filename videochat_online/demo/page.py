"""The page, section by section: its parts, and what each of them does. view.py has the words, page.css the looks.

gradio gives a handler what the browser sent as it came (`preprocess=False`), and `handler` checks it against the
handler's annotations: gradio's own checks would put an error in the place of every part. A handler answers with the
parts that change.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from pydantic import FiniteFloat, ValidationError, validate_call

from ..config import MEMORY_POLICIES
from ..files import SHIPPED_MODELS
from ..media.source import MediaError
from ..serve.api import validation_text
from ..serve.limits import SessionSettings
from ..serve.live_session import USUAL_NEW_TOKENS
from ..serve.sessions import Sessions
from ..serve.sources import SAMPLES, SourceRequest
from ..serve.track import DialogueTurn
from ..serve.uploads import picture_of
from .door import Door
from .view import (
    chat_messages,
    counters_html,
    links_html,
    memory_html,
    notice_html,
    possible,
    screen_html,
    stamp,
    status_html,
    words,
)
from .visits import Visit, Visits, parse_levels

CSS = Path(__file__).with_name("page.css")
NOW = -1
"""The memory view's choice that follows the stream; questions are numbered from 0."""
TICK_SECONDS = 0.7
CAMERA_SECONDS = 0.25
ENDED = "Your session was not used for a while and has ended. Start it again."
ASK_IF_WORDS = "words => ({__type__: 'update', interactive: words.trim() !== ''})"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
BARE: dict[str, Any] = {"show_label": False, "container": False}
"""For inputs that need no label but a screen reader's."""
START: dict[str, Any] = {"variant": "primary", "scale": 2, "min_width": 140}
EXAMPLES = (
    "What is happening now?",
    "How many objects are on the screen?",
    "Where is the object now?",
    "What happened before that?",
    "What may happen next?",
)
OF_REAL_VIDEO = (
    "What is happening now?",
    "What is the person doing?",
    "What has changed?",
    "What happened before that?",
    "Read the text that you see.",
)
"""Of a model that knows more than the coloured shapes of a generated world."""
Changes = dict[Any, Any]
"""Part -> its new value, or a gr.update."""


def add_page(app: Any, sessions: Sessions) -> Any:
    """Mount the page at / of the server's application."""
    limits = sessions.limits
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.files.uploads)  # the only way to say where gradio keeps uploads
    page = Page(sessions).blocks
    app = gr.mount_gradio_app(
        app, page, path="/", max_file_size=limits.max_upload_bytes, theme=_theme(), css_paths=CSS,
        show_error=True, footer_links=[], run_history=False,
    )  # fmt: skip
    mounted = app.routes[-1]
    mounted.app = Door(mounted.app, page.upload_file_set, 2 * limits.max_image_bytes, limits.max_upload_bytes)
    return app


def _theme() -> Any:
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", radius_size="lg", **fonts)
    return theme.set(  # a shade darker than usual: enough contrast to be read by everybody
        body_text_color_subdued="*neutral_500",
        block_label_text_color="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


@dataclass
class Sent:
    """A file as gradio describes it: its bytes in a data address, or the path of an upload (see door.py)."""

    path: str | None = None
    url: str | None = None
    orig_name: str | None = None

    def picture(self) -> np.ndarray:
        """uint8 (H, W, 3); ValueError where it is no picture."""
        if self.url and self.url.startswith("data:"):
            return picture_of(base64.b64decode(self.url.partition(",")[2]), "the camera's picture")
        if self.path is None:
            raise MediaError("the camera sent no picture")
        return picture_of(Path(self.path).read_bytes(), "the camera's picture")


def notice(error: Exception) -> Any:
    """Say it beside the page, and change nothing: an error of gradio's would stand over all parts."""
    text = validation_text(error.errors()) if isinstance(error, ValidationError) else str(error)
    gr.Warning(words(text), duration=10)
    return gr.skip()


class Page:
    """The page over `sessions` as gradio's `blocks`, not mounted yet."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions, self.limits, self.visits = sessions, sessions.limits, Visits(sessions)
        self._make_parts()
        with gr.Blocks(title="videochat-online", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            gr.HTML(self._title())
            with gr.Row(equal_height=False):
                with gr.Column(scale=6, min_width=320):
                    gr.HTML("<h2><b>1</b> Watch</h2>")
                    self._add_sources()
                    self._add_screen()
                with gr.Column(scale=5, min_width=320):
                    gr.HTML("<h2><b>2</b> Ask, at any moment</h2>")
                    self._add_chat()
            self._add_memory()
            self._add_settings()
            self.blocks.unload(self._leave)
        self.blocks.queue(default_concurrency_limit=self.limits.max_sessions, api_open=False)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        """The parts that follow the session, not on the page yet: what happens in one section changes others, too."""
        self.screen = gr.HTML(screen_html(None), elem_id="vco-screen")
        self.status = gr.HTML(status_html(None), elem_id="vco-status")
        self.notice = gr.HTML("", elem_id="vco-notice")
        self.transport = [
            gr.Button(name.title(), size="sm", elem_id=f"vco-{name}", min_width=60, interactive=False)
            for name in ("play", "pause", "stop")
        ]
        speeds = [("0.5x", 0.5), ("1x", 1.0), ("2x", 2.0), ("4x", 4.0)]
        self.speed = gr.Dropdown(speeds, value=1.0, label="Speed", min_width=70, interactive=False, **BARE)
        self.seek = gr.Slider(0, 1, value=0, step=0.1, label="Go to second (back: memory starts empty)", visible=False)
        self.chat = gr.Chatbot(
            label="Dialogue", show_label=False, height=408, elem_id="vco-chat", feedback_options=None,
            buttons=["copy_all"],
            placeholder="Start a stream, then ask about it.\n\nA click on a question shows what was in memory then.",
        )  # fmt: skip
        self.question = gr.Textbox(
            label="Question", placeholder="What is happening now?", scale=5, min_width=180,
            max_length=self.limits.max_question_chars, **BARE,
        )  # fmt: skip
        self.links = gr.HTML("", elem_id="vco-links")
        self.counters = gr.HTML(counters_html(None))
        self.moments = gr.Radio([("now", NOW)], value=NOW, label="Memory at", elem_id="vco-moments", scale=5)
        self.memory = gr.HTML(memory_html(None), elem_id="vco-memory")
        self.followers = [
            self.screen, self.seek, self.speed, self.question, self.chat, self.moments, self.status, self.notice,
            self.memory, self.counters, self.links, *self.transport,
        ]  # fmt: skip

    def _title(self) -> str:
        note, name = self.sessions.model.config.note, escape(self.sessions.model_name)
        note_html = f'<p class="vco-note" role="note"><b>{name}:</b> {escape(note)}</p>' if note else ""
        return (
            '<header><div class="vco-title"><h1>videochat-online</h1><p>A model watches a stream and remembers a fixed '
            f"number of frames. Ask it about past and present while it runs. Model: <b>{name}</b></p></div>"
            f"{note_html}</header>"
        )

    # ---- events -----------------------------------------------------------------------------------------------------

    def _on(self, events: Any, action: Callable[..., Any], inputs: Any, *, enters: bool = False, **options: Any) -> Any:
        """Let `action(visit, values of the inputs...)` answer events; `enters`: it may start something for its visit.

        A mistake or a limit becomes a notice and leaves the page as it is; all else is a bug and goes to the log.
        """
        visit_of = self.visits.enter if enters else self.visits.look
        checked = validate_call(config={"arbitrary_types_allowed": True})(action)

        def run(request: gr.Request, *values: Any) -> Any:
            try:
                return checked(visit_of(str(request.session_hash)), *values)
            except (ValueError, ImportError) as error:
                return notice(error)

        def run_stream(request: gr.Request, *values: Any) -> Any:
            try:
                yield from checked(visit_of(str(request.session_hash)), *values)
            except ValueError as error:
                yield notice(error)

        answer = run_stream if isgeneratorfunction(action) else run
        listen = partial(gr.on, events) if isinstance(events, list) else events
        return listen(answer, inputs, self.followers, preprocess=False, **QUIET, **options)

    # ---- what to watch ----------------------------------------------------------------------------------------------

    def _add_sources(self) -> None:
        with gr.Tabs(elem_id="vco-sources"):
            with gr.Tab("Sample"), gr.Row(equal_height=True):
                sample = gr.Dropdown(
                    list(SAMPLES), value=next(iter(SAMPLES)), label="A clip that ships", scale=3, min_width=120, **BARE
                )
                button = gr.Button("Watch the sample", **START)
                self._on(button.click, self.watch_sample, sample, enters=True)
            with gr.Tab("World"), gr.Row(equal_height=True):
                seed = gr.Number(0, label="Seed", precision=0, scale=1, min_width=70)
                level = gr.Dropdown([1, 2, 3, 4], value=2, label="Difficulty", scale=1, min_width=90)
                button = gr.Button("Watch a generated world", **START)
                self._on(button.click, self.watch_world, [seed, level], enters=True)
            with gr.Tab("Upload"):
                self._add_upload()
            with gr.Tab("Camera"):
                camera = gr.Image(
                    sources=["webcam"], streaming=True, type="numpy", label="Your camera", height=200,
                    elem_id="vco-camera",
                )  # fmt: skip
                self._on(camera.stream, self.watch_camera, camera, enters=True, stream_every=CAMERA_SECONDS)
            with gr.Tab("Address"):
                self._add_address()

    def _add_upload(self) -> None:
        size, minutes = self.limits.max_upload_bytes // 2**20, self.limits.max_video_seconds / 60
        file = gr.File(
            label=f"A video, at most {size} MiB and {minutes:g} minutes",
            file_types=["video", ".gif", ".mkv"], type="filepath", height=110, elem_id="vco-upload",
        )  # fmt: skip
        sent = self._on(file.upload, self.watch_upload, file, enters=True)
        sent.then(lambda: None, None, file, **QUIET)  # the drop zone is empty again, whatever became of the file

    def _add_address(self) -> None:
        can = self.limits.allow_urls
        with gr.Row(equal_height=True):
            address = gr.Textbox(
                label="RTSP, HTTP, HLS or UDP address", placeholder="rtsp://camera.example/live", scale=3,
                min_width=160, interactive=can,
            )  # fmt: skip
            button = gr.Button("Connect", variant="primary", scale=1, min_width=90, interactive=can)
        self._on([button.click, address.submit], self.watch_address, address, enters=True)
        if not can:
            gr.Markdown("Addresses are switched off on this server; its operator can allow them (`--allow-urls`).")

    def watch_sample(self, visit: Visit, name: str) -> Changes:
        return self._watch(visit, SourceRequest("sample", name=name))

    def watch_world(self, visit: Visit, seed: FiniteFloat | None, level: int) -> Changes:
        return self._watch(visit, SourceRequest("shapeworld", seed=round(seed or 0), level=level))

    def watch_address(self, visit: Visit, address: str) -> Changes:
        return self._watch(visit, SourceRequest("url", address=address))

    def _watch(self, visit: Visit, request: SourceRequest) -> Changes:
        visit.start(request)
        return self._begun(visit)

    def watch_upload(self, visit: Visit, file: Sent | None) -> Changes:
        if file is None or file.path is None:
            raise MediaError("choose a video file first")
        visit.start_upload(file.path, Path(file.orig_name or file.path).name)
        return self._begun(visit)

    def watch_camera(self, visit: Visit, sent: Sent | None) -> Any:
        begins = sent is not None and visit.camera_frame(sent.picture())
        return self._begun(visit) if begins else gr.skip()

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def _add_screen(self) -> None:
        self.screen.render()
        self.status.render()
        self.notice.render()
        with gr.Row(elem_classes="vco-transport", equal_height=True):
            for part in (*self.transport, self.speed):
                part.render()
        self.seek.render()
        for action, button in zip(("play", "pause", "stop"), self.transport, strict=True):
            self._on(button.click, self._control(action), self.moments)
        self._on(self.seek.release, self._control("seek"), [self.moments, self.seek])
        self._on(self.speed.input, self._control("speed"), [self.moments, self.speed])
        timer = gr.Timer(TICK_SECONDS)
        self._on([timer.tick, self.moments.change], self._live, self.moments, queue=False)

    def _control(self, action: str) -> Callable[..., Any]:
        def control(visit: Visit, at: int | None, value: float | None = None) -> Changes:
            visit.running().control(action, value)
            return self._all(visit, at)

        return control

    def _leave(self, request: gr.Request) -> None:
        self.visits.leave(str(request.session_hash))

    # ---- the dialogue -----------------------------------------------------------------------------------------------

    def _add_chat(self) -> None:
        self.chat.render()
        with gr.Row(equal_height=True, elem_id="vco-asking"):
            self.question.render()
            button = gr.Button("Ask", variant="primary", scale=1, min_width=70, elem_id="vco-ask", interactive=False)
        self._on([button.click, self.question.submit], self.ask, self.question)
        self.question.change(None, self.question, button, js=ASK_IF_WORDS, **QUIET)
        with gr.Row(elem_id="vco-examples"):
            for text in EXAMPLES if self.sessions.model_name in SHIPPED_MODELS else OF_REAL_VIDEO:
                filled = gr.Button(text, size="sm").click(lambda text=text: text, None, self.question, **QUIET)
                self._on(filled.then, self.ask, self.question)
        self.links.render()
        self.chat.select(self._clicked_question, None, self.moments, **QUIET)

    def ask(self, visit: Visit, question: str) -> Iterator[Changes]:
        """The dialogue again with each piece of the answer."""
        session = visit.running()
        _, pieces = session.ask(question.strip())
        yield {self.question: "", **self._dialogue(session.track.turns)}
        for _ in pieces:
            yield self._dialogue(session.track.turns)
        yield self._dialogue(session.track.turns)

    def _clicked_question(self, request: gr.Request, event: gr.SelectData) -> int:
        session = self.visits.look(str(request.session_hash)).session
        turns = session.track.turns if session else []
        number = (event.index if isinstance(event.index, int) else event.index[0]) // 2  # two messages are a question
        return turns[number].number if number < len(turns) else NOW

    # ---- memory and settings ----------------------------------------------------------------------------------------

    def _add_memory(self) -> None:
        gr.HTML("<h2><b>3</b> What the model remembers</h2><p class='vco-hint'>Each picture is a frame it still holds, "
                "as coarse as it holds it: one cell is one token. When a level is full, the older of its two most "
                "similar neighbours goes down a level, or is forgotten.</p>")  # fmt: skip
        self.counters.render()
        with gr.Row(equal_height=True, elem_id="vco-look"):
            self.moments.render()
            gr.Checkbox(False, label="Sharp pictures", elem_id="vco-sharp", scale=1, min_width=150, interactive=True)
        self.memory.render()

    def _add_settings(self) -> None:
        usual, levels = SessionSettings(), self.sessions.model.config.memory_config.capacities
        most, name = self.limits.max_new_tokens, self.sessions.model_name
        with gr.Accordion("Settings", open=False):
            with gr.Row():
                first = [
                    gr.Slider(0.5, self.limits.max_fps, value=usual.fps, step=0.5, label="Frames a second"),
                    gr.Textbox("/".join(map(str, levels)), label="Frames each level holds, finest first"),
                    gr.Dropdown(list(MEMORY_POLICIES), value=usual.policy, label="What leaves a full memory"),
                    gr.Checkbox(usual.cascade, label="Displaced frames go further down (cascade)"),
                ]
            with gr.Row():
                gr.Dropdown([name], value=name, label="Model", interactive=False)
                tokens = gr.Slider(1, most, value=min(most, USUAL_NEW_TOKENS), step=1, label="Longest answer, tokens")
                prompt = gr.Textbox(label="System prompt (empty: the model's own)", lines=2)
            button = gr.Button("Apply (the stream restarts)")
        self._on(button.click, self.change, [*first, prompt, tokens], enters=True)

    def change(
        self, visit: Visit, fps: float, levels: str, policy: str, cascade: bool, prompt: str, tokens: int
    ) -> Changes:
        visit.change(SessionSettings(fps, parse_levels(levels), policy, cascade, prompt.strip() or None, tokens))
        return self._begun(visit)

    # ---- what the parts show ----------------------------------------------------------------------------------------

    def _begun(self, visit: Visit) -> Changes:
        """All parts, for a stream that has just begun."""
        state = visit.session.state() if visit.session else {"duration": None, "speed": None}
        seek = gr.update(maximum=round(state["duration"] or 1, 1), value=0, visible=bool(state["duration"]))
        speed = gr.update(value=1.0, interactive=bool(state["speed"]))
        return {self.seek: seek, self.speed: speed, **self._all(visit, NOW)}

    def _all(self, visit: Visit, at: int | None) -> Changes:
        session = visit.session
        state, turns = (None, []) if session is None else (session.state(), session.track.turns)
        return {self.screen: screen_html(state), **self._dialogue(turns, at), **self._live(visit, at)}

    def _dialogue(self, turns: Sequence[DialogueTurn], at: int | None = NOW) -> Changes:
        """Chat, and the moments of which the memory can be shown: now, and each question's second."""
        asked = [(f"{stamp(turn.timestamp)} {turn.question[:24]}", turn.number) for turn in reversed(turns)]
        value = at if any(turn.number == at for turn in turns) else NOW
        return {
            self.chat: chat_messages(turns),
            self.moments: gr.update(choices=[("now", NOW), *asked], value=value),
        }

    def _live(self, visit: Visit, at: int | None) -> Changes:
        """What changes while a stream runs; the memory as it was at question number `at`."""
        session = visit.session
        state, turns = (None, []) if session is None else (session.state(), session.track.turns)
        problem = state["problem"] if state else ENDED if visit.has_ended else None
        buttons = zip(self.transport, possible(state), strict=True)
        return {
            self.status: status_html(state),
            self.notice: notice_html(problem),
            self.memory: memory_html(state, turns, next((turn for turn in turns if turn.number == at), None)),
            self.counters: counters_html(state),
            self.links: links_html(state),
            **{button: gr.update(interactive=can) for button, can in buttons},
        }
