"""A model behind an OpenAI-compatible address, shown the newest frames as pictures of a message.

POST ADDRESS/chat/completions, pictures as data URIs. What fails for a moment (408, 409, 429, 5xx, a connection) is
tried again; what the server refuses for good is said. Such models have no memory of ours and tell no probabilities.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..files import write_json
from ..media.addresses import Address, without_secrets
from ..media.source import MediaError
from ..prompt.messages import frame_line

RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
SPENT = "insufficient_quota"
"""Code of a 429 that is about money: no waiting helps."""
NOT_THIS_ONE = frozenset({400, 413, 422})
"""Statuses that are about one request: its question counts as not asked, the next ones are asked."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before a request is sent again; doubled each time, or as the server says."""
OTHER_NAMES: dict[str, dict[str, Any]] = {"max_tokens": {"max_completion_tokens": "max_tokens"}, "temperature": {}}
"""Options that some servers know otherwise, or not at all: what stands for each (name -> of the option)."""
USAGE_FILE = "endpoint.json"
NO_LIKELIHOOD = "--answer likelihood needs a model's probabilities, which an endpoint does not give"


class RecentFrames(ABC):
    """What a model without memory is shown: the newest frames, then the dialogue, as chat messages."""

    def __init__(self, responder: Any, system_prompt: str | None) -> None:
        self.responder, self.max_frames, self.system_prompt = responder, responder.max_frames, system_prompt
        self.frames: list[tuple[int, float, np.ndarray]] = []
        self.num_seen = 0
        self.turns: list[tuple[str, str]] = []

    def see(self, frames: Sequence[np.ndarray], timestamps: Sequence[float]) -> None:
        numbers = range(self.num_seen, self.num_seen + len(frames))
        self.num_seen += len(frames)
        self.frames += zip(numbers, timestamps, frames, strict=True)
        del self.frames[: -self.max_frames]

    def ask(self, prompt: str, *, max_new_tokens: int, keep: bool) -> str:
        text = self.answer(prompt, max_new_tokens)
        if keep:
            self.recall(prompt, text)
        return text

    def recall(self, prompt: str, reply: str) -> None:
        self.turns.append((prompt, reply))

    @abstractmethod
    def answer(self, prompt: str, max_new_tokens: int) -> str:
        """The model's words; the dialogue stays as it is."""

    def messages(self, prompt: str, part_of: Callable[[np.ndarray], dict[str, Any]]) -> list[dict[str, Any]]:
        """Frames in the order of time, each behind its line, the dialogue so far, the question."""
        parts: list[dict[str, Any]] = []
        for number, second, image in self.frames:
            parts += [_text(frame_line(number, second)), part_of(image), _text("\n")]
        messages = [] if self.system_prompt is None else [_message("system", _text(self.system_prompt))]
        for question, answer in self.turns:
            messages += [_message("user", *parts, _text(question)), _message("assistant", _text(answer))]
            parts = []
        return [*messages, _message("user", *parts, _text(prompt))]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


