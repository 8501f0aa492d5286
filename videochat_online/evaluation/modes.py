"""How a video is shown and when its questions are asked: a window before each, or one pass over the stream.

A mode turns (video, questions) into replies; it knows neither benchmark nor model, only the `Responder` protocol.
No mode ever shows a frame later than the time of its question. In one pass each frame is read and encoded once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from ..config import AnswerMode
from ..media.readers import MediaError
from ..media.sampling import sample_pass, sample_window
from .benchmarks.base import ModeSettings
from .questions import Question, Reply, VideoTask
from .videos import OpenVideo

ModeName = Literal["sliding_window", "streaming", "prefix", "blind"]
BATCH = 16
"""Frames read and encoded together at most."""


class Conversation(Protocol):
    """A model that has seen some frames and can be asked."""

    def see(self, frames: Sequence[np.ndarray], timestamps: Sequence[float]) -> None:
        """Show frames, uint8 (H, W, 3), in the order of time."""

    def ask(self, prompt: str, *, max_new_tokens: int, keep: bool) -> str:
        """The reply; `keep` leaves question and reply in the dialogue for later questions."""

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        """Log-likelihood of each option as the reply. Leaves the dialogue as it was."""


class Responder(Protocol):
    """A model under test."""

    def open(self, system_prompt: str | None) -> Conversation:
        """A fresh conversation that has seen nothing."""


@dataclass(frozen=True)
class Asking:
    """How questions are put, the same in every mode."""

    answer: AnswerMode = "generate"
    """`likelihood`: the label the model finds most probable; open questions are generated all the same."""
    max_new_tokens: int = 128
    multi_turn: bool = False
    """Earlier questions and answers about a video stay in the dialogue (one-pass mode only)."""
    system_prompt: str | None = None


Outcomes = Iterator[tuple[Question, Reply | MediaError]]
"""Each question with its reply, or with what kept it from being asked."""


@dataclass(frozen=True)
class Query:
    """A time at which something is asked."""

    time: float
    question: Question
    polling: bool = False
    """Ask whether it is time yet, and the question itself only then."""
    final: bool = True
    """No later query belongs to this question."""


def queries_of(questions: Sequence[Question]) -> list[Query]:
    """Every time of asking, in order: one for a plain question, several for a polled one."""
    queries = []
    for question in questions:
        if question.poll is None:
            queries.append(Query(question.timestamp, question))
            continue
        times = question.poll.times()
        queries += [Query(time, question, polling=True, final=time == times[-1]) for time in times]
    return sorted(queries, key=lambda query: (query.time, query.question.id))


def blind(task: VideoTask, responder: Responder, asking: Asking, done: Collection[str]) -> Outcomes:
    """Ask without showing anything: what the words alone give away."""

    def show(conversation: Conversation, query: Query) -> Reply:
        return Reply("", 0, 0, None, None, 0.0, 0.0)

    return _one_by_one(task, responder, asking, done, show)


def sliding_window(
    task: VideoTask,
    video: OpenVideo,
    settings: ModeSettings,
    responder: Responder,
    asking: Asking,
    done: Collection[str],
) -> Outcomes:
    """For each question a fresh conversation that has seen the frames of the window before it."""

    def show(conversation: Conversation, query: Query) -> Reply:
        start = max(task.start, query.question.timestamp) if query.polling else task.start
        first = _first_index(video, start, query.time)
        times = video.timestamps[first:]
        seconds = float(times[-1] - times[0])
        if settings.window is not None and not query.polling:
            seconds = settings.window
        rate = video.reader.fps
        window = sample_window(times, query.time, seconds, settings.fps, settings.frames, video_fps=rate)
        return _show(conversation, video, [first + index for index in window], query)

    return _one_by_one(task, responder, asking, done, show)


def prefix(
    task: VideoTask,
    video: OpenVideo,
    settings: ModeSettings,
    responder: Responder,
    asking: Asking,
    done: Collection[str],
) -> Outcomes:
    """The stream up to each question, encoded again for it: the straightforward counterpart of `streaming`."""

    def show(conversation: Conversation, query: Query) -> Reply:
        return _show(conversation, video, _stream_indices(task, video, settings, query.time), query)

    return _one_by_one(task, responder, asking, done, show)


def streaming(
    task: VideoTask,
    video: OpenVideo,
    settings: ModeSettings,
    responder: Responder,
    asking: Asking,
    done: Collection[str],
) -> Outcomes:
    """One pass over the video; each question is asked when its time has come.

    Questions in `done` are not asked again, except to rebuild the dialogue of a multi-turn run. Frames are shown in
    the same batches whatever is in `done`, so that a run that was cut off gives the very same answers.
    """
    # 1. The frames of the pass, up to the last question that is open
    queries = queries_of(task.questions)
    while queries and queries[-1].question.id in done:
        queries.pop()
    if not queries:
        return
    indices = _stream_indices(task, video, settings, queries[-1].time)
    times = video.timestamps[indices]
    conversation = responder.open(asking.system_prompt)
    finished = set() if asking.multi_turn else set(done)
    spent: dict[str, Reply] = {}
    seen, waiting = 0, None
    for query in queries:
        question = query.question
        upto = int(np.searchsorted(times, query.time, side="right"))
        outcome: Reply | MediaError = _nothing_to_show(video, query)
        if upto > 0:  # 2. Show the frames up to this query
            waiting = _add_costs(waiting, _show(conversation, video, indices[:upto], query, already=seen))
            seen = upto
        if question.id in finished:
            continue
        if waiting is not None:  # 3. Ask
            outcome = _ask(conversation, query, asking, _add_costs(spent.get(question.id), waiting))
            spent[question.id], waiting = outcome, None
        if query.final or (isinstance(outcome, Reply) and outcome.answered_at is not None):
            finished.add(question.id)
            if question.id not in done:
                yield question, outcome


def _one_by_one(
    task: VideoTask,
    responder: Responder,
    asking: Asking,
    done: Collection[str],
    show: Callable[[Conversation, Query], Reply],
) -> Outcomes:
    """Each question in conversations of its own; `show` puts the frames in and says what they cost."""
    for question in task.questions:
        if question.id in done:
            continue
        outcome: Reply | MediaError | None = None
        for query in queries_of([question]):
            conversation = responder.open(asking.system_prompt)
            earlier = outcome if isinstance(outcome, Reply) else None
            try:
                outcome = _ask(conversation, query, asking, _add_costs(earlier, show(conversation, query)))
            except MediaError as error:
                outcome = error
            if isinstance(outcome, MediaError) or outcome.answered_at is not None:
                break
        assert outcome is not None, f"question {question.id} has no time of asking"
        yield question, outcome


def _first_index(video: OpenVideo, start: float, needed: float) -> int:
    """The first frame that starts at `start` or later; where none does by `needed`, the one on screen at `start`."""
    first = int(np.searchsorted(video.timestamps, start))
    if first == len(video.timestamps) or video.timestamps[first] > needed:
        first = max(0, first - 1)
    return first


def _stream_indices(task: VideoTask, video: OpenVideo, settings: ModeSettings, end: float) -> list[int]:
    """Frames of the pass: from the task's start on, at the mode's rate, up to `end`."""
    start = float(video.timestamps[_first_index(video, task.start, task.questions[0].timestamp)])
    return sample_pass(video.timestamps, settings.fps, start, end, video_fps=video.reader.fps)


def _show(
    conversation: Conversation, video: OpenVideo, indices: Sequence[int], query: Query, *, already: int = 0
) -> Reply:
    """Read and show `indices` but the first `already`, which have been shown, in batches.

    Returns a reply without words that says what has been shown so far, and the cost of the new frames.
    """
    if len(indices) == 0:
        raise _nothing_to_show(video, query)
    times = [float(second) for second in video.timestamps[list(indices)]]
    assert times[-1] <= query.time, f"frame at {times[-1]} s shown for a question at {query.time} s"
    began = time.perf_counter()
    images: list[np.ndarray] = []
    for position, frame in enumerate(video.reader.read(indices[already:]), already):
        images.append(frame.image)
        if len(images) == BATCH or position == len(indices) - 1:
            conversation.see(images, times[position + 1 - len(images) : position + 1])
            images = []
    cost = time.perf_counter() - began
    return Reply("", len(indices), len(indices) - already, times[0], times[-1], cost, 0.0)


def _nothing_to_show(video: OpenVideo, query: Query) -> MediaError:
    return MediaError(
        f"{video.reader.name}: no frame to show at {query.time:.1f} s; expected a video that has begun by then, "
        f"its first frame is at {video.timestamps[0]:.1f} s"
    )


def _add_costs(earlier: Reply | None, shown: Reply) -> Reply:
    """What was shown now, with the costs of the same question's earlier queries."""
    if earlier is None:
        return shown
    return replace(
        shown,
        new_frames=earlier.new_frames + shown.new_frames,
        frame_seconds=earlier.frame_seconds + shown.frame_seconds,
        answer_seconds=earlier.answer_seconds + shown.answer_seconds,
    )


