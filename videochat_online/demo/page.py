"""The page itself: its parts and where they stand. events.py says what each of them does, page.css how it looks.

gradio is optional and imported inside the functions.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..config import MEMORY_POLICIES
from ..extras import require
from ..serve.limits import SessionSettings
from ..serve.live_session import USUAL_NEW_TOKENS
from ..serve.sessions import Sessions
from ..serve.sources import SAMPLES
from .door import Door
from .events import NOW, connect
from .memory_view import counters_html, memory_html, screen_html, status_html
from .visits import Visits

CSS = Path(__file__).with_name("page.css")
TICK_SECONDS = 0.7
BARE: dict[str, Any] = {"show_label": False, "container": False}
"""For inputs that need no label but a screen reader's."""
EXAMPLES = (
    "What is happening now?",
    "How many objects are on the screen?",
    "Where is the object now?",
    "What happened before that?",
    "What may happen next?",
)


def add_page(app: Any, sessions: Sessions) -> Any:
    """Mount the page at / of the server's application."""
    require("gradio")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = str(sessions.files.uploads)  # the only way to say where gradio keeps uploads
    import gradio as gr

    page = build_page(sessions)
    app = gr.mount_gradio_app(
        app, page, path="/", max_file_size=sessions.limits.max_upload_bytes, theme=_theme(), css_paths=CSS,
        show_error=True, footer_links=[], run_history=False,
    )  # fmt: skip
    mounted = app.routes[-1]
    limits = sessions.limits
    mounted.app = Door(
        mounted.app, uploads=page.upload_file_set, most_bytes=2 * limits.max_image_bytes,
        most_upload_bytes=limits.max_upload_bytes,
    )  # fmt: skip
    return app