@dataclass
class Usage:
    """What was spent."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    """Answers whose tokens the server did not tell."""
    cost: float | None = None
    """In the currency of --price."""

    def said(self) -> str:
        tokens = f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"
        missing = f" ({self.without_usage} answers without a count)" if self.without_usage else ""
        cost = "" if self.cost is None else f", cost {self.cost:.4f}"
        return f"endpoint: {self.requests} requests, {self.retries} of them again; {tokens}{missing}{cost}"


@dataclass
class EndpointResponder:
    """A model behind an address. ValueError for one that cannot be asked, at the first question."""

    address: str
    """Up to and with /v1."""
    model: str
    max_frames: int
    key: str | None = None
    images: Literal["jpeg", "png"] = "jpeg"
    retries: int = 6
    requests_per_minute: float | None = None
    price: tuple[float, float] | None = None
    """Of a million tokens in and out."""
    timeout: float = 600.0
    """Seconds without a byte."""
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise ValueError(f"a model needs at least one frame, got max_frames={self.max_frames}")
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(self.timeout, connect=20.0))
        self._options: dict[str, Any] = {"temperature": 0, "max_tokens": None}
        self._next = 0.0

    @property
    def shown_address(self) -> str:
        return without_secrets(self.address, self.address)

    def open(self, system_prompt: str | None) -> EndpointConversation:
        return EndpointConversation(self, system_prompt)

    def picture(self, image: np.ndarray) -> dict[str, Any]:
        """A frame, uint8 (H, W, 3), as a part of a message."""
        data = io.BytesIO()
        Image.fromarray(image).save(data, self.images, **({"quality": 95} if self.images == "jpeg" else {}))
        uri = f"data:image/{self.images};base64,{base64.b64encode(data.getvalue()).decode()}"
        return {"type": "image_url", "image_url": {"url": uri}}

    def complete(self, messages: list[dict[str, Any]], max_new_tokens: int) -> str:
        """The words of the answer. MediaError where this request is refused, ValueError where every one would be."""
        for _ in range(len(OTHER_NAMES) + 1):
            options = {name: max_new_tokens if value is None else value for name, value in self._options.items()}
            status, document = self._posted({"model": self.model, "messages": messages, **options})
            if status != 400 or not self._renames(document):
                break
        if status in NOT_THIS_ONE:
            raise MediaError(f"{self.shown_address} refuses the question (HTTP {status}): {_words(document)}")
        if status != 200:
            raise ValueError(f"{self.shown_address} cannot be asked (HTTP {status}): {_words(document)}")
        try:
            text = _reply(document["choices"][0]["message"]["content"])
        except (TypeError, KeyError, IndexError) as error:
            what = f"{self.shown_address} answers with no chat completion: {_words(document)}"
            raise ValueError(f"{what}; expected an address that ends in /v1") from error
        self._count(document.get("usage"))
        return text.strip()

    def _renames(self, document: Any) -> bool:
        """Whether the server knows an option otherwise: it is sent so from now on, and said once."""
        name = _error_of(document).get("param")
        if not isinstance(name, str) or name not in OTHER_NAMES or name not in self._options:
            return False
        value = self._options.pop(name)
        self._options |= dict.fromkeys(OTHER_NAMES[name], value)
        instead = ", ".join(OTHER_NAMES[name]) or "nothing"
        print(f"note: the server takes no {name}; {instead} is sent instead ({_words(document)})", file=sys.stderr)
        return True

    def _posted(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and document, after as many tries as it takes. ValueError where no try gets an answer."""
        import httpx

        wait, problem = FIRST_WAIT, ""
        for number in range(self.retries + 1):
            if self.requests_per_minute:  # keep to the rate
                time.sleep(max(0.0, self._next - time.monotonic()))
                self._next = time.monotonic() + 60 / self.requests_per_minute
            self.usage.requests, self.usage.retries = self.usage.requests + 1, self.usage.retries + (number > 0)
            pause = wait
            try:
                response = self._client.post(f"{self.address.rstrip('/')}/chat/completions", json=body)
            except httpx.HTTPError as error:
                problem = f"no answer: {error or type(error).__name__}"
            else:
                document = _document(response)
                if response.status_code not in RETRIED or _error_of(document).get("code") == SPENT:
                    return response.status_code, document
                problem = f"HTTP {response.status_code}: {_words(document)}"
                pause = _seconds(response.headers.get("Retry-After"), wait)
            if number < self.retries:
                time.sleep(min(pause, LONGEST_WAIT))
                wait = min(2 * wait, LONGEST_WAIT)
        what = f"{self.shown_address} gave no answer in {self.retries + 1} tries ({problem})"
        raise ValueError(f"{what}; what was answered is kept, add --resume to continue")

    def _count(self, usage: Any) -> None:
        names = ("prompt_tokens", "completion_tokens")
        counts: list[Any] = [usage.get(name) or 0 for name in names] if isinstance(usage, dict) else [None]
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            self.usage.without_usage += 1
            return
        self.usage.prompt_tokens += counts[0]
        self.usage.completion_tokens += counts[1]
        if self.price:
            spent = sum(count * price for count, price in zip(counts, self.price, strict=True)) / 1e6
            self.usage.cost = (self.usage.cost or 0.0) + spent

    def write_usage(self, folder: Path) -> None:
        """Add what was spent to what earlier parts of the run have spent, in a file of its folder; say it."""
        path = folder / USAGE_FILE
        try:
            before = Usage(**json.loads(path.read_text("utf-8"))) if path.is_file() else Usage()
        except (ValueError, TypeError, RecursionError) as error:  # the run's answers are worth more than its costs
            print(f"caution: {path} cannot be read, what was spent before is not counted ({error})", file=sys.stderr)
            before = Usage()
        for name, value in asdict(before).items():
            if value is not None:
                setattr(self.usage, name, (getattr(self.usage, name) or 0) + value)
        write_json(path, asdict(self.usage))
        print(self.usage.said(), file=sys.stderr)


