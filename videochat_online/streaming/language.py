"""The language model's side of a session: a question with its prompt and frames in, answers and scores out.

It works on top of what is cached, and measures what a question costs. Knows no stream and takes no lock; the session
calls it under `QuestionsFirst`, which lets one at a time use it and questions before anything done in idle time.

N positions of a prompt, E an embedding's width.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer, TemperatureLogitsWarper, TopPLogitsWarper

from ..model.memory_bank import MemoryFrame
from ..model_config import factor_set
from .cache import OptionTree, PromptCache, position_bytes, position_keys, takes_mask

if TYPE_CHECKING:
    from ..model.backbone import Backbone
    from ..processing import Processor
    from ..prompt.render import Rendered
    from .together import SharedDecoder

OURS = (
    "cache",
    "eos_token_id",
    "input_ids",
    "inputs_embeds",
    "pad_token_id",
    "past_key_values",
    "position_ids",
    "return_dict_in_generate",
    "stopping_criteria",
    "streamer",
)
"""Options of transformers' generate that this file decides."""
TOGETHER = {"max_new_tokens", "do_sample", "logits_processor"}
"""Those of an answer that is made together with others'; one with more of them is made alone."""


@dataclass
class Answer:
    """What came out of one question and what it cost. Times in seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that an earlier question had computed already."""
    text: str = ""
    ids: list[int] = field(default_factory=list)
    """The answer's tokens, with the end mark where it came."""
    time_to_first_token: float | None = None
    duration: float = 0.0


@dataclass
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
    is_recalled: bool = False
    """Its frames were chosen for it (recall.py), in a prompt of its own."""
    answer: Answer | None = None
    """The whole answer with what it cost; None before it is complete."""


class StreamedAnswer(Iterator[str]):
    """An answer piece by piece, and in `question` what it answers. Closing or dropping it ends the answer."""

    def __init__(self, question: PreparedQuestion, pieces: Generator[str, None, None]) -> None:
        self.question, self._pieces = question, pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()