def _theme() -> Any:
    import gradio as gr

    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", radius_size="lg", **fonts)
    return theme.set(  # a shade darker than usual: enough contrast to be read by everybody
        body_text_color_subdued="*neutral_500",
        block_label_text_color="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def build_page(sessions: Sessions) -> Any:
    """The page as gradio's Blocks, not mounted yet."""
    import gradio as gr

    with gr.Blocks(title="videochat-online", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        # 1. the parts
        parts = SimpleNamespace(page=page)
        gr.HTML(_title(sessions))
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                gr.HTML("<h2><b>1</b> Watch</h2>")
                _add_sources(parts, sessions)
                _add_screen(parts)
            with gr.Column(scale=5, min_width=320):
                gr.HTML("<h2><b>2</b> Ask, at any moment</h2>")
                _add_chat(parts, sessions)
        _add_memory(parts)
        _add_settings(parts, sessions)
        parts.timer = gr.Timer(TICK_SECONDS)
        # 2. what they do
        connect(parts, Visits(sessions))
    page.queue(default_concurrency_limit=sessions.limits.max_sessions, api_open=False)
    return page


def _title(sessions: Sessions) -> str:
    note = sessions.model.config.note
    name = escape(sessions.model_name)
    note_html = f'<p class="vco-note" role="note"><b>{name}:</b> {escape(note)}</p>' if note else ""
    return (
        '<header><div class="vco-title"><h1>videochat-online</h1><p>A model watches a stream and remembers a fixed '
        f"number of frames. Ask it about past and present while it runs. Model: <b>{name}</b></p></div>"
        f"{note_html}</header>"
    )


def _add_sources(parts: SimpleNamespace, sessions: Sessions) -> None:
    import gradio as gr

    limits = sessions.limits
    with gr.Tabs(elem_id="vco-sources"):
        with gr.Tab("Sample"), gr.Row(equal_height=True):
            parts.sample = gr.Dropdown(
                list(SAMPLES), value=next(iter(SAMPLES)), label="A clip that ships", scale=3, min_width=120, **BARE
            )
            parts.start_sample = gr.Button("Watch the sample", variant="primary", scale=2, min_width=140)
        with gr.Tab("World"), gr.Row(equal_height=True):
            parts.seed = gr.Number(0, label="Seed", precision=0, scale=1, min_width=70)
            parts.level = gr.Dropdown([1, 2, 3, 4], value=2, label="Difficulty", scale=1, min_width=90)
            parts.start_world = gr.Button("Watch a generated world", variant="primary", scale=2, min_width=140)
        with gr.Tab("Upload"):
            size, minutes = limits.max_upload_bytes // 2**20, limits.max_video_seconds / 60
            parts.upload = gr.File(
                label=f"A video, at most {size} MiB and {minutes:g} minutes",
                file_types=["video", ".gif", ".mkv"], type="filepath", height=110, elem_id="vco-upload",
            )  # fmt: skip
        with gr.Tab("Camera"):
            parts.camera = gr.Image(
                sources=["webcam"], streaming=True, type="numpy", label="Your camera", height=200, elem_id="vco-camera"
            )
        with gr.Tab("Address"):
            with gr.Row(equal_height=True):
                parts.address = gr.Textbox(
                    label="RTSP, HTTP, HLS or UDP address", placeholder="rtsp://camera.example/live", scale=3,
                    min_width=160, interactive=limits.allow_urls,
                )  # fmt: skip
                parts.start_address = gr.Button(
                    "Connect", variant="primary", scale=1, min_width=90, interactive=limits.allow_urls
                )
            if not limits.allow_urls:
                gr.Markdown("Addresses are switched off on this server; its operator can allow them (`--allow-urls`).")


def _add_screen(parts: SimpleNamespace) -> None:
    import gradio as gr

    parts.screen = gr.HTML(screen_html(None), elem_id="vco-screen")
    parts.status = gr.HTML(status_html(None), elem_id="vco-status")
    parts.notice = gr.HTML("", elem_id="vco-notice")
    with gr.Row(elem_classes="vco-transport", equal_height=True):
        for name in ("play", "pause", "stop"):
            button = gr.Button(name.title(), size="sm", elem_id=f"vco-{name}", min_width=60, interactive=False)
            setattr(parts, name, button)
        speeds = [("0.5x", 0.5), ("1x", 1.0), ("2x", 2.0), ("4x", 4.0)]
        parts.speed = gr.Dropdown(speeds, value=1.0, label="Speed", min_width=70, interactive=False, **BARE)
    parts.seek = gr.Slider(0, 1, value=0, step=0.1, label="Go to second (back: memory starts empty)", visible=False)


def _add_chat(parts: SimpleNamespace, sessions: Sessions) -> None:
    import gradio as gr

    parts.chat = gr.Chatbot(
        label="Dialogue", show_label=False, height=408, elem_id="vco-chat", feedback_options=None, buttons=["copy_all"],
        placeholder="Start a stream, then ask about it.\n\nA click on a question shows what was in memory then.",
    )  # fmt: skip
    with gr.Row(equal_height=True, elem_id="vco-asking"):
        most = sessions.limits.max_question_chars
        parts.question = gr.Textbox(
            label="Question", placeholder="What is happening now?", scale=5, min_width=180, max_length=most, **BARE
        )
        parts.ask = gr.Button(
            "Ask", variant="primary", scale=1, min_width=70, elem_id="vco-ask", interactive=False
        )  # fmt: skip
    with gr.Row(elem_id="vco-examples"):
        parts.examples = [gr.Button(text, size="sm") for text in EXAMPLES]
    parts.links = gr.HTML("", elem_id="vco-links")


def _add_memory(parts: SimpleNamespace) -> None:
    import gradio as gr

    gr.HTML("<h2><b>3</b> What the model remembers</h2><p class='vco-hint'>Each picture is a frame it still holds, as "
            "coarse as it holds it: one cell is one token. When a level is full, the older of its two most similar "
            "neighbours goes down a level, or is forgotten.</p>")  # fmt: skip
    parts.counters = gr.HTML(counters_html(None))
    with gr.Row(equal_height=True, elem_id="vco-look"):
        parts.moments = gr.Radio([("now", NOW)], value=NOW, label="Memory at", elem_id="vco-moments", scale=5)
        gr.Checkbox(False, label="Sharp pictures", elem_id="vco-sharp", scale=1, min_width=150, interactive=True)
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
            parts.most = gr.Slider(1, most, value=min(most, USUAL_NEW_TOKENS), step=1, label="Longest answer, tokens")
            parts.prompt = gr.Textbox(label="System prompt (empty: the model's own)", lines=2)
        parts.apply = gr.Button("Apply (the stream restarts)")