def _ask(conversation: Conversation, query: Query, asking: Asking, shown: Reply) -> Reply:
    """Put the question (or the poll first) and add words and time to `shown`."""
    began = time.perf_counter()
    question = query.question
    scores: tuple[float, ...] = ()
    answered_at = None
    tokens = asking.max_new_tokens
    if query.polling and question.poll is not None:
        text = conversation.ask(question.poll.prompt, max_new_tokens=tokens, keep=False)
        if "yes" in text.lower():
            text = conversation.ask(question.prompt, max_new_tokens=tokens, keep=asking.multi_turn)
            answered_at = query.time
    elif asking.answer == "likelihood" and question.labels:
        scores = _label_scores(conversation, question)
        text = question.labels[int(np.argmax(scores))]
    else:
        text = conversation.ask(question.prompt, max_new_tokens=tokens, keep=asking.multi_turn)
    spent = shown.answer_seconds + time.perf_counter() - began
    return replace(shown, text=text, scores=scores, answered_at=answered_at, answer_seconds=spent)


def _label_scores(conversation: Conversation, question: Question) -> tuple[float, ...]:
    """Log-likelihood of each label, summed over the ways to write it (see Question.written)."""
    forms = [question.written(i) for i in range(len(question.labels))]
    values = iter(conversation.score_options(question.prompt, [form for written in forms for form in written]))
    return tuple(float(np.logaddexp.reduce([next(values) for _ in written])) for written in forms)
