"""What happens when a visitor does something on the page: from gradio's events to a visit and back to its components.

gradio is optional and imported inside the functions; annotations are evaluated, for gradio looks for gr.Request there.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..config import MEMORY_POLICIES
from ..media.source import MediaError
from ..serve.limits import Limits
from ..serve.settings import SessionSettings
from ..serve.sources import Opened, open_network, open_push, open_sample, open_world
from ..serve.track import Moment
from .memory_view import counters_html, links_html, memory_html, screen_html, stamp, status_html
from .visits import Visits, parse_levels

NOW = -1
"""The memory view's choice that follows the stream; questions are numbered from 0."""
ENDED = '<p class="vco-problem" role="alert">Your session was not used for a while and has ended. Start it again.</p>'
Chat = list[dict[str, Any]]


def told(call: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake or a limit becomes a message on the visitor's page; anything else is a bug and goes to the log."""
    import gradio as gr

    @functools.wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (ValueError, ImportError) as error:
            raise gr.Error(str(error), duration=10, print_exception=False) from error

    return run


def question_message(moment: Moment) -> dict[str, Any]:
    return {"role": "user", "content": f"`{stamp(moment.timestamp)}` {moment.question}"}


class Actions:
    """One object for all pages; a page is known by gradio's session hash."""

    def __init__(self, visits: Visits, limits: Limits) -> None:
        self.visits, self.limits = visits, limits

    # ---- what to watch ----------------------------------------------------------------------------------------------

    def begin(self, visitor: str, opened: Opened) -> tuple[Any, ...]:
        return self._begun(visitor, self.visits.start(visitor, opened).state())

    def begin_upload(self, visitor: str, path: str | None) -> tuple[Any, ...]:
        if path is None:
            raise MediaError("choose a video file first")
        return self._begun(visitor, self.visits.start_upload(visitor, path, Path(path).name).state())

    def begin_sample(self, visitor: str, name: str) -> tuple[Any, ...]:
        return self.begin(visitor, open_sample(name, self.limits))

    def begin_world(self, visitor: str, seed: float | None, level: float) -> tuple[Any, ...]:
        return self.begin(visitor, open_world(int(seed or 0), int(level)))

    def begin_address(self, visitor: str, address: str) -> tuple[Any, ...]:
        return self.begin(visitor, open_network(address, self.limits))

    def _begun(self, visitor: str, state: dict[str, Any]) -> tuple[Any, ...]:
        """Values for: screen, chat, moments, seek slider, upload, and the parts that tick."""
        import gradio as gr

        duration = state["duration"]
        seek = gr.update(maximum=round(duration, 1) if duration else 1, value=0, visible=bool(duration))
        return (screen_html(state), [], _choices([]), seek, None, *self.tick(visitor, NOW))

    def camera_frame(self, visitor: str, image: Any) -> Any:
        """A frame of the browser's camera; the first one makes it the stream. Gives the screen, when it changes."""
        import gradio as gr

        if image is None:
            return gr.skip()
        session = self.visits.session(visitor)
        if session is None or not session.watches_pushes:
            session = self.visits.start(visitor, open_push())
            session.push(image)
            return screen_html(session.state())
        session.push(image)
        return gr.skip()

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def control(self, visitor: str, action: str, value: float | None = None) -> tuple[Any, ...]:
        session = self.visits.running(visitor)
        if action == "seek":
            session.seek(float(value or 0.0))
        elif action == "speed":
            session.set_speed(float(value or 1.0))
        else:
            {"play": session.play, "pause": session.pause, "stop": session.stop}[action]()
        return self.tick(visitor, NOW)

    def tick(self, visitor: str, shown: int) -> tuple[Any, ...]:
        """Values for: status, memory, counters, links."""
        state, moments, moment = self.visits.view(visitor, shown)
        status = ENDED if state is None and self.visits.has_ended(visitor) else status_html(state)
        return status, memory_html(state, moments, moment), counters_html(state), links_html(state)

    def ask(self, visitor: str, question: str, chat: Chat) -> Iterator[tuple[Any, ...]]:
        """Values for: question box, chat, moments - again with each piece of the answer."""
        session = self.visits.running(visitor)
        moment, pieces = session.ask(question.strip())
        choices = _choices(list(session.track.moments))
        chat = [*chat, question_message(moment)]
        yield "", [*chat, {"role": "assistant", "content": "…"}], choices
        for _ in pieces:
            yield "", [*chat, {"role": "assistant", "content": moment.answer}], choices
        yield "", [*chat, {"role": "assistant", "content": moment.answer or "(no words)"}], choices

    def moment_of_message(self, visitor: str, index: int, chat: Chat) -> int:
        """The number of the question that a click on message `index` means."""
        moments = list(self.visits.running(visitor).track.moments)
        asked = [k for k, message in enumerate(chat) if message["role"] == "user"]
        behind = sum(k > index for k in asked)  # questions after the one that was clicked, or whose answer was
        return moments[-1 - behind].number if behind < len(moments) else NOW

    # ---- settings ----------------------------------------------------------------------------------------

    def change(
        self, visitor: str, fps: float, levels: str, policy: str, cascade: bool, prompt: str, most: float
    ) -> tuple[Any, ...]:
        if policy not in MEMORY_POLICIES:
            raise ValueError(f"unknown policy {policy!r}")
        settings = SessionSettings(fps, parse_levels(levels), policy, cascade, prompt.strip() or None, int(most))
        self.visits.change(visitor, settings)
        state, _, _ = self.visits.view(visitor)
        return (screen_html(state), [], _choices([]), *self.tick(visitor, NOW))


def _choices(moments: list[Moment]) -> Any:
    """The memory view's choices: now, and each question's second."""
    import gradio as gr

    asked = [(f"{stamp(moment.timestamp)} {moment.question[:24]}", moment.number) for moment in moments]
    return gr.update(choices=[("now", NOW), *asked], value=NOW)
