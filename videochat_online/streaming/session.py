"""One stream being watched: frames go in, questions are answered at any moment.

A session owns ALL state of its stream (memory, dialogue, counters); model and processor are shared and never changed,
so any number of sessions run on one model, also from several threads. Within one session `see` may run in one thread
while another asks: a question is answered from what the memory held when it was asked.

    frame -> processor.frames -> model.encode_frames -> memory.write   (pictures of one size, which the first decides)
    question -> memory.read (or recall.choose) -> stream_dialogue -> processor.render -> language.answer
    standing instruction -> read out behind the cached prompt -> scorer -> rule -> language.answer -> event
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from inspect import signature
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import MemoryConfig, RecallMode, checked_recall
from ..model.backbone import memory_on
from ..model.memory_bank import MemoryFrame, PyramidMemoryBank
from ..model.placement import INCOMING, MemoryEvents
from ..prompt.messages import AnsweredQuestion, stream_dialogue
from .cache import num_common
from .chooser import chooser_of
from .encoding import EncodedFrame, Encodings, FrameEncoder, encode_changed, encode_wanted
from .gate import LOOKS, Gate, cells_of
from .language import Answer, LanguageSide, PreparedQuestion, QuestionsFirst, StreamedAnswer
from .readout import read_out
from .recall import ARCHIVE, Recall
from .standing import WORDS, GivesWay, Readout, Standing, StandingEvent, Watchlist
from .state import SessionStats, read_session, write_session
from .threads import stream_pieces

if TYPE_CHECKING:
    from ..config import Grid
    from ..media.transforms import Picture, Size
    from ..model.backbone import Backbone
    from ..processing import Processor
    from ..prompt.render import Rendered
    from .together import SharedDecoder

NO_PROBABILITIES = "need probabilities, and an engine gives answers only"
log = logging.getLogger(__name__)


class PromptTooLong(ValueError):
    """What must be in the prompt leaves no room for an answer."""


class StreamingSession:
    """Watches one stream with one model.

    Args:
        memory: shape and rule of the memory; by default what the model's config says.
        encoder: shared with other sessions, to encode their frames together (see `SharedEncoder`).
        timestamps: show the model each frame's time ("Frame3 at 1.0s: ") or only its number.
        system_prompt: instead of the template's own system message.
        encode_batch_size: frames that go through the encoder together in `see_many`.
        skip_below: do not encode a frame that differs from the last encoded one by less than this (mean over all
            pixels, of 255); it takes that one's features. None: every frame is encoded.
        reuse_cache: keep the language model's keys and values between questions (the answers are the same).
        max_cache_bytes: of keys and values, how many to keep at most; None: those of the longest prompt.
        decoder: shared with other sessions, to make their answers together (see `SharedDecoder`).
        max_prompt_tokens: of a prompt and its answer, where that is to be less than the model takes; a dialogue that
            has grown longer loses its oldest turns.
        recall: "time": a question that names a time is shown frames of that time instead of the memory (recall.py);
            "chosen": and any other question those that the chooser beside the model finds (chooser.py).

    Raises ValueError for a memory that does not fit the encoder and for options out of range.
    """

    def __init__(
        self,
        model: Backbone,
        processor: Processor,
        *,
        memory: MemoryConfig | None = None,
        encoder: FrameEncoder | None = None,
        timestamps: bool = True,
        system_prompt: str | None = None,
        encode_batch_size: int = 16,
        skip_below: float | None = None,
        reuse_cache: bool = True,
        max_cache_bytes: int | None = None,
        max_prompt_tokens: int | None = None,
        decoder: SharedDecoder | None = None,
        recall: RecallMode | None = None,
    ) -> None:
        if encode_batch_size < 1:
            raise ValueError(f"encode_batch_size must be >= 1, got {encode_batch_size}")
        if skip_below is not None and not skip_below > 0:
            raise ValueError(f"skip_below must be a difference of pixels above 0 (of 255), got {skip_below!r}")
        self.model, self.processor = model, processor
        self.timestamps, self.system_prompt = timestamps, system_prompt
        self.encode_batch_size, self.skip_below = encode_batch_size, skip_below
        self.reuse_cache, self.max_cache_bytes, self.max_prompt_tokens = reuse_cache, max_cache_bytes, max_prompt_tokens
        self.memory = PyramidMemoryBank(memory_on(model.config, memory))
        self.encoder = encoder or FrameEncoder(model, processor)
        self.language = LanguageSide(
            model,
            processor,
            reuse_cache=reuse_cache,
            max_cache_bytes=max_cache_bytes,
            max_prompt_tokens=max_prompt_tokens,
            decoder=decoder,
        )
        self.recall = checked_recall(recall)
        chooser = chooser_of(model) if recall == "chosen" else None
        self._recall = Recall(self.memory, self.language, chooser) if recall else None
        self._state = threading.RLock()  # memory, dialogue, counters
        self._seeing = threading.Lock()  # a batch's numbers in the stream decide at which scales it is encoded
        self._turn = QuestionsFirst()  # the language model's side: one question or prefill at a time
        self.scorer: Gate | None = None
        """Decides on standing instructions; None: what the model itself thinks of each."""
        self.on_readout: Callable[[int, float], None] = lambda number, seconds: None
        """Called with the number of instructions that were read out together, and the seconds that took."""
        self.is_tended = False
        """Idle work reads standing instructions out; else `see` does, after each frame."""
        self._lacks_room, self._num_resets = False, 0  # room for a readout: it is said once
        self.reset()

    def reset(self) -> None:
        """Forget the stream, the dialogue and the standing instructions; frame numbers start again."""
        with self._turn.question(), self._state:
            self._num_resets += 1
            self._prefilled: tuple[int, ...] = ()  # what `_moment` was when the cache last stood at the newest frame
            self.memory.reset()
            self._size: Size | None = None  # of the stream's pictures, where the encoder takes any
            self.language.reset()
            if self._recall:
                self._recall.reset()
            self._turns: list[AnsweredQuestion] = []
            self._num_forgotten = 0
            self._last_encoded: EncodedFrame | None = None
            self._encode_seconds, self._num_skipped = 0.0, 0
            self._last_answer: Answer | None = None
            self.watchlist = Watchlist()
            self._due: list[tuple[Standing, StandingEvent, PreparedQuestion | None]] = []  # moments without words yet
            self.looks: deque[tuple[float, torch.Tensor]] = deque()
            """(seconds, cells) of the newest frames, where a gate decides."""

    # ---- watching -------------------------------------------------------------------------------------------------

    def see(self, frame: Picture, timestamp: float) -> MemoryEvents:
        """Take in the next frame (PIL image or uint8 (H, W, 3)) shown at `timestamp` seconds.

        Returns which frames left their level for it, and in `arrivals` the level it came into. Raises ValueError for a
        bad frame or time going back; the session stays as it was. Where instructions stand, what has come due is said
        before this returns (`watchlist.events`).
        """
        return self.see_many([frame], [timestamp])

    def see_many(self, frames: Sequence[Picture], timestamps: Sequence[float]) -> MemoryEvents:
        """Take in several frames in order of time, encoded in batches; equal to `see` one by one.

        Where a frame is refused (ValueError), the batches before its own have been taken in; where instructions stand,
        the frames before it.
        """
        if len(frames) != len(timestamps):
            raise ValueError(f"{len(frames)} frames came with {len(timestamps)} timestamps")
        size, events = self.encode_batch_size, MemoryEvents()
        for first in range(0, len(frames), size):
            started = time.perf_counter()
            pixels = self.prepare(frames[first : first + size])
            self._encode_seconds += time.perf_counter() - started
            events.add(self.see_prepared(pixels, timestamps[first : first + size]))
        return events

    def prepare(self, frames: Sequence[Picture]) -> torch.Tensor:
        """The first step of seeing one batch, which another thread may do ahead: pixels (T, 3, H, W).

        Where the encoder takes pictures of any shape, those of a stream have that of its first frame; a later frame of
        another shape stands whole between black bars.
        """
        with self._state:
            size, num_resets = self._size, self._num_resets
        if size is None and len(frames):
            size = self.processor.picture_size(frames[0], self.model.config)
        pixels = self.encoder.prepare(frames, size)
        with self._state:
            if self._num_resets == num_resets:
                self._size = self._size or size
        return pixels

    def see_prepared(self, pixels: torch.Tensor, timestamps: Sequence[float]) -> MemoryEvents:
        """As `see_many` for one batch of pixels (T, 3, H, W) that `prepare` has made, in another thread say."""
        num_resets, events = self._num_resets, MemoryEvents()
        if not self.watchlist.standing or self.is_tended:
            return self._take_in(pixels, timestamps, num_resets)
        if len(pixels) != len(timestamps):
            raise ValueError(f"{len(pixels)} frames came with {len(timestamps)} timestamps")
        for k in range(len(pixels)):  # one by one: after each the standing instructions are read out
            events.add(self._take_in(pixels[k : k + 1], timestamps[k : k + 1], num_resets))
            self.read_standing()
        return events

    def _take_in(self, pixels: torch.Tensor, timestamps: Sequence[float], num_resets: int) -> MemoryEvents:
        """Encode a batch and put it into the memory, unless the stream was reset more than `num_resets` times."""
        with self._seeing:
            started = time.perf_counter()
            try:
                # 1. encode, while questions can be answered
                grids = self._grids_of(pixels.shape[2:])
                features, last, num_skipped = self._encoded(pixels, grids)
                # 2. into the memory, whole or not at all
                with self._state:
                    if self._num_resets != num_resets:  # these frames are of the stream that was to be forgotten
                        return MemoryEvents()
                    if self.memory.num_written == 0:
                        self.memory.reset(grids)
                        self._size = (pixels.shape[2], pixels.shape[3]) if self.model.config.any_shape else None
                    events = self._write(features, timestamps)
                    if self.scorer:
                        shown = features.get(INCOMING)
                        if shown is None:  # encoded at the size of its level
                            shown = self.memory.read()[-1].features[None]
                        self.looks.extend(zip(timestamps[-len(shown) :], cells_of(shown, self.model), strict=True))
                        while self.looks[-1][0] - self.looks[0][0] > max(LOOKS) + 1:
                            self.looks.popleft()
                    self._last_encoded = last
                    self._num_skipped += num_skipped
                    self._encode_seconds += time.perf_counter() - started
            finally:
                if self.memory.num_written == 0 and self._num_resets == num_resets:
                    self._size = None  # the stream has not begun: another frame may be its first
        return events

    def see_encoded(self, features: torch.Tensor, timestamps: Sequence[float]) -> MemoryEvents:
        """As `see_many` for maps (T, C, g, g) that `encoder.encode` has made before, of a model that sees squares."""
        with self._state:
            return self._write(features, timestamps)

    def _write(self, features: torch.Tensor | dict[int, torch.Tensor], timestamps: Sequence[float]) -> MemoryEvents:
        events = self.memory.write(features, timestamps)
        if self._recall:
            self._recall.write(features, timestamps)
        return events

    def _grids_of(self, size: Sequence[int]) -> tuple[Grid, ...]:
        """The memory's grids for pictures of this size. ValueError for another size than the stream's."""
        facts, memory = self.model.config, self.memory
        if not facts.any_shape:
            return memory.grids
        pixels, (height, width) = facts.image_size // facts.grid, size
        if height % pixels or width % pixels:
            raise ValueError(f"pictures of {height}x{width} px are no whole number of tokens of {pixels} px")
        grids = memory.config.grids_on((height // pixels, width // pixels), facts.grid)
        if memory.num_written and grids != memory.grids:
            raise ValueError(f"this stream's maps have the grids {memory.grids}, not {grids}")
        return grids

    def _encoded(
        self, pixels: torch.Tensor, grids: Sequence[Grid]
    ) -> tuple[dict[int, torch.Tensor], EncodedFrame | None, int]:
        """What the memory takes of one batch, the frame to compare the next one with, and how many were skipped."""
        encode, wanted = self.encoder.encode, {INCOMING: list(range(len(pixels)))}
        encodings: Encodings = {INCOMING: encode}
        if self.memory.is_encoded:
            wanted, smaller = self.memory.wanted(len(pixels)), self.processor.transform.smaller
            side = self.model.config.image_size // self.model.config.grid
            sizes = {level: (grids[level][0] * side, grids[level][1] * side) for level in wanted}
            encodings = {k: lambda shown, k=k: encode(smaller(shown, sizes[k])) for k in wanted}  # type: ignore[misc]
        elif self.skip_below is None:
            return {INCOMING: encode(pixels)}, None, 0
        pixels = self.encoder.on_device(pixels)
        if self.skip_below is None:
            return encode_wanted(pixels, encodings, wanted, grids), None, 0
        std, last = self.processor.transform.std, self._last_encoded
        every, last, num_skipped = encode_changed(pixels, last, encodings, threshold=self.skip_below, std=std)
        return {k: maps[wanted[k]] for k, maps in every.items()}, last, num_skipped

    # ---- asking ---------------------------------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 128,
        keep: bool = True,
        without_frames: bool = False,
        **generation: Any,
    ) -> str:
        """Answer a question about what was seen so far.

        Args:
            max_new_tokens: the answer's length at most.
            keep: remember question and answer as a turn of the dialogue.
            without_frames: allow a question before any frame (to measure what a model says blind).
            generation: passed to transformers' `generate`, such as do_sample, temperature or num_beams.

        Raises ValueError for an empty question, one before any frame, or a prompt that the model cannot hold. A
        dialogue that has grown too long for the model loses its oldest turns (logged, and counted in `stats`).
        """
        started = time.perf_counter()
        with self._turn.question():
            prepared = self._prepare(question, without_frames, max_new_tokens, started)
            return self._answer(prepared, keep, max_new_tokens=max_new_tokens, **generation).text

    def ask_stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 128,
        keep: bool = True,
        without_frames: bool = False,
        pace: Callable[[], None] | None = None,
        **generation: Any,
    ) -> StreamedAnswer:
        """Like `ask`, but yields the answer piece by piece; the pieces joined are what `ask` returns.

        The question is about what the memory holds at the call, however late the first piece is taken; after a `reset`
        in between there is no answer. Leaving the iterator early ends the answer there; what was said until then is
        kept, but for what stands behind the first of `stops` (texts at which whoever listens leaves). `pace` is called
        before each piece and each step of the prompt, in the thread that makes them: it may wait there until others
        have had their turn.
        """
        prepared = self._prepare(question, without_frames, max_new_tokens, time.perf_counter())

        def run(emit: Callable[[str], None], stop: threading.Event) -> None:
            options = generation | {"emit": emit, "pace": pace, "stop": stop, "max_new_tokens": max_new_tokens}
            with self._turn.question():
                if stop.is_set() or prepared.num_resets != self._num_resets:  # nobody listens, or all is forgotten
                    return
                self._answer(prepared, keep, **options)

        return StreamedAnswer(prepared, stream_pieces(run))

    def _prepare(self, question: str, without_frames: bool, max_new_tokens: int, started: float) -> PreparedQuestion:
        """Memory and dialogue as they are now, with room for the answer; turns without room are forgotten."""
        with self._state:
            self._check_question(question, without_frames)
            rendered, frames, num_dropped, is_recalled = self._fitted(question, max_new_tokens)
            if num_dropped:
                log.warning("the dialogue has outgrown the prompt: its oldest %d turns are forgotten", num_dropped)
                del self._turns[:num_dropped]
                self._num_forgotten += num_dropped
            seen, last = self.memory.num_written, self.memory.last_timestamp
            return PreparedQuestion(question, rendered, frames, seen, last, started, self._num_resets, is_recalled)

    def _fitted(self, question: str, max_new_tokens: int) -> tuple[Rendered, list[MemoryFrame], int, bool]:
        """A prompt that leaves room for the answer, its frames, and how many of the oldest turns it does without.

        A quarter of the dialogue goes at once: rarely, because each time the whole prompt is computed again.
        Last: whether the frames are the question's own.
        """
        with self._state:
            chosen = self._recall.choose(question) if self._recall else None
            frames, turns = self.memory.read() if chosen is None else chosen, self._turns
        return *self._fit(question, max_new_tokens, turns, frames), chosen is not None

    def _side(self, is_recalled: bool) -> LanguageSide:
        return self._recall.language if is_recalled and self._recall else self.language

    def _fit(
        self, question: str, max_new_tokens: int, turns: Sequence[AnsweredQuestion], frames: list[MemoryFrame]
    ) -> tuple[Rendered, list[MemoryFrame], int]:
        """As `_fitted`, of this dialogue and these frames."""
        limit, num_turns = self.language.max_positions, len(turns)
        while len((rendered := self._rendered(turns, question, frames)).ids) + max_new_tokens > limit:
            if not turns:
                raise PromptTooLong(
                    f"the prompt has {len(rendered.ids)} tokens and the answer may have {max_new_tokens}, "
                    f"but {limit} are taken in all: use a smaller memory or max_new_tokens"
                )
            turns = turns[max(1, len(turns) // 4) :]
        return rendered, frames, num_turns - len(turns)

    def _answer(
        self, question: PreparedQuestion, keep: bool, *, stops: Sequence[str] = (), **generation: Any
    ) -> Answer:
        question.answer = answer = self._side(question.is_recalled).answer(question, **generation)
        answer.text = answer.text[: min((at for stop in stops if (at := answer.text.find(stop)) >= 0), default=None)]
        with self._state:
            self._last_answer = answer
            if keep:
                seen, last = question.num_seen, question.timestamp
                self._turns.append(AnsweredQuestion(question.text, answer.text, seen, last))
        return answer

    def remember_turn(self, question: str, answer: str) -> None:
        """Add a question that was answered elsewhere to the dialogue, behind the frames seen so far."""
        with self._state:
            self._turns.append(AnsweredQuestion(question, answer, self.memory.num_written, self.memory.last_timestamp))

    def prefill(self, *, give_way: Callable[[], bool] = lambda: False) -> int | None:
        """Bring the cache up to the newest frame while nobody asks, so that a question costs its own tokens only.

        Returns the positions computed, or None where a question has precedence: it gives way to one at once, and where
        `give_way` says so.
        """
        with self._turn.idle() as may:
            if not may:
                return None
            # 1. what any question would begin with now
            with self._state:
                moment = self._moment
                try:
                    rendered, frames, num_dropped, _ = self._fitted("?", 1)
                except PromptTooLong:  # the next question gets this error
                    self._prefilled = moment
                    return 0
                other = self._rendered(self._turns[num_dropped:], "A", frames)
            if not frames:
                return 0
            until = num_common(rendered.ids, other.ids)
            # 2. compute that, in steps, until a question comes
            stop = lambda: self._turn.is_wanted or give_way()  # noqa: E731
            computed = self.language.prefill(rendered, frames, until, stop=stop)
            self._prefilled = self._prefilled if computed is None else moment
            return computed

    @property
    def needs_prefill(self) -> bool:
        """Whether something came since the cache last stood at the newest frame."""
        return self.language.reuse_cache and self.memory.num_written > 0 and self._prefilled != self._moment

    # ---- speaking unasked -----------------------------------------------------------------------------------------

    def watch_for(self, text: str, *, question: str | None = None, expect: str = "Yes", **rule: Any) -> Standing:
        """Give an instruction that stays with the stream: "Tell me when the kettle boils".

        After every frame the model is asked whether the moment has come; where it has, `text` is answered as any
        question is, without becoming a turn of the dialogue, and stands in `watchlist.events`.

        Args:
            question: what is asked at every frame, instead of the one made of `text` (`as_question`).
            expect: the answer to it that means now, "Yes" or "No".
            rule: threshold, refractory, once, quiet_hours: see `standing.Rule`.

        Raises ValueError for an instruction or rule that cannot be followed, or that stands already, and where the
        language model runs in an engine, which tells no probabilities.
        """
        if not self.model.keeps_keys:
            raise ValueError(f"standing instructions {NO_PROBABILITIES}")
        with self._state:
            return self.watchlist.add(text, question, expect, **rule)

    @property
    def standing(self) -> tuple[Standing, ...]:
        """The instructions that are followed now."""
        return tuple(self.watchlist.standing.values())

    def drop_standing(self, key: str) -> Standing:
        """End an instruction, also where its words are still to come. Raises ValueError where none has this key."""
        with self._state:
            dropped = self.watchlist.remove(key)
            self._due = [one for one in self._due if one[0] is not dropped]
            return dropped

    @property
    def needs_reading(self) -> bool:
        """Whether an instruction was not yet read out at the newest frame, or has words to come."""
        with self._state:
            return bool(self._due) or (self.memory.num_written > 0 and bool(self._unread()))

    def _unread(self) -> list[Standing]:
        """Instructions that are to be read out at the newest frame: none where they rest, at an engine."""
        num_seen = self.memory.num_written
        return [each for each in self.standing if each.is_unread(num_seen) and self.model.keeps_keys]

    def read_standing(self, *, give_way: Callable[[], bool] = lambda: False) -> int | None:
        """Read every instruction out at the newest frame, once, and say what has come due.

        Returns the positions computed for the readouts, or None where a question has precedence: it gives way to one at
        once, and the readout also where `give_way` says so. What was left undone is done at the next call.
        """
        with self._turn.idle() as may:
            if not may or not self._say_what_is_due():
                return None
            # 1. all instructions, of one and the same moment
            with self._state:
                num_seen, seconds = self.memory.num_written, self.memory.last_timestamp
                unread = self._unread()
                frames, turns, looks = self.memory.read(), list(self._turns), list(self.looks)
            if not unread or seconds is None:
                return 0
            # 2. what the gate or the model thinks of each
            started = time.perf_counter()
            if self.scorer:
                found: tuple[list[Readout], int] | None = self._gated(self.scorer, unread, looks, seconds), 0
            else:
                stop = lambda: self._turn.is_wanted or give_way()  # noqa: E731
                found = self._read_out(unread, turns, frames, seconds, stop)
            if found is None:
                return None
            # 3. the rule
            self.on_readout(len(unread), time.perf_counter() - started)
            with self._state:
                for standing, readout in zip(unread, found[0], strict=False):  # without room there is no readout
                    if standing.take(readout, num_seen):
                        self._due.append(self._moment_of(standing, seconds, turns, frames))
            self._say_what_is_due()
            return found[1]

    def _gated(
        self, gate: Gate, standing: Sequence[Standing], looks: Sequence[tuple[float, torch.Tensor]], seconds: float
    ) -> list[Readout]:
        """What a gate thinks of each instruction at the newest frame; never, where that frame came before the gate."""
        if not looks or looks[-1][0] != seconds:
            return [Readout(seconds, -inf)] * len(standing)
        times, cells = zip(*looks, strict=True)
        words = [self.language.words(each.wording) for each in standing]
        margins = gate.margins(times, torch.stack(cells), words, len(times) - 1)
        return [Readout(seconds, margin) for (margin,) in margins]

    def _read_out(
        self,
        standing: Sequence[Standing],
        turns: Sequence[AnsweredQuestion],
        frames: list[MemoryFrame],
        seconds: float,
        stop: Callable[[], bool],
    ) -> tuple[list[Readout], int] | None:
        """What the model thinks of each, and the positions computed; None where it gave way, nothing without room."""
        prompts = self._standing_prompts(standing, turns, frames)
        if not prompts:
            return [], 0
        *asked, usual, other = prompts
        shared = min(num_common(one.ids, other.ids) for one in (*asked, usual))
        place: dict[str, Any] = {"seconds": seconds, "shared": shared, "usual_length": len(usual.ids)}
        return read_out(self.language, asked, frames, [each.expect for each in standing], stop=stop, **place)

    def _standing_prompts(
        self, standing: Sequence[Standing], turns: Sequence[AnsweredQuestion], frames: list[MemoryFrame]
    ) -> list[Rendered]:
        """A prompt for each, and the two that idle prefill compares; none where they leave no room."""
        questions = [*(each.question for each in standing), "?", "A"]
        try:
            num_dropped = max(self._fit(question, 2, turns, frames)[2] for question in questions)
        except PromptTooLong as error:
            for each in standing:
                each.num_seen = self.memory.num_written  # tried; the next frame may leave more room
            if not self._lacks_room:
                self._lacks_room = True
                log.warning("standing instructions cannot be read out: %s", error)
            return []
        return [self._rendered(turns[num_dropped:], question, frames) for question in questions]

    def _moment_of(
        self, standing: Standing, seconds: float, turns: Sequence[AnsweredQuestion], frames: list[MemoryFrame]
    ) -> tuple[Standing, StandingEvent, PreparedQuestion | None]:
        """What is to be said, about the frames at which it was decided."""
        assert standing.probability is not None, "it was read out"
        about = standing.key, standing.text, seconds, standing.probability
        moment = StandingEvent(0, *about, text="", quiet=standing.rule.is_quiet())
        if standing.rule.once:
            self.watchlist.standing.pop(standing.key, None)
        try:
            rendered = self._fit(standing.text, WORDS, turns, frames)[0]
        except PromptTooLong as error:
            log.warning("no words for %r at %.1f s: %s", standing.text, seconds, error)
            return standing, moment, None
        started = time.perf_counter()
        question = PreparedQuestion(
            standing.text, rendered, frames, standing.num_seen, seconds, started, self._num_resets
        )
        return standing, moment, question

    def _say_what_is_due(self) -> bool:
        """Find the words for moments that have come; False where a question cut that off, and nothing is lost."""
        while self._due:
            standing, moment, question = head = self._due[0]
            text, stop = "", GivesWay(lambda: self._turn.is_wanted)
            if question is not None:
                text = self.language.answer(question, stop=stop, max_new_tokens=WORDS).text
            if stop.gave_way:
                return False
            with self._state:
                if head in self._due:  # else it was dropped meanwhile
                    self._due.remove(head)
                    standing.last = self.watchlist.note(moment, text)
                    self.watchlist.on_event(standing)
        return True

    @property
    def is_asked(self) -> bool:
        """Whether a question waits or is being answered now."""
        return self._turn.is_asked

    @property
    def _moment(self) -> tuple[int, ...]:
        """Changes with everything that a prompt is made of."""
        return self._num_resets, self.memory.num_written, self._num_forgotten, len(self._turns)

    def prompt(self, question: str) -> tuple[Rendered, list[MemoryFrame]]:
        """What the model would be shown for this question now: the prompt, and the frames in it, oldest first.

        A dialogue that leaves no room for an answer goes without its oldest turns, as in `ask`.
        """
        return self._fitted(question, 1)[:2]

    def _rendered(self, turns: Sequence[AnsweredQuestion], question: str, frames: Sequence[MemoryFrame]) -> Rendered:
        shown = [(f.index, f.timestamp if self.timestamps else None, f.num_tokens) for f in frames]
        style = self.processor.template.frame
        messages = stream_dialogue(turns, question, shown, system_prompt=self.system_prompt, style=style)
        return self.processor.render(messages, generate=True)

    def score_options(self, question: str, options: Sequence[str], *, without_frames: bool = False) -> list[float]:
        """Log-probability of each option as the whole answer (natural log, summed over its tokens and the end mark).

        The dialogue is not changed. All options are scored against one and the same memory.
        """
        if not options:
            raise ValueError("no options to score")
        answers = [self.processor.answer_ids(option) for option in options]
        with self._turn.question():
            self._check_question(question, without_frames)
            rendered, frames, _, is_recalled = self._fitted(question, max(map(len, answers)))
            return self._side(is_recalled).score(rendered, frames, answers)

    def _check_question(self, question: str, without_frames: bool) -> None:
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"a question must be a text that is not empty, got {question!r}")
        if self.memory.num_written == 0 and not without_frames:
            raise ValueError("a question came before any frame: call see() first, or pass without_frames=True")

    # ---- looking at the session -----------------------------------------------------------------------------------

    @property
    def turns(self) -> tuple[AnsweredQuestion, ...]:
        """The dialogue so far."""
        return tuple(self._turns)

    def stats(self) -> SessionStats:
        """Counters, for a person or a log."""
        with self._state:
            seen, last = self.memory.num_written, self._last_answer
            archive = self._recall.archive.num_bytes if self._recall else 0
            sides = [self.language, *([self._recall.language] if self._recall else [])]
            return SessionStats(
                frames_seen=seen,
                frames_skipped=self._num_skipped,
                frames_held=list(self.memory.num_held),
                tokens=self.memory.num_tokens,
                bytes=self.memory.num_bytes + archive,
                encode_fps=seen / self._encode_seconds if self._encode_seconds else None,
                last_timestamp=self.memory.last_timestamp,
                questions=len(self._turns) + self._num_forgotten,
                turns_forgotten=self._num_forgotten,
                cache_bytes=sum(side.num_bytes for side in sides),
                cache_bytes_at_most=sum(side.max_bytes for side in sides),
                prompt_tokens=last.prompt_tokens if last else None,
                cached_tokens=last.cached_tokens if last else None,
                time_to_first_token=last.time_to_first_token if last else None,
                latency=last.duration if last else None,
            )

    def save(self, path: str | Path) -> None:
        """Write memory and dialogue into one safetensors file; written whole or not at all."""
        with self._state:
            state = self.memory.state_dict() | (self._recall.state_dict() if self._recall else {})
            tensors = {key: value.contiguous().cpu() for key, value in state.items()}
            if self.looks:
                tensors["looks"] = torch.stack([cells for _, cells in self.looks])
            about = {
                **{name: getattr(self, name) for name in self._options()},
                "memory": self.memory.config.to_dict(),
                "picture_size": self._size if self.memory.num_written else None,
                "model": self._fingerprint(self.model),
                "encode_seconds": self._encode_seconds,
                "num_skipped": self._num_skipped,
                "num_forgotten": self._num_forgotten,
                "turns": [asdict(turn) for turn in self._turns],
                "watchlist": self.watchlist.state_dict([moment for _, moment, _ in self._due]),
                "looks": [time for time, _ in self.looks],
            }
        write_session(path, tensors, about)

    @classmethod
    def restore(cls, model: Backbone, processor: Processor, path: str | Path) -> StreamingSession:
        """A session that continues where `save` left it. At an engine its standing instructions rest, with a warning.

        Raises ValueError where the file is not a session, or is one of a model of another shape.
        """
        about, tensors = read_session(path)
        if about["model"] != cls._fingerprint(model):
            raise ValueError(f"{path} is a session of a model {about['model']}, not of {cls._fingerprint(model)}")
        options = {name: about[name] for name in cls._options() if name in about}  # an older file may know fewer
        older = {"small_frames": "pooled"}  # what a file that says nothing of it was made with, and with squares
        session = cls(model, processor, memory=MemoryConfig.from_dict(older | about["memory"]), **options)
        if size := about.get("picture_size"):
            session._size = (size[0], size[1])
            session.memory.reset(session._grids_of(size))
        archive = {key: tensors.pop(key) for key in list(tensors) if key.startswith(ARCHIVE)}
        session.looks.extend(zip(about.get("looks", ()), tensors.pop("looks", ()), strict=True))
        maps = {key: value.to(model.device, model.dtype) for key, value in tensors.items() if ".features" in key}
        session.memory.load_state_dict({**tensors, **maps})
        if session._recall:
            session._recall.load_state_dict(
                archive | {key: each.to(model.dtype) for key, each in archive.items() if ".features" in key}
            )
        if not size and model.config.any_shape and session.memory.num_written:  # an older file, or a model of squares
            session._size = model.config.image_size, model.config.image_size
        session._turns = [AnsweredQuestion(**turn) for turn in about["turns"]]
        session._encode_seconds, session._num_skipped = about["encode_seconds"], about["num_skipped"]
        session._num_forgotten = about["num_forgotten"]
        if "watchlist" in about:  # not in an older file
            session.watchlist.load_state_dict(about["watchlist"])
        if session.standing and not model.keeps_keys:
            log.warning("the standing instructions in %s %s: they rest, and are saved again", path, NO_PROBABILITIES)
        return session

    @classmethod
    def _options(cls) -> list[str]:
        """What the constructor takes beside a model and its memory, each kept under its name: what `save` writes."""
        others = ("model", "processor", "memory", "encoder", "decoder")
        return [name for name in signature(cls).parameters if name not in others]

    @staticmethod
    def _fingerprint(model: Backbone) -> dict[str, Any]:
        """What must be equal for one model's memory to mean anything to another."""
        config = model.config
        return {"channels": config.feature_size, "grid": config.grid, "template": config.template}
