"""What the API takes and gives: the names and meanings of its json, checked where a value is made."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Problem:
    """What went wrong."""

    error: str


@dataclass
class NewSession:
    """Settings of a session; what is left out is the model's or the server's choice."""

    fps: float = 2.0
    capacities: list[int] | None = None
    policy: str = "pyramid"
    cascade: bool = False
    system_prompt: str | None = None
    max_new_tokens: int | None = None
    timestamps: bool = True


@dataclass
class SourceRequest:
    """What to watch. `sample`: name; `shapeworld`: seed, level; `url`: address; `camera`: number; `push`: nothing."""

    kind: Literal["sample", "shapeworld", "url", "camera", "push"]
    name: str = "shapes"
    seed: int = 0
    level: int = 2
    address: str = ""
    number: int = 0


@dataclass
class ControlRequest:
    """`seek` takes seconds, `speed` takes a factor as value."""

    action: Literal["play", "pause", "stop", "seek", "speed"]
    value: float | None = None


@dataclass
class Question:
    question: str
    max_new_tokens: int | None = None
    stream: bool = True
    """Server-sent events piece, done, error; otherwise one json document."""


@dataclass
class AnswerDocument:
    question: str
    answer: str
    timestamp: float
    """Seconds of stream time at which it was asked."""
    stats: dict[str, Any]


@dataclass
class SeenFrame:
    number: int
    timestamp: float


@dataclass
class ChatMessage:
    role: Literal["system", "user", "assistant"]
    content: str | list[dict[str, Any]]

    def text(self) -> str:
        """The message's words; ValueError for parts that are not text: pictures come through the session."""
        if isinstance(self.content, str):
            return self.content
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
            raise ValueError("only text parts are taken in messages; push frames to the session instead")
        return "\n".join(part["text"] for part in self.content)


@dataclass
class ChatRequest:
    """OpenAI's chat completion, about the stream of one session: named in `session`, or in the X-Session header.

    The last message is the question. The session remembers the dialogue itself, so earlier messages are not read.
    """

    model: str
    messages: list[ChatMessage] = field(default_factory=list)
    session: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None

    def question(self) -> str:
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's: it is the question")
        if any(message.role == "system" for message in self.messages):
            raise ValueError("a session's system prompt is set when the session is made, not by a message")
        return self.messages[-1].text()
