"""From a prompt's embeddings to text, piece by piece: runs the model's generation and turns ids into words.

Knows no stream and no memory. What a question costs is measured here: prompt tokens, time to the first token.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline
    from ..processing import Processor


OURS = ("eos_token_id", "pad_token_id", "streamer", "stopping_criteria", "return_dict_in_generate", "input_ids")
"""Options of transformers' generate that this file decides."""


@dataclass
class Answer:
    """What came out of one question and what it cost. Times in seconds."""

    prompt_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that an earlier question had computed already."""
    text: str = ""
    ids: list[int] = field(default_factory=list)
    """The answer's tokens, with the end mark where it came."""
    time_to_first_token: float | None = None
    duration: float = 0.0


@dataclass
class _TextStream(BaseStreamer):
    """Receives ids from `generate` and hands on text as soon as it is sure."""

    decode: Callable[[list[int]], str]
    emit: Callable[[str], None]
    started: float
    first: float | None = None
    ids: list[int] = field(default_factory=list)
    text: str = ""

    def put(self, value: torch.Tensor) -> None:
        new = value.flatten().tolist()
        if not new:  # generate announces the prompt, which is empty when it comes as embeddings
            return
        if self.first is None:
            self.first = time.perf_counter() - self.started
        self.ids += new
        text = self.decode(self.ids).strip()
        if not text.endswith("\ufffd"):  # half a character: its other bytes are still to come
            self._hand_on(text)

    def end(self) -> None:
        self._hand_on(self.decode(self.ids).strip())

    def _hand_on(self, text: str) -> None:
        if text.startswith(self.text) and len(text) > len(self.text):
            self.emit(text[len(self.text) :])
            self.text = text


@dataclass
class _Stop(StoppingCriteria):
    """Ends a generation that nobody listens to any more."""

    asked: threading.Event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.asked.is_set(), device=input_ids.device)


def generate_answer(
    model: VideoChatOnline,
    processor: Processor,
    inputs_embeds: torch.Tensor,
    *,
    started: float,
    emit: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    **generation: Any,
) -> Answer:
    """Answer a prompt given as embeddings (1, N, D); greedy unless `generation` says otherwise.

    `started` (of time.perf_counter) is when the question came. `emit` receives the text piece by piece; setting `stop`
    ends the answer at the next token.
    """
    for name in OURS:
        if name in generation:
            raise ValueError(f"{name!r} is the session's to set, not an option of a question")
    answer = Answer(prompt_tokens=inputs_embeds.shape[1])
    stream = _TextStream(processor.decode, emit or (lambda piece: None), started)
    if stop is not None:
        generation["stopping_criteria"] = StoppingCriteriaList([_Stop(stop)])
    ends = processor.end_token_ids
    if generation.get("num_beams", 1) == 1:  # a beam search knows its words only at the end
        generation["streamer"] = stream
    ids = model.generate(inputs_embeds=inputs_embeds, eos_token_id=ends, pad_token_id=ends[0], **generation)
    if "streamer" not in generation:
        stream.put(ids)
        stream.end()
    answer.ids = ids[0].tolist()
    answer.text = processor.decode(answer.ids).strip()
    answer.time_to_first_token = stream.first
    answer.duration = time.perf_counter() - started
    return answer


def stream_pieces(run: Callable[[Callable[[str], None], threading.Event], None]) -> Generator[str, None, None]:
    """Turn `run(emit, stop)` into an iterator of what it emits.

    It runs in a thread of its own; an error in it comes out here; leaving the iterator early stops it.
    """
    pieces: queue.Queue[str | BaseException | None] = queue.Queue()
    stop = threading.Event()

    def work() -> None:
        try:
            run(pieces.put, stop)
            pieces.put(None)
        except BaseException as error:  # handed to whoever iterates, nothing is swallowed
            pieces.put(error)

    thread = threading.Thread(target=work, name="videochat-online-answer", daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()
        thread.join()
