"""The page itself: which parts it has, where they stand, and which action each of them calls.

gradio is optional and imported inside the functions; annotations are evaluated, for gradio looks for gr.Request there.
"""

import os
import tempfile
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..config import MEMORY_POLICIES
from ..serve.live_session import USUAL_NEW_TOKENS
from ..serve.sessions import Sessions
from ..serve.settings import SessionSettings
from ..serve.sources import SAMPLES
from .actions import NOW, Actions, told
from .memory_view import counters_html, memory_html, screen_html, status_html
from .style import CSS
from .visits import Visits

TICK_SECONDS = 0.7
CAMERA_SECONDS = 0.25
EXAMPLES = (
    "What is happening now?",
    "How many objects are on the screen?",
    "Where is the object now?",
    "What happened before that?",
    "What may happen next?",
)


def add_page(app: Any, sessions: Sessions) -> Any:
    """Mount the page at / of the server's application."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs gradio: pip install 'videochat-online[demo]'") from error
    page = build_page(sessions)
    return gr.mount_gradio_app(
        app, page, path="/", max_file_size=sessions.limits.max_upload_bytes, theme=_theme(), css=CSS, show_error=True,
        footer_links=[],
    )  # fmt: skip


def _theme() -> Any:
    import gradio as gr

    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", radius_size="lg", **fonts)


def build_page(sessions: Sessions) -> Any:
    """1. the parts 2. what they do."""
    import gradio as gr

    uploads = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    actions = Actions(Visits(sessions, upload_folder=uploads), sessions.limits)
    with gr.Blocks(title="videochat-online", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        parts = SimpleNamespace()
        gr.HTML(_title(sessions))
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                _add_stream(parts, sessions)
            with gr.Column(scale=5, min_width=320):
                _add_chat(parts)
        parts.counters = gr.HTML(counters_html(None))
        _add_memory(parts)
        _add_settings(parts, sessions)
        parts.timer = gr.Timer(TICK_SECONDS)
        _connect_stream(parts, actions)
        _connect_chat(parts, actions)
        _connect_rest(parts, actions)

        def leave(request: gr.Request) -> None:
            actions.visits.leave(str(request.session_hash))

        page.unload(leave)
    page.queue(default_concurrency_limit=sessions.limits.max_sessions)
    return page


def _title(sessions: Sessions) -> str:
    note = sessions.model.config.note
    name = escape(sessions.model_name)
    told_note = f'<p class="vco-note" role="note"><b>{name}:</b> {escape(note)}</p>' if note else ""
    return (
        '<header><div class="vco-title"><h1>videochat-online</h1><p>Watch a stream, ask at any moment, see what the '
        f"model remembers. Model: <b>{name}</b></p></div>{told_note}</header>"
    )


def _add_stream(parts: SimpleNamespace, sessions: Sessions) -> None:
    import gradio as gr

    parts.screen = gr.HTML(screen_html(None), elem_id="vco-screen")
    parts.status = gr.HTML(status_html(None), elem_id="vco-status")
    with gr.Row(elem_classes="vco-transport"):
        parts.play = gr.Button("Play", size="sm")
        parts.pause = gr.Button("Pause", size="sm")
        parts.stop = gr.Button("Stop", size="sm")
        parts.speed = gr.Dropdown(
            [("0.5x", 0.5), ("1x", 1.0), ("2x", 2.0), ("4x", 4.0)], value=1.0, label="Speed", min_width=80
        )
    parts.seek = gr.Slider(0, 1, value=0, step=0.1, label="Go to second (back: memory starts anew)", visible=False)
    with gr.Tabs():
        with gr.Tab("Sample"):
            parts.sample = gr.Dropdown(list(SAMPLES), value=next(iter(SAMPLES)), label="A clip that ships")
            parts.start_sample = gr.Button("Watch the sample", variant="primary")
        with gr.Tab("Live world"):
            with gr.Row():
                parts.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
                parts.level = gr.Slider(1, 4, value=2, step=1, label="Difficulty", min_width=120)
            parts.start_world = gr.Button("Watch a generated world", variant="primary")
        with gr.Tab("Upload"):
            mebibytes = sessions.limits.max_upload_bytes // 2**20
            parts.upload = gr.File(
                label=f"A video, at most {mebibytes} MiB and {sessions.limits.max_video_seconds / 60:.0f} minutes",
                file_types=["video", ".gif", ".mkv"], type="filepath", height=120, elem_id="vco-upload",
            )  # fmt: skip
        with gr.Tab("Camera"):
            parts.camera = gr.Image(
                sources=["webcam"], streaming=True, type="numpy", label="Your camera", height=220, elem_id="vco-camera"
            )
        with gr.Tab("Address"):
            parts.address = gr.Textbox(label="RTSP, HTTP, HLS or UDP address", placeholder="rtsp://camera.example/live")
            parts.start_address = gr.Button("Connect", variant="primary")
            if not sessions.limits.allow_urls:
                gr.Markdown("Addresses are switched off on this server; its operator can allow them (`--allow-urls`).")


def _add_chat(parts: SimpleNamespace) -> None:
    import gradio as gr

    parts.chat = gr.Chatbot(
        label="Dialogue", show_label=False, height=430, elem_id="vco-chat", feedback_options=None, buttons=["copy_all"],
        placeholder="Start a stream, then ask about it.\n\nA click on a question shows what was in memory then.",
    )  # fmt: skip
    with gr.Row():
        parts.question = gr.Textbox(
            label="Question", placeholder="What is happening now?", scale=5, min_width=180, max_length=4000
        )
        parts.ask = gr.Button("Ask", variant="primary", scale=1, min_width=80, elem_id="vco-ask")
    with gr.Row(elem_id="vco-examples"):
        parts.examples = [gr.Button(text, size="sm") for text in EXAMPLES]
    parts.links = gr.HTML("")


def _add_memory(parts: SimpleNamespace) -> None:
    import gradio as gr

    gr.HTML("<h2>Memory</h2><p class='vco-hint'>Each picture is a frame the model still holds; each cell in it is one "
            "token. When a level is full, the older of the two most similar neighbours goes down a level, or is "
            "forgotten.</p>")  # fmt: skip
    parts.moments = gr.Radio([("now", NOW)], value=NOW, label="Memory at", elem_id="vco-moments")
    parts.memory = gr.HTML(memory_html(None), elem_id="vco-memory")


def _add_settings(parts: SimpleNamespace, sessions: Sessions) -> None:
    import gradio as gr

    usual, levels = SessionSettings(), sessions.model.config.memory_config.capacities
    with gr.Accordion("Settings", open=False):
        with gr.Row():
            parts.fps = gr.Slider(0.5, sessions.limits.max_fps, value=usual.fps, step=0.5, label="Frames a second")
            parts.levels = gr.Textbox("/".join(map(str, levels)), label="Frames each level holds, finest first")
            parts.policy = gr.Dropdown(list(MEMORY_POLICIES), value=usual.policy, label="What leaves a full memory")
            parts.cascade = gr.Checkbox(usual.cascade, label="Displaced frames go further down (cascade)")
        with gr.Row():
            gr.Dropdown([sessions.model_name], value=sessions.model_name, label="Model", interactive=False)
            most = sessions.limits.max_new_tokens
            parts.most = gr.Slider(8, most, value=min(most, USUAL_NEW_TOKENS), step=8, label="Longest answer, tokens")
            parts.prompt = gr.Textbox(label="System prompt (empty: the model's own)", lines=2)
        parts.apply = gr.Button("Apply (the stream starts anew)")


def _connect_stream(parts: SimpleNamespace, actions: Actions) -> None:
    import gradio as gr

    live = [parts.status, parts.memory, parts.counters, parts.links]
    begun = [parts.screen, parts.chat, parts.moments, parts.seek, parts.upload, *live]

    def sample(name: str, request: gr.Request) -> Any:
        return actions.begin_sample(str(request.session_hash), name)

    def world(seed: float, level: float, request: gr.Request) -> Any:
        return actions.begin_world(str(request.session_hash), seed, level)

    def address(text: str, request: gr.Request) -> Any:
        return actions.begin_address(str(request.session_hash), text)

    def upload(path: str, request: gr.Request) -> Any:
        return actions.begin_upload(str(request.session_hash), path)

    def camera(image: Any, request: gr.Request) -> Any:
        return actions.camera_frame(str(request.session_hash), image)

    def control(action: str) -> Any:
        def run(request: gr.Request, value: float | None = None) -> Any:
            return actions.control(str(request.session_hash), action, value)

        return told(run)

    def control_with_value(action: str) -> Any:
        def run(value: float, request: gr.Request) -> Any:
            return actions.control(str(request.session_hash), action, value)

        return told(run)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    parts.start_sample.click(told(sample), parts.sample, begun, **quiet)
    parts.start_world.click(told(world), [parts.seed, parts.level], begun, **quiet)
    gr.on([parts.start_address.click, parts.address.submit], told(address), parts.address, begun, **quiet)
    parts.upload.upload(told(upload), parts.upload, begun, **quiet)
    parts.camera.stream(told(camera), parts.camera, parts.screen, stream_every=CAMERA_SECONDS, **quiet)
    for name in ("play", "pause", "stop"):
        getattr(parts, name).click(control(name), None, live, **quiet)
    parts.seek.release(control_with_value("seek"), parts.seek, live, **quiet)
    parts.speed.input(control_with_value("speed"), parts.speed, live, **quiet)


def _connect_chat(parts: SimpleNamespace, actions: Actions) -> None:
    import gradio as gr

    outputs = [parts.question, parts.chat, parts.moments]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def ask(question: str, chat: list[dict[str, Any]], request: gr.Request) -> Any:
        try:
            yield from actions.ask(str(request.session_hash), question, chat)
        except ValueError as error:
            raise gr.Error(str(error), duration=10, print_exception=False) from error

    def chosen(chat: list[dict[str, Any]], request: gr.Request, event: gr.SelectData) -> Any:
        index = event.index if isinstance(event.index, int) else event.index[0]
        return actions.moment_of_message(str(request.session_hash), index, chat)

    gr.on([parts.ask.click, parts.question.submit], ask, [parts.question, parts.chat], outputs, **quiet)
    for button, text in zip(parts.examples, EXAMPLES, strict=True):
        button.click(lambda text=text: text, None, parts.question, **quiet).then(
            ask, [parts.question, parts.chat], outputs, **quiet
        )
    parts.chat.select(told(chosen), parts.chat, parts.moments, **quiet)


def _connect_rest(parts: SimpleNamespace, actions: Actions) -> None:
    import gradio as gr

    live = [parts.status, parts.memory, parts.counters, parts.links]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def tick(shown: int, request: gr.Request) -> Any:
        return actions.tick(str(request.session_hash), shown)

    def change(
        fps: float, levels: str, policy: str, cascade: bool, prompt: str, most: float, request: gr.Request
    ) -> Any:
        return actions.change(str(request.session_hash), fps, levels, policy, cascade, prompt, most)

    gr.on([parts.timer.tick, parts.moments.change], tick, parts.moments, live, queue=False, **quiet)
    settings = [parts.fps, parts.levels, parts.policy, parts.cascade, parts.prompt, parts.most]
    parts.apply.click(told(change), settings, [parts.screen, parts.chat, parts.moments, *live], **quiet)
