"""The language model's side of a session: a question with its prompt and frames in, answers and scores out.

It works on top of what is cached, and measures what a question costs. Knows no stream and takes no lock; the session
calls it under `QuestionsFirst`, which lets one at a time use it and questions before anything done in idle time.

N positions of a prompt, D the language model's width.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer

from ..model.memory_bank import MemoryFrame
from ..model_config import max_positions
from .cache import PromptCache, position_bytes, position_keys
from .options import OptionTree, takes_mask

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline
    from ..processing import Processor
    from ..prompt.render import Rendered

OURS = ("eos_token_id", "pad_token_id", "streamer", "stopping_criteria", "return_dict_in_generate", "input_ids")
"""Options of transformers' generate that this file decides."""


@dataclass(frozen=True)
class PreparedQuestion:
    """One question with everything its answer depends on, as it was when the question came."""

    text: str
    rendered: Rendered
    frames: Sequence[MemoryFrame]
    num_seen: int
    timestamp: float | None
    """Seconds, of the last frame seen."""
    started: float
    """When it came (time.perf_counter)."""
    num_resets: int
    """Of the session so far: a question about a stream that was forgotten is not answered."""


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


class StreamedAnswer(Iterator[str]):
    """An answer piece by piece, and in `question` what it answers. Closing or dropping it ends the answer."""

    def __init__(
        self, question: PreparedQuestion, pieces: Generator[str, None, None], answers: Sequence[Answer]
    ) -> None:
        """`answers`: the whole answer will be in it when its last piece has come."""
        self.question, self._pieces, self._answers = question, pieces, answers

    @property
    def answer(self) -> Answer | None:
        """The whole answer with what it cost; None before it is complete."""
        return self._answers[0] if self._answers else None

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()


