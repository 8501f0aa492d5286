"""Answers of several sessions made together: one pass of the language model gives each of them its next token.

A session's prompt goes into its own cache, alone; from then on its answer is a row. Whoever waits for a token when a
pass begins is in it, so rows come and go between any two passes. While rows are decoded together their keys and values
lie in one cache, padded on the left, and nowhere else; who leaves gets them back. One thread makes all passes; an
answer that has no company is made in its own. Knows no text and no stream.

B rows, N positions of the longest.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from transformers import Cache

if TYPE_CHECKING:
    from ..model.backbone import Backbone

Found = TypeVar("Found")
GATHER_SECONDS = 0.05
"""So long rows let prompts go first, and wait for a row that is late: then as many as can be are in the next pass."""
CHANGES_NOTHING = {
    "bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p",
    "max_length", "max_new_tokens", "use_cache", "num_beams", "transformers_version", "_from_model_config",
}  # fmt: skip
"""What a checkpoint's generation_config.json may say: we say it ourselves, or it is of sampling alone."""
CLOSED = "the shared decoder is closed"


@dataclass(eq=False)
class AnswerRow:
    """One answer while it is made, for the thread that makes it; see `SharedDecoder.row`."""

    decoder: SharedDecoder
    first: torch.Tensor
    """Position ids (..., 1, 1) of its first token."""
    factors: int
    """Its rotary factors (`factor_set`): all rows of a pass have the same."""
    cache: Cache | None = None
    """To be set to the one with its prompt, before the first step. When the row is over it has all tokens' keys."""
    num_done: int = 0
    """Tokens whose keys were computed."""
    token: int = -1
    made: Future[torch.Tensor] = field(default_factory=Future)
    error: BaseException | None = None
    """Why its keys are lost."""

    def compute(self, call: Callable[[], Found]) -> Found:
        """What `call` returns, made between two passes; the next one waits for this row."""
        return self.decoder._ask(call, self)

    def step(self, token: int) -> torch.Tensor:
        """Logits (1, vocabulary) behind one more token."""
        self.token, self.made = token, Future()
        self.decoder._wait_for_pass(self)
        return self.made.result()

    @property
    def has_company(self) -> bool:
        """Whether other answers are being made."""
        return bool(self.decoder._expected - {self})


def makes_together(model: Backbone) -> bool:
    """Whether answers need a language model that runs here, and nothing that only transformers' generate does."""
    config = getattr(model, "generation_config", None)
    said = {} if config is None else config.to_diff_dict()
    acts = {name for name, value in said.items() if value and (value is True or value != 1)}
    return model.keeps_keys and acts <= CHANGES_NOTHING