class EndpointConversation(RecentFrames):
    def answer(self, prompt: str, max_new_tokens: int) -> str:
        return self.responder.complete(self.messages(prompt, self.responder.picture), max_new_tokens)

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        raise ValueError(NO_LIKELIHOOD)


def _document(response: Any) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text


def _reply(content: Any) -> str:
    """The words of a message: a text, none, or parts, as some servers have them. TypeError, KeyError for another thing.

    Half of a surrogate pair, which JSON can hold and no file of UTF-8, becomes a question mark.
    """
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise TypeError(f"expected words, got {content!r:.80}")
    return (content or "").encode("utf-8", "replace").decode()


def _words(document: Any) -> str:
    """What a server says of an error, in one line."""
    about = document.get("error", document) if isinstance(document, dict) else document
    text = about.get("message", about) if isinstance(about, dict) else about
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text).split())[:300])


def _error_of(document: Any) -> dict[str, Any]:
    """What a server says of an error, where it says it as it should."""
    about = document.get("error") if isinstance(document, dict) else None
    return about if isinstance(about, dict) else {}


def _seconds(text: str | None, otherwise: float) -> float:
    try:
        return max(0.0, float(text)) if text else otherwise
    except ValueError:  # a date
        return otherwise


def parse_price(text: str) -> tuple[float, float]:
    """ "0.15/0.6" -> (0.15, 0.6). ValueError for another form."""
    try:
        prices = tuple(float(part) for part in text.split("/"))
    except ValueError:
        prices = ()
    if len(prices) != 2 or min(prices) < 0:
        raise ValueError(f"--price: expected the price of a million tokens in and out, such as 0.15/0.6, got {text!r}")
    return prices


def endpoint_from_flags(options: Any, frames: int) -> tuple[EndpointResponder, dict[str, Any]]:
    """The endpoint that flags name, and what identifies it. ValueError for flags that do not go together."""
    address = Address.checked(options.endpoint)
    if address.scheme not in ("http", "https"):
        raise ValueError(
            f"--endpoint: expected an http or https address such as http://host:8000/v1, got {address.scheme}"
        )
    local = {"device": "auto", "dtype": "auto", "attention": "auto", "compile": False}
    if wrong := [f"--{name}" for name, value in local.items() if getattr(options, name) != value]:
        raise ValueError(f"{', '.join(wrong)}: for a model that runs here, not behind --endpoint")
    if options.answer == "likelihood":
        raise ValueError(NO_LIKELIHOOD)
    responder = EndpointResponder(
        options.endpoint,
        options.model,
        frames,
        key=os.environ.get(options.api_key_env) or None,
        images=options.endpoint_images,
        requests_per_minute=options.requests_per_minute,
        price=parse_price(options.price) if options.price else None,
    )
    about = {"endpoint": responder.shown_address, "max_frames": frames, "endpoint_images": options.endpoint_images}
    return responder, about