class LanguageSide:
    """Holds what one session's prompts have in common: keys and values of the last one, and projected frames."""

    def __init__(
        self,
        model: Backbone,
        processor: Processor,
        *,
        reuse_cache: bool,
        max_cache_bytes: int | None = None,
        max_prompt_tokens: int | None = None,
        decoder: SharedDecoder | None = None,
    ) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be >= 1, got {max_prompt_tokens}")
        self.model, self.processor = model, processor
        self.reuse_cache, self._keeps_frames = reuse_cache and model.keeps_keys, reuse_cache
        if decoder is not None and decoder.model is not model:
            raise ValueError("the shared decoder has another model than this session")
        self.decoder = decoder if decoder is not None and decoder.is_able else None
        taken = model.max_positions
        self.max_positions = min(taken, max_prompt_tokens or taken)
        """Of a prompt with its answer, at most."""
        self.cache = PromptCache(model, max_positions=self.max_positions, max_bytes=max_cache_bytes)
        self.reset()

    def reset(self) -> None:
        self.cache.reset()
        self._tokens: dict[tuple[int, ...], torch.Tensor] = {}  # projected frames of the last prompt, by identity

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
        """Prompt and its frames -> input embeddings (1, N, E). Frames of the last prompt are not projected again."""
        ids = torch.tensor([rendered.ids], device=self.model.device)
        known = dict(self._tokens)
        new = [frame for frame in frames if frame.identity not in known]
        if new:
            rows = self.model.project([frame.features for frame in new])
            for frame, piece in zip(new, rows.split([frame.num_tokens for frame in new]), strict=True):
                known[frame.identity] = piece.clone()
        shown = {frame.identity: known[frame.identity] for frame in frames}
        self._tokens = shown if self._keeps_frames else {}  # replaced, never changed: another thread may be counting it
        return self.model.embed(ids, torch.cat(list(shown.values())) if frames else None)

    @torch.no_grad()
    def words(self, text: str) -> torch.Tensor:
        """A text as the model's own word vectors (N, E), on the CPU."""
        ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.model.embed(torch.tensor([ids], device=self.model.device))[0].float().cpu()

    def positions(self, rendered: Rendered, frames: Sequence[MemoryFrame]) -> torch.Tensor | None:
        """Position ids (..., 1, N) where the model counts pictures in its own way; None: counted one by one."""
        grids = [(frame.features.shape[-2], frame.features.shape[-1]) for frame in frames]
        found = self.model.positions(len(rendered.ids), rendered.image_spans, grids)
        return None if found is None else found.to(self.model.device)

    def answer(
        self,
        question: PreparedQuestion,
        *,
        emit: Callable[[str], None] | None = None,
        pace: Callable[[], None] | None = None,
        stop: threading.Event | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer on top of what the cache holds of the prompt; greedy unless `generation` says otherwise.

        `emit` receives the text piece by piece, and `pace` is called before each and before each step of the
        prompt; setting `stop` ends it at the next token. ValueError for one of OURS.
        """
        if taken := next((name for name in OURS if name in generation), None):
            raise ValueError(f"{taken!r} is the session's to set, not an option of a question")
        is_search = generation.get("num_beams", 1) != 1  # it knows its words only at the end
        reuses = self.reuse_cache and not is_search and generation.get("num_return_sequences", 1) == 1
        # 1. the prompt as embeddings, what identifies each position, and its ids where the model has its own
        rendered, frames = question.rendered, question.frames
        keys, embeds = position_keys(rendered, frames), self.embed(rendered, frames)
        positions = self.positions(rendered, frames)
        answer = Answer(prompt_tokens=len(keys))
        stream = _TextStream(answer, question.started, self.processor.decode, emit, pace or (lambda: None))
        # 2. keep what the last prompt has in common with this one, generate the rest behind it
        if reuses:
            answer.cached_tokens = self.cache.prepare(keys, embeds, positions)
        try:
            if self._fits_together(len(keys), generation):
                self._make_together(keys, embeds, positions, stream, stop, **generation)
            else:
                cache = self.cache.kv if reuses else None
                answer.ids = self._made_alone(embeds, positions, cache, stream, stop, **generation)
        except BaseException:
            self.cache.reset()  # how far it got is not known
            raise
        answer.text = self.processor.decode(answer.ids).strip()
        answer.duration = time.perf_counter() - question.started
        # 3. the next question finds prompt and answer in the cache
        if reuses:
            self.cache.extended([*keys, *answer.ids[:-1]])  # the last token was never fed back
            self.cache.trim()
        return answer

    def _made_alone(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor | None,
        cache: Cache | None,
        stream: _TextStream,
        stop: threading.Event | None,
        **generation: Any,
    ) -> list[int]:
        """An answer's ids, by transformers' generate."""
        stream.pace()
        is_search = generation.get("num_beams", 1) != 1  # it knows its words only at the end
        given = {"position_ids": positions, "cache": cache, "streamer": None if is_search else stream}
        generation |= {name: value for name, value in given.items() if value is not None}
        if stop is not None:
            generation["stopping_criteria"] = StoppingCriteriaList([_Stop(stop)])
        ends = self.processor.end_token_ids
        ids = self.model.generate(inputs_embeds=embeds, eos_token_id=ends, pad_token_id=ends[0], **generation)
        if is_search:
            stream.put(ids)
            stream.end()
        return list(ids[0].tolist())

    def _fits_together(self, num_positions: int, generation: dict[str, Any]) -> bool:
        """Whether the shared decoder can make this answer: greedy or drawn by `sampling`, with one set of factors."""
        if self.decoder is None or not generation.keys() <= TOGETHER or generation.get("do_sample"):
            return False
        llm = self.model.config.llm_config
        return factor_set(llm, num_positions) == factor_set(llm, num_positions + generation["max_new_tokens"])

    def _make_together(
        self,
        keys: Sequence[Hashable],
        embeds: torch.Tensor,
        positions: torch.Tensor | None,
        stream: _TextStream,
        stop: threading.Event | None,
        *,
        max_new_tokens: int,
        do_sample: bool = False,
        logits_processor: Sequence[LogitsProcessor] | None = None,
    ) -> None:
        """What generate would do, into `stream`; each token in one pass with those of other sessions' answers."""
        assert self.decoder is not None and not do_sample
        cache, ids, num = self.cache, stream.answer.ids, len(keys)
        place = torch.arange(num, device=embeds.device)[None] if positions is None else positions
        with self.decoder.row(place[..., -1:] + 1, factor_set(self.model.config.llm_config, num)) as row:
            # 1. the prompt: in steps, where others would wait for it; the rest gives the first logits
            head = keys[:-1], embeds[:, :-1], positions
            while row.has_company and cache.lacks_much(num):
                stream.pace()
                once = iter((False, True)).__next__
                row.compute(partial(cache.fill, *head, num_positions=num, stop=once))
            stream.pace()
            logits = row.compute(partial(self._first_logits, embeds, place))
            row.cache = cache.kv
            # 2. a token after the other
            while True:
                scores = logits.float()
                if logits_processor:
                    said: Any = torch.tensor([ids], dtype=torch.long, device=scores.device)
                    scores = LogitsProcessorList(logits_processor)(said, scores)
                stream.put(scores.argmax(-1))
                is_end = ids[-1] in self.processor.end_token_ids or len(ids) == max_new_tokens
                if is_end or (stop is not None and stop.is_set()):
                    break
                logits = row.step(ids[-1])
        stream.end()
        if not self.reuse_cache:
            cache.reset()

    @torch.no_grad()
    def _first_logits(self, embeds: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """(1, vocabulary) behind the prompt (1, N, E) at `place`, whose start the cache holds, and then all of it."""
        kv = self.cache.kv
        rest = {"inputs_embeds": embeds[:, (num := kv.get_seq_length()) :], "position_ids": place[..., num:]}
        found: torch.Tensor = self.model(**rest, cache=kv, use_cache=True, logits_to_keep=1).logits[:, -1]
        return found

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
        positions = self.positions(rendered, frames)
        computed = self.cache.fill(keys, embeds, positions, num_positions=num_positions, stop=stop)
        return computed if len(self.cache) == until else None

    @torch.no_grad()
    def score(self, rendered: Rendered, frames: Sequence[MemoryFrame], answers: Sequence[list[int]]) -> list[float]:
        """Log-probability of each whole answer, given as its tokens with the end mark."""
        keys, embeds = position_keys(rendered, frames), self.embed(rendered, frames)
        positions = self.positions(rendered, frames)
        longest = max(map(len, answers))
        try:
            # 1. the prompt into the cache, but for its last position, whose logits are wanted
            if self.reuse_cache:
                self.cache.fill(keys[:-1], embeds[:, :-1], positions)
            # 2. all answers behind it together, where the model takes a mask for it
            fits = self.reuse_cache and self.cache.can_continue(longest)
            if fits and takes_mask(self.model.config.llm_config, len(keys) + longest):
                tree = OptionTree.of(answers)
                return tree.scores(self.cache.peek(self._continued(embeds[:, -1:], tree), tree, positions))
            # 3. else one by one: behind the cached prompt, or where that cannot be, from an empty cache
            scores = []
            for ids in answers:
                tree = OptionTree.of([ids])
                if self.reuse_cache and self.cache.can_continue(len(ids)):
                    logits = self.cache.peek(self._continued(embeds[:, -1:], tree), positions=positions)
                else:
                    whole = self._continued(embeds, tree)
                    more = {} if positions is None else {"position_ids": lengthened(positions, len(tree.spoken))}
                    logits = self.model(inputs_embeds=whole, logits_to_keep=len(ids), **more).logits[0]
                scores += tree.scores(logits)
            return scores
        finally:
            self.cache.trim()

    def _continued(self, prompt: torch.Tensor, tree: OptionTree) -> torch.Tensor:
        """Embeddings (1, N, E) with those of the tree's ids behind them."""
        ids = torch.tensor([tree.spoken], dtype=torch.long, device=self.model.device)
        return torch.cat([prompt, self.model.embed(ids)], dim=1)


def lengthened(positions: torch.Tensor, num: int) -> torch.Tensor:
    """Position ids with `num` of text behind them."""
    return torch.cat([positions, positions[..., -1:] + torch.arange(1, num + 1, device=positions.device)], dim=-1)


@dataclass
class _TextStream(BaseStreamer):
    """Receives ids from `generate` and emits their text as soon as it is sure."""

    answer: Answer
    started: float
    decode: Callable[[list[int]], str]
    emit: Callable[[str], None] | None
    pace: Callable[[], None]

    def found_cached(self, num_positions: int) -> None:
        """What an engine had kept of the prompt."""
        self.answer.cached_tokens = num_positions

    def put(self, value: torch.Tensor) -> None:
        new = value.flatten().tolist()
        if not new:  # generate announces the prompt, which is empty when it comes as embeddings
            return
        if self.answer.time_to_first_token is None:
            self.answer.time_to_first_token = time.perf_counter() - self.started
        self.answer.ids += new
        self._emit_new(is_end=False)

    def end(self) -> None:
        self._emit_new(is_end=True)

    def _emit_new(self, *, is_end: bool) -> None:
        if self.emit is None:
            return
        text, said = self.decode(self.answer.ids).strip(), self.answer.text
        is_sure = is_end or not text.endswith("\ufffd")  # half a character: its other bytes are still to come
        if is_sure and text.startswith(said) and len(text) > len(said):
            self.pace()
            self.emit(text[len(said) :])
            self.answer.text = text


@dataclass
class _Stop(StoppingCriteria):
    """Ends a generation that nobody listens to any more."""

    wanted: threading.Event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.wanted.is_set(), device=input_ids.device)


class _Noise(LogitsProcessor):
    """Makes the likeliest token a sample: Gumbel noise on logits (B, vocabulary) is sampling from their softmax.

    From a generator of its own: transformers' sampling has one for the whole process, and answers run in threads.
    """

    def __init__(self, seed: int | None) -> None:
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed % 2**63)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        waits = torch.empty(scores.shape).exponential_(generator=self.generator)
        return scores - waits.log().to(scores)


class Drawn(LogitsProcessorList):
    """What makes an answer drawn; `asked` says the same in OpenAI's words, to a language model that runs elsewhere."""

    asked: dict[str, Any]


def sampling(temperature: float, *, top_p: float | None = None, seed: int | None = None) -> dict[str, Any]:
    """Options of an answer that is drawn, not the likeliest; temperature 0 takes the likeliest.

    With a seed the same prompt gets the same answer, whatever else is answered meanwhile.
    """
    if temperature == 0:
        return {"do_sample": False}
    # smaller ones draw the same, until logits divided by them overflow
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(max(float(temperature), 1e-4))]
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(max(top_p, 1e-6)))
    asked = {"temperature": temperature, "top_p": top_p, "seed": seed}
    drawn = Drawn([*warpers, _Noise(seed)])
    drawn.asked = {name: value for name, value in asked.items() if value is not None}
    return {"do_sample": False, "logits_processor": drawn}


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
