"""What happens when a visitor does something on the page: from gradio's events to a visit and back to its components.

gradio is optional and imported inside the functions; annotations are evaluated, for gradio looks for gr.Request there.
"""

import base64
import functools
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..config import MEMORY_POLICIES
from ..media.source import MediaError
from ..serve.limits import Limits
from ..serve.settings import SessionSettings
from ..serve.sources import Opened, open_network, open_sample, open_world
from ..serve.track import Moment
from ..serve.upload import picture_of
from .memory_view import counters_html, links_html, memory_html, notice_html, screen_html, stamp, status_html
from .visits import Visits, parse_levels

NOW = -1
"""The memory view's choice that follows the stream; questions are numbered from 0."""
ENDED = "Your session was not used for a while and has ended. Start it again."
Chat = list[dict[str, Any]]


def told(call: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake or a limit becomes a notice and leaves the page as it is; all else is a bug and goes to the log."""

    @functools.wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (ValueError, ImportError) as error:
            return notice(error)

    return run


def notice(error: Exception) -> Any:
    """Tell the visitor; gives what leaves every part of the page as it is. An error would stand over all of them."""
    import gradio as gr

    gr.Warning(escape(str(error), quote=False), duration=10)
    return gr.skip()


def possible(state: dict[str, Any] | None) -> tuple[bool, bool, bool]:
    """Whether Play, Pause and Stop can do something now."""
    now = state["state"] if state else "none"
    is_paced = state is not None and state["speed"] is not None
    return now in ("paused", "over"), is_paced and now in ("waiting", "playing"), now not in ("none", "over")


def chat_messages(moments: list[Moment]) -> Chat:
    """The dialogue as gradio's chat shows it, two messages a question. Words are words: no HTML in them is."""
    messages = []
    for moment in moments:
        answer = moment.answer or ("(no words)" if moment.is_done else "…")
        question = f"`{stamp(moment.timestamp)}` {escape(moment.question, quote=False)}"
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": escape(answer, quote=False)},
        ]
    return messages


def picture_sent(sent: dict[str, Any]) -> np.ndarray:
    """uint8 (H, W, 3). ValueError where it is no picture, or too large a one: gradio itself would decode any."""
    address, path = sent.get("url") or "", sent.get("path")
    if address.startswith("data:"):
        return picture_of(base64.b64decode(address.partition(",")[2]), "the camera's picture")
    if path is None:
        raise MediaError("the camera sent no picture")
    return picture_of(Path(path).read_bytes(), "the camera's picture")


class Actions:
    """One object for all pages; a page is known by gradio's session hash."""

    def __init__(self, visits: Visits, limits: Limits) -> None:
        self.visits, self.limits = visits, limits

    # ---- what to watch ----------------------------------------------------------------------------------------------

    def begin(self, visitor: str, opened: Opened) -> tuple[Any, ...]:
        return self._begun(visitor, self.visits.start(visitor, opened).state())

    def begin_upload(self, visitor: str, file: dict[str, Any] | None) -> tuple[Any, ...]:
        """`file`: gradio's description of what was sent."""
        if file is None:
            raise MediaError("choose a video file first")
        name = Path(file["orig_name"] or file["path"]).name
        return self._begun(visitor, self.visits.start_upload(visitor, file["path"], name).state())

    def begin_sample(self, visitor: str, name: str) -> tuple[Any, ...]:
        return self.begin(visitor, open_sample(name, self.limits))

    def begin_world(self, visitor: str, seed: float | None, level: float) -> tuple[Any, ...]:
        return self.begin(visitor, open_world(int(seed or 0), int(level)))

    def begin_address(self, visitor: str, address: str) -> tuple[Any, ...]:
        return self.begin(visitor, open_network(address, self.limits))

    def _begun(self, visitor: str, state: dict[str, Any] | None) -> tuple[Any, ...]:
        """Values for: seek slider, speed, screen, chat, moments, and the parts that tick."""
        import gradio as gr

        duration = state and state["duration"]
        seek = gr.update(maximum=round(duration, 1) if duration else 1, value=0, visible=bool(duration))
        speed = gr.update(value=1.0, interactive=bool(state and state["speed"]))
        return (seek, speed, screen_html(state), [], _choices([]), *self.tick(visitor, NOW))

    def camera_frame(self, visitor: str, sent: dict[str, Any] | None) -> tuple[Any, ...] | None:
        """A frame of the browser's camera; as `_begun` where it begins a stream, None where it only goes on.

        `sent`: gradio's description of it, which holds its bytes, or an upload of this page (see door.py).
        """
        session = None if sent is None else self.visits.camera_frame(visitor, picture_sent(sent))
        return None if session is None else self._begun(visitor, session.state())

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def control(self, visitor: str, action: str, shown: int, value: float | None = None) -> tuple[Any, ...]:
        """Values for: screen, chat, moments, and the parts that tick."""
        session = self.visits.running(visitor)
        if action == "seek":
            session.seek(float(value or 0.0))
        elif action == "speed":
            session.set_speed(float(value or 1.0))
        else:
            {"play": session.play, "pause": session.pause, "stop": session.stop}[action]()
        moments = list(session.track.moments)
        chat, choices = chat_messages(moments), _choices(moments, shown)
        return (screen_html(session.state()), chat, choices, *self.tick(visitor, shown))

    def tick(self, visitor: str, shown: int) -> tuple[Any, ...]:
        """Values for: status, notice, memory, counters, links, play, pause, stop."""
        import gradio as gr

        state, moments, moment = self.visits.view(visitor, shown)
        problem = state["problem"] if state else ENDED if self.visits.has_ended(visitor) else None
        return (
            status_html(state),
            notice_html(problem),
            memory_html(state, moments, moment),
            counters_html(state),
            links_html(state),
            *(gr.update(interactive=can) for can in possible(state)),
        )

    def ask(self, visitor: str, question: str) -> Iterator[tuple[Any, ...]]:
        """Values for: question box, chat, moments - again with each piece of the answer."""
        session = self.visits.running(visitor)
        _, pieces = session.ask(question.strip())
        asked = session.track.moments
        choices = _choices(list(asked))
        yield "", chat_messages(list(asked)), choices
        for _ in pieces:
            yield "", chat_messages(list(asked)), choices
        yield "", chat_messages(list(asked)), choices

    def moment_of_message(self, visitor: str, index: int) -> int:
        """The number of the question that a click on message `index` of the chat means."""
        moments = list(self.visits.running(visitor).track.moments)
        return moments[index // 2].number if index // 2 < len(moments) else NOW

    # ---- settings ---------------------------------------------------------------------------------------------------

    def change(
        self, visitor: str, fps: float, levels: str, policy: str, cascade: bool, prompt: str, most: float
    ) -> tuple[Any, ...]:
        """As `_begun`: a stream that runs starts anew."""
        if policy not in MEMORY_POLICIES:
            raise ValueError(f"unknown policy {policy!r}")
        settings = SessionSettings(fps, parse_levels(levels), policy, cascade, prompt.strip() or None, int(most))
        self.visits.change(visitor, settings)
        return self._begun(visitor, self.visits.view(visitor)[0])


def _choices(moments: list[Moment], shown: int = NOW) -> Any:
    """The memory view's choices: now, and each question's second."""
    import gradio as gr

    asked = [(f"{stamp(moment.timestamp)} {moment.question[:24]}", moment.number) for moment in reversed(moments)]
    value = shown if any(moment.number == shown for moment in moments) else NOW
    return gr.update(choices=[("now", NOW), *asked], value=value)