class LanguageSide:
    """Holds what one session's prompts have in common: keys and values of the last one, and projected frames."""

    def __init__(
        self,
        model: VideoChatOnline,
        processor: Processor,
        *,
        reuse_cache: bool,
        max_cache_bytes: int | None = None,
        max_prompt_tokens: int | None = None,
    ) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be >= 1, got {max_prompt_tokens}")
        self.model, self.processor, self.reuse_cache = model, processor, reuse_cache
        taken = max_positions(model.config.llm_config)
        self.max_positions = min(taken, max_prompt_tokens or taken)
        """Of a prompt with its answer, at most."""
        self.cache = PromptCache(model, max_positions=self.max_positions, max_bytes=max_cache_bytes)
        self.reset()

    def reset(self) -> None:
        self.cache.reset()
        self._tokens: dict[tuple[int, int, int], torch.Tensor] = {}  # projected frames of the last prompt, by identity

    @property
    def num_bytes(self) -> int:
        """Of keys, values and projected frames that are kept for the next question."""
        return self.cache.num_bytes + sum(rows.numel() * rows.element_size() for rows in self._tokens.values())

    @property
    def max_bytes(self) -> int:
        """Of keys and values at most, whatever is asked."""
        return self.cache.max_positions * position_bytes(self.model) if self.reuse_cache else 0

    @torch.no_grad()
    def embed(self, rendered: Rendered, frames: Sequence[MemoryFrame]) -> torch.Tensor:
        """Prompt and its frames -> input embeddings (1, N, D). Frames of the last prompt are not projected again."""
        ids = torch.tensor([rendered.ids], device=self.model.device)
        known = self._tokens
        new = [frame for frame in frames if frame.identity not in known]
        if new:
            rows = self.model.project([frame.features for frame in new])
            pieces = rows.split([frame.num_tokens for frame in new])
            projected = {frame.identity: piece.clone() for frame, piece in zip(new, pieces, strict=True)}
            known = {**known, **projected}
        shown = {frame.identity: known[frame.identity] for frame in frames}
        self._tokens = shown if self.reuse_cache else {}  # replaced, never changed: another thread may be counting it
        return self.model.embed(ids, torch.cat(list(shown.values())) if frames else None)

    def answer(self, question: PreparedQuestion, **generation: Any) -> Answer:
        """Generate on top of what the cache holds of the prompt; `generation` as for `generate_answer`."""
        # 1. the prompt as embeddings, and what identifies each position
        keys = position_keys(question.rendered, question.frames)
        embeds, started = self.embed(question.rendered, question.frames), question.started
        one_sequence = generation.get("num_beams", 1) == 1 and generation.get("num_return_sequences", 1) == 1
        if not (self.reuse_cache and one_sequence):
            return generate_answer(self.model, self.processor, embeds, started=started, **generation)
        # 2. keep what the last prompt has in common with this one, generate the rest behind it
        cached = self.cache.prepare(keys, embeds)
        try:
            answer = generate_answer(
                self.model, self.processor, embeds, started=started, cache=self.cache.kv, **generation
            )
        except BaseException:
            self.cache.reset()  # how far it got is not known
            raise
        # 3. the next question finds prompt and answer in the cache
        self.cache.extended([*keys, *answer.ids[:-1]])  # the last token was never fed back
        self.cache.trim()
        answer.cached_tokens = cached
        return answer

    def prefill(
        self, rendered: Rendered, frames: Sequence[MemoryFrame], until: int, *, stop: Callable[[], bool]
    ) -> int | None:
        """Bring the cache up to position `until` of the prompt; None where `stop` ended it before.

        Returns the positions computed: 0 also where another question could not use them (dynamic NTK past its line).
        """
        if not self.reuse_cache:
            return 0
        until = min(until, self.cache.max_positions)
        keys, num_positions = position_keys(rendered, frames)[:until], len(rendered.ids)
        if self.cache.holds(keys, num_positions) or not self.cache.would_serve(num_positions):
            return 0
        embeds = self.embed(rendered, frames)[:, :until]
        computed = self.cache.fill(keys, embeds, num_positions=num_positions, stop=stop)
        return computed if len(self.cache) == until else None

    @torch.no_grad()
    def score(self, rendered: Rendered, frames: Sequence[MemoryFrame], options: Sequence[str]) -> list[float]:
        """Log-probability of each option as the whole answer, end mark included."""
        keys, embeds = position_keys(rendered, frames), self.embed(rendered, frames)
        answers = [self.processor.answer_ids(option) for option in options]
        if not self.reuse_cache:
            return [self._score_alone(embeds, ids) for ids in answers]
        try:
            return self._score_cached(keys, embeds, answers)
        finally:
            self.cache.trim()

    def _score_cached(self, keys: Sequence[Any], embeds: torch.Tensor, answers: list[list[int]]) -> list[float]:
        """Of all answers behind one prompt, all together where the model takes a mask for it."""
        self.cache.fill(keys[:-1], embeds[:, :-1])
        tree, longest = OptionTree.of(answers), len(keys) + max(map(len, answers))
        if self.cache.can_continue(longest - len(keys)) and takes_mask(self.model.config.llm_config, longest):
            return tree.scores(self._peek(embeds, tree.spoken, tree))
        return [self._score_behind(embeds, ids) for ids in answers]

    def _score_behind(self, prompt: torch.Tensor, ids: list[int]) -> float:
        """Of one answer behind the prompt's embeddings (1, N, D), of which the cache holds all but the last."""
        if not self.cache.can_continue(len(ids)):
            return self._score_alone(prompt, ids)
        return OptionTree.of([ids]).scores(self._peek(prompt, ids[:-1]))[0]

    def _score_alone(self, prompt: torch.Tensor, ids: list[int]) -> float:
        """Of one answer, from an empty cache."""
        embeds = torch.cat([prompt, self._spoken(ids[:-1])], dim=1)
        return OptionTree.of([ids]).scores(self.model(inputs_embeds=embeds, logits_to_keep=len(ids)).logits[0])[0]

    def _peek(self, prompt: torch.Tensor, ids: list[int], tree: OptionTree | None = None) -> torch.Tensor:
        """Logits of the prompt's last position and of `ids` behind it, which stay out of the cache."""
        return self.cache.peek(torch.cat([prompt[:, -1:], self._spoken(ids)], dim=1), tree)

    def _spoken(self, ids: list[int]) -> torch.Tensor:
        return self.model.embed(torch.tensor([ids], dtype=torch.long, device=self.model.device), None)


@dataclass
class _TextStream(BaseStreamer):
    """Receives ids from `generate` and emits text as soon as it is sure."""

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
            self._emit_new(text)

    def end(self) -> None:
        self._emit_new(self.decode(self.ids).strip())

    def _emit_new(self, text: str) -> None:
        if text.startswith(self.text) and len(text) > len(self.text):
            self.emit(text[len(self.text) :])
            self.text = text


@dataclass
class _Stop(StoppingCriteria):
    """Ends a generation that nobody listens to any more."""

    wanted: threading.Event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.wanted.is_set(), device=input_ids.device)


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


class QuestionsFirst:
    """A lock that idle work only gets while nobody asks. Idle work looks at `is_wanted` between its steps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._num_questions = 0
        self._is_answering = False

    @contextmanager
    def question(self) -> Iterator[None]:
        """Wait until the lock is free; idle work sees that a question waits, and gives way."""
        with self._counting:
            self._num_questions += 1
        try:
            with self._lock:
                self._is_answering = True
                try:
                    yield
                finally:
                    self._is_answering = False
        finally:
            with self._counting:
                self._num_questions -= 1

    @contextmanager
    def idle(self) -> Iterator[bool]:
        """Whether idle work may begin now; never waits."""
        may = not self.is_wanted and self._lock.acquire(blocking=False)
        try:
            yield may
        finally:
            if may:
                self._lock.release()

    @property
    def is_wanted(self) -> bool:
        """Whether a question waits."""
        return self._num_questions > self._is_answering

    @property
    def is_asked(self) -> bool:
        """Whether a question waits or is being answered."""
        return self._num_questions > 0