class SharedDecoder:
    """Makes the answers of all sessions that are given it. A context manager: leaving it ends its thread."""

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.is_able = makes_together(model)
        """Else each answer is made alone, by generate."""
        self.num_passes = self.num_tokens = 0
        """Passes, and tokens that came of them."""
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any], AnswerRow | None]] = deque()
        self._waiting: list[AnswerRow] = []
        self._since = 0.0  # when the first of them came
        self._expected: set[AnswerRow] = set()  # a pass waits for these
        self._groups: dict[int, _Group] = {}  # by rotary factors
        self._making = threading.Lock()  # held while the model runs for us
        self._is_closed = False
        self._thread: threading.Thread | None = None  # from the first answer on

    @contextmanager
    def row(self, first: torch.Tensor, factors: int) -> Iterator[AnswerRow]:
        """An answer that is made in this thread; see `AnswerRow`."""
        _OF_THREAD.row = row = AnswerRow(self, first, factors)
        try:
            yield row
        finally:
            _OF_THREAD.row = None
            self._expect(row, False)
            self._ask(partial(self._let_go, row), None)

    @property
    def num_bytes(self) -> int:
        """Of keys and values of the answers that are being made together."""
        return sum(group.num_bytes for group in list(self._groups.values()))

    def close(self) -> None:
        """End the thread; answers that are being made end with an error. May be called again."""
        with self._changed:
            self._is_closed, thread = True, self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()

    def __enter__(self) -> SharedDecoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- in the threads of answers ---------------------------------------------------------------------------------

    def _ask(self, call: Callable[[], Found], row: AnswerRow | None) -> Found:
        """What `call` returns, made by our thread, after which passes wait for `row`; without a row it goes first."""
        done: Future[Found] = Future()
        with self._changed:
            if self._is_closed and row is not None:
                raise ValueError(CLOSED)
            if not (is_alone := self._is_alone(row)):
                self._jobs.insert(0 if row is None else len(self._jobs), (call, done, row))
                self._notify()
        if is_alone:
            self._make(partial(self._do, call, done, row))
        return done.result()

    def _wait_for_pass(self, row: AnswerRow) -> None:
        with self._changed:
            if row.error is not None or self._is_closed:
                raise row.error or ValueError(CLOSED)
            self._expected.add(row)  # again, where it came late
            if not (is_alone := self._is_alone(row)):
                self._since = self._since if self._waiting else time.monotonic()
                self._waiting.append(row)
                if len(self._waiting) == 1 or self._expected.issubset(self._waiting):
                    self._notify()
        if is_alone:
            self._make(partial(self._pass, [row]))

    def _is_alone(self, row: AnswerRow | None) -> bool:
        """Whether nobody else wants anything now: then the thread of this row does the work itself, by `_make`."""
        others = self._jobs or self._waiting or self._expected - {row}
        return not others and self._making.acquire(blocking=False)

    def _make(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._making.release()

    def _notify(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="videochat-online-decoder", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _expect(self, row: AnswerRow, is_coming: bool) -> None:
        with self._changed:
            (self._expected.add if is_coming else self._expected.discard)(row)
            self._changed.notify()

    # ---- in our own thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (work := self._next()) is not None:
            self._making.acquire()
            self._make(work)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while True:
                left = self._since + GATHER_SECONDS - time.monotonic() if self._waiting else None
                is_due = left is not None and (left <= 0 or self._is_closed)
                if self._jobs and not is_due:
                    return partial(self._do, *self._jobs.popleft())
                if self._waiting and (is_due or self._expected.issubset(self._waiting)):
                    rows, self._waiting = self._waiting, []
                    self._expected = set(rows)  # who is late is expected again when it has come
                    return partial(self._pass, rows)
                if self._is_closed and not self._waiting:
                    self._thread = None
                    return None
                self._changed.wait(left)

    def _do(self, call: Callable[[], Any], done: Future[Any], row: AnswerRow | None) -> None:
        try:
            found = call()
        except BaseException as error:  # raised in the thread that wants it
            done.set_exception(error)
            return
        if row is not None:
            with self._changed:
                self._expected.add(row)
        done.set_result(found)

    def _pass(self, waiting: Sequence[AnswerRow]) -> None:
        """A token for each that waits."""
        for factors in dict.fromkeys(row.factors for row in waiting):
            rows = [row for row in waiting if row.factors == factors]
            group = self._groups.setdefault(factors, _Group(self.model))
            try:
                logits = group.step(rows)
            except BaseException as error:  # how far it got is not known: none of its rows can go on
                del self._groups[factors]
                for row in {*rows, *group.rows}:
                    row.error = error
                for row in rows:
                    row.made.set_exception(error)
                continue
            self.num_passes, self.num_tokens = self.num_passes + 1, self.num_tokens + len(rows)
            for row, of_row in zip(group.rows, logits.split(1), strict=True):
                row.made.set_result(of_row)

    def _let_go(self, row: AnswerRow) -> None:
        group = self._groups.get(row.factors)
        if group is not None and row in group.rows:
            group.let_go(row)
            if not group.rows:
                del self._groups[row.factors]


_OF_THREAD = threading.local()


@contextmanager
def aside() -> Iterator[None]:
    """Around a wait in the middle of an answer, in its thread: those made together with it go on without it."""
    row: AnswerRow | None = getattr(_OF_THREAD, "row", None)
    if row is None:
        yield
        return
    was_expected = row in row.decoder._expected  # not before its prompt is computed
    row.decoder._expect(row, False)
    try:
        yield
    finally:
        row.decoder._expect(row, was_expected)


class _Group:
    """Rows whose keys and values lie in one cache; a single one keeps its own."""

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.rows: list[AnswerRow] = []
        """Of the last pass, in the order of the cache, without those that were let go."""
        self._places: dict[AnswerRow, tuple[int, int]] = {}  # in the cache, and how much padding stands before it
        self._cache: Cache | None = None
        self._positions = torch.empty(0)  # (..., B, 1), of the next tokens
        self._seen = torch.empty(0, 0)  # (B, N), 0: padding; B with those that were let go since

    @property
    def _layers(self) -> list[Any]:
        return _layers_of(self._cache)

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for layer in self._layers for part in (layer.keys, layer.values))

    @torch.no_grad()
    def step(self, rows: Sequence[AnswerRow]) -> torch.Tensor:
        """Logits (B, vocabulary) behind the token of each of these rows, which are `self.rows` from now on."""
        if len(self.rows) != len(self._seen) or set(rows) != set(self.rows):
            self._gather(rows)
        tokens = torch.tensor([[row.token] for row in self.rows], device=self.model.device)
        self._seen = F.pad(self._seen, (0, 1), value=1)
        is_alone = self._cache is None
        done = self.model(
            inputs_embeds=self.model.embed_words(tokens),
            position_ids=self._positions,
            attention_mask=None if is_alone else self._seen,
            cache=rows[0].cache if is_alone else self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._positions = self._positions + 1
        for row in rows:
            row.num_done += 1
        return done.logits[:, -1]

    def let_go(self, row: AnswerRow) -> None:
        """It has its keys and values in its own cache again."""
        self.rows.remove(row)
        if row not in self._places:
            return
        place, pad = self._places.pop(row)
        for own, layer in zip(_layers_of(row.cache), self._layers, strict=True):
            own.keys, own.values = (part[place : place + 1, :, pad:].clone() for part in (layer.keys, layer.values))

    def _gather(self, rows: Sequence[AnswerRow]) -> None:
        """Bring keys and values of these rows, where they are several, into one cache; others get theirs back."""
        for row in [row for row in self.rows if len(rows) == 1 or row not in rows]:
            self.let_go(row)
        lengths = [self._length(row) for row in rows]
        pads = [max(lengths) - length for length in lengths]
        cache = None
        if len(rows) > 1:
            cache, layers = copy.copy(rows[0].cache), []
            assert cache is not None, "a row has its prompt before its first step"
            for number, like in enumerate(_layers_of(rows[0].cache)):
                keys, values = zip(*(self._taken(row, number) for row in rows), strict=True)
                layer = copy.copy(like)
                layer.keys, layer.values = _padded(keys, pads), _padded(values, pads)
                layers.append(layer)
                if self._places:  # layer by layer, so that no more than one of them is held twice
                    self._layers[number].keys = self._layers[number].values = keys[0][:, :, :0].clone()
            cache.layers = layers
        # from here on nothing can fail
        self.rows, self._cache = list(rows), cache
        self._places = {} if cache is None else dict(zip(rows, enumerate(pads), strict=True))
        self._positions = torch.cat([row.first + row.num_done for row in rows], dim=-2)
        columns = torch.arange(max(lengths), device=self.model.device)
        self._seen = (columns >= torch.tensor(pads, device=self.model.device)[:, None]).long()

    def _length(self, row: AnswerRow) -> int:
        if row in self._places:
            return self._seen.shape[1] - self._places[row][1]
        return int(_layers_of(row.cache)[0].keys.shape[2])

    def _taken(self, row: AnswerRow, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values (1, heads, its length, d) of a row, which its own cache then has no longer."""
        if row in self._places:
            (place, pad), layer = self._places[row], self._layers[number]
            return layer.keys[place : place + 1, :, pad:], layer.values[place : place + 1, :, pad:]
        own = _layers_of(row.cache)[number]
        keys, values = own.keys, own.values
        own.keys, own.values = keys[:, :, :0].clone(), values[:, :, :0].clone()
        return keys, values


def _layers_of(cache: Cache | None) -> list[Any]:
    """Each with `keys` and `values` (B, heads, N, d)."""
    return [] if cache is None else cache.layers


def _padded(parts: Sequence[torch.Tensor], pads: Sequence[int]) -> torch.Tensor:
    """(1, heads, length, d) of several lengths -> (B, heads, longest, d), zeros before the shorter ones."""
    _, heads, length, width = parts[0].shape
    made = parts[0].new_zeros(len(parts), heads, length + pads[0], width)
    for row, part, pad in zip(made, parts, pads, strict=True):
        row[:, pad:] = part[0]
    return made
