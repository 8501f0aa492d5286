"""How a video is shown and when its questions are asked: a window before each, or one pass over the stream.

An examiner turns a video's questions into replies; it knows no benchmark, and of a model the `Responder` protocol only.
No mode ever shows a frame later than the time of its question, unless the settings ask for the frames of the published
scripts (published.py). In one pass each frame is read and encoded once.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from ..media.readers import MediaError
from ..media.sampling import sample_pass, sample_window, thin
from .benchmarks.base import Settings
from .questions import Question, Reply, VideoTask
from .videos import BATCH, FramesAhead, OpenVideo, known_times, printed_times, published_pass, published_window

ModeName = Literal["sliding_window", "streaming", "prefix", "blind"]
MODES = ("sliding_window", "streaming", "prefix")
"""Those that show frames."""


class Conversation(Protocol):
    """A model that has seen some frames and can be asked."""

    def see(self, frames: Sequence[Any], timestamps: Sequence[float]) -> None:
        """Show frames in the order of time: uint8 (H, W, 3), or what an `EarlyResponder` has made of them."""

    def ask(self, prompt: str, *, max_new_tokens: int, keep: bool) -> str:
        """The reply; `keep` leaves question and reply in the dialogue for later questions."""

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        """Log-likelihood of each option as the reply. Leaves the dialogue as it was."""


class Responder(Protocol):
    """A model under test."""

    def open(self, system_prompt: str | None) -> Conversation:
        """A fresh conversation that has seen nothing."""


@runtime_checkable
class EarlyResponder(Protocol):
    """A model under test that does most of its work on a frame before it is shown."""

    def ready(self, frames: Sequence[np.ndarray]) -> Sequence[Any]:
        """What `see` takes for these frames, uint8 (H, W, 3), in whatever parts. Called in another thread."""


@runtime_checkable
class Recalling(Protocol):
    """A conversation that can be told what was asked and replied before."""

    def recall(self, prompt: str, reply: str) -> None:
        """Put question and reply into the dialogue, behind the frames seen so far."""


Outcomes = Iterator[tuple[Question, Reply | MediaError]]
"""Each question with its reply, or with what kept it from being asked."""


@dataclass(frozen=True)
class VideoPlan:
    """What one video is shown for, and asked; to be closed before the video is."""

    queries: Sequence[tuple[float, Question]]
    """The moment of each, in the order of asking."""
    showings: Sequence[Sequence[int]] = ()
    """Of a pass: the one that all queries share; else one a query."""
    again: frozenset[int] = frozenset()
    """Numbers of queries that see the very frames of the query before: they are asked in its conversation."""
    frames: FramesAhead | None = None
    """None: nothing is shown."""

    def close(self) -> None:
        if self.frames is not None:
            self.frames.close()


@dataclass(frozen=True)
class Examiner:
    """Shows videos to one model in one mode and asks it: the same for all videos of a run."""

    responder: Responder | None
    """None: only `frames`, `times` and `queries` are of use."""
    mode: ModeName
    settings: Settings

    def examine(
        self, task: VideoTask, video: OpenVideo | None, done: Collection[str] = (), plan: VideoPlan | None = None
    ) -> Outcomes:
        """The outcomes of all questions but those whose ids are in `done`. `video`: None for the mode blind.

        `done` may give the reply of each: a dialogue that is kept is then rebuilt without asking.

        `plan`: of the same task and video, where their frames are being made ready already. Raises MediaError where the
        video breaks during a pass: no later question can be asked.
        """
        with closing(plan or self.begin(task, video, done)) as begun:
            if self.mode == "streaming" and video is not None:
                yield from self._one_pass(task, video, done, begun)
            else:
                yield from self._one_by_one(video, begun)

    def begin(self, task: VideoTask, video: OpenVideo | None, done: Collection[str] = ()) -> VideoPlan:
        """What will be asked and shown; the frames are made ready from now on."""
        if self.mode == "streaming" and video is not None:
            queries, showings = self._plan_of_pass(task, video, done)
        else:
            asked = (question for question in task.questions if question.id not in done)
            queries = [(moment, question) for question in asked for moment in question.moments]
            showings = [] if video is None else [self.frames(task, video, question, at) for at, question in queries]
        if video is None or not queries:
            return VideoPlan(queries)
        ready = self.responder.ready if isinstance(self.responder, EarlyResponder) else None
        again = frozenset(
            number
            for number in range(1, len(showings))
            if ready and self.mode == "sliding_window" and showings[number] == showings[number - 1]
            if not any(question.poll for _, question in queries[number - 1 : number + 1])  # an answer ends these early
        )
        to_read = [[] if number in again else list(showing) for number, showing in enumerate(showings)]
        return VideoPlan(queries, showings, again, FramesAhead(video.reader, to_read, ready))

    def _plan_of_pass(
        self, task: VideoTask, video: OpenVideo, done: Collection[str]
    ) -> tuple[list[tuple[float, Question]], list[list[int]]]:
        """Queries and frames up to the last question that is open, in the batches of a run in which all are."""
        queries = self.queries(task)
        whole = self._stream(task, video, queries[-1][0])
        while queries and queries[-1][1].id in done:
            queries.pop()
        num = max((self._num_seen(task, video, question, moment, whole) for moment, question in queries), default=0)
        return queries, [whole[: -(-num // BATCH) * BATCH]]

    def _open(self) -> Conversation:
        assert self.responder is not None, "nobody is there to be asked"
        return self.responder.open(self.settings.system_prompt)

    def _one_by_one(self, video: OpenVideo | None, plan: VideoPlan) -> Outcomes:
        """Each question in conversations of its own, which begin with the frames that its mode shows."""
        begun: tuple[Conversation, Reply] | MediaError | None = None
        for _, numbered in groupby(enumerate(plan.queries), key=lambda query: query[1][1].id):
            reply = Reply()
            error: MediaError | None = None
            try:
                for number, (moment, question) in numbered:
                    if number not in plan.again or begun is None:
                        begun = self._begun(video, plan, number, moment)
                    if isinstance(begun, MediaError):
                        raise begun
                    conversation, shown = begun
                    reply = self._ask(conversation, question, moment, _with_costs(shown, reply))
                    begun = conversation, replace(shown, new_frames=0, frame_seconds=0.0)
                    if reply.answered_at is not None:
                        break
            except MediaError as found:
                error = found
            yield question, error or reply

    def _begun(
        self, video: OpenVideo | None, plan: VideoPlan, number: int, moment: float
    ) -> tuple[Conversation, Reply] | MediaError:
        """A conversation that has seen a showing, and what it cost."""
        conversation = self._open()
        try:
            return conversation, Reply() if video is None else self._show(conversation, video, plan, number, moment)
        except MediaError as error:
            return error

    def frames(self, task: VideoTask, video: OpenVideo, question: Question, moment: float) -> list[int]:
        """What one question is shown at `moment`: the stream up to it, or the window before it. Reads no frame."""
        if self.mode != "sliding_window":
            stream = self._stream(task, video, moment)
            return stream[: self._num_seen(task, video, question, moment, stream)]
        fps, seconds, most = self.settings.fps, self.settings.window or np.inf, self.settings.frames
        if self.settings.script_frames:
            start = task.segment_start or task.start
            return published_window(video, moment, start=start, seconds=seconds, fps=fps, max_frames=most)
        polling = question.poll is not None  # all that came after such a question is shown
        first = video.first_index(max(task.start, question.timestamp) if polling else task.start, moment)
        times = video.timestamps[first:]
        if np.isinf(seconds) or polling:
            seconds = float(times[-1] - times[0])
        window = sample_window(times, moment, seconds, fps, most, video_fps=video.reader.fps)
        return [first + index for index in window]

    def times(self, video: OpenVideo, indices: Sequence[int]) -> list[float]:
        """Seconds that the model is told of these frames."""
        if self.settings.script_frames:
            return printed_times(video, indices)
        return [float(second) for second in video.timestamps[list(indices)]]

    def queries(self, task: VideoTask) -> list[tuple[float, Question]]:
        """All moments of all questions in the order of asking; whom the published scripts show the whole clip: last."""
        script = self.settings.script_frames
        moments = ((moment, question) for question in task.questions for moment in question.moments)
        return sorted(moments, key=lambda query: (script and query[1].id == task.last, query[0], query[1].id))

    def _num_seen(
        self, task: VideoTask, video: OpenVideo, question: Question, moment: float, stream: Sequence[int]
    ) -> int:
        """How many frames of a pass have been shown when a question is asked."""
        if not self.settings.script_frames:
            return int(np.searchsorted(video.timestamps[stream], moment, side="right"))
        whole = question.id == task.last
        return len(stream) if whole else int(np.searchsorted(known_times(video)[stream], moment, side="right"))

    def _stream(self, task: VideoTask, video: OpenVideo, end: float) -> list[int]:
        """Frames of a pass: from the task's start on, at the mode's rate, up to `end` (of the scripts: of the clip)."""
        if self.settings.script_frames:
            fps, dialogue = self.settings.fps, self.settings.multi_turn
            frames = published_pass(video, start=task.start, end=task.clip_end, fps=fps, multi_turn=dialogue)
            return thin(frames, self.settings.frames)
        start = float(video.timestamps[video.first_index(task.start, task.questions[0].timestamp)])
        return sample_pass(video.timestamps, self.settings.fps, start, end, video_fps=video.reader.fps)

    def _one_pass(self, task: VideoTask, video: OpenVideo, done: Collection[str], plan: VideoPlan) -> Outcomes:
        """Each question is asked when its time has come.

        Questions in `done` are not asked again, except to rebuild the dialogue of a multi-turn run where their replies
        are not known (or came by polling). Frames are shown in the same batches whatever is in `done`, so that a run
        that was cut off gives the very same answers.
        """
        if not plan.queries:
            return
        conversation = self._open()
        finished = set() if self.settings.multi_turn else set(done)
        spent: dict[str, Reply] = {}
        seen, shown = 0, Reply()
        for moment, question in plan.queries:
            upto = self._num_seen(task, video, question, moment, plan.showings[0])
            outcome: Reply | MediaError = _nothing_to_show(video, moment)
            if upto > 0:  # 1. Show the frames up to this query
                now = self._show(conversation, video, plan, 0, moment, already=seen, upto=upto)
                shown, seen = _with_costs(now, shown), upto
            if question.id in finished:
                continue
            reply = done.get(question.id) if isinstance(done, Mapping) and not question.poll else None
            if reply is not None and isinstance(conversation, Recalling):
                conversation.recall(question.prompt, reply)
                shown = Reply()
                continue
            if upto > 0:  # 2. Ask
                earlier = spent.get(question.id, Reply())
                outcome = spent[question.id] = self._ask(conversation, question, moment, _with_costs(shown, earlier))
                shown = Reply()
            if moment == question.moments[-1] or (isinstance(outcome, Reply) and outcome.answered_at is not None):
                finished.add(question.id)
                if question.id not in done:
                    yield question, outcome

    def _ask(self, conversation: Conversation, question: Question, moment: float, shown: Reply) -> Reply:
        """Put the question (or its poll first) and add words and time to `shown`."""
        began = time.perf_counter()
        tokens, keep = self.settings.max_new_tokens, self.settings.multi_turn
        scores: tuple[float, ...] = ()
        answered_at = None
        if question.poll is not None:
            text = conversation.ask(question.poll.prompt, max_new_tokens=tokens, keep=False)
            if "yes" in text.lower():
                text = conversation.ask(question.prompt, max_new_tokens=tokens, keep=keep)
                answered_at = moment
        elif self.settings.answer == "likelihood" and question.labels:
            scores = label_scores(conversation, question)
            text = question.labels[int(np.argmax(scores))]
        else:
            text = conversation.ask(question.prompt, max_new_tokens=tokens, keep=keep)
        spent = shown.answer_seconds + time.perf_counter() - began
        return replace(shown, text=text, scores=scores, answered_at=answered_at, answer_seconds=spent)

    def _show(
        self,
        conversation: Conversation,
        video: OpenVideo,
        plan: VideoPlan,
        showing: int,
        moment: float,
        *,
        already: int = 0,
        upto: int | None = None,
    ) -> Reply:
        """Show the frames of a showing, up to number `upto` of it, but the first `already`, which have been shown.

        Returns a reply without words that says what has been shown so far, and the cost of the new frames.
        """
        indices = plan.showings[showing][:upto]
        if len(indices) == 0:
            raise _nothing_to_show(video, moment)
        times = self.times(video, indices)
        late = times[-1] > moment and not self.settings.script_frames
        assert not late, f"frame at {times[-1]} s shown for a question at {moment} s"
        assert plan.frames is not None, "frames to show, and nothing that reads them"
        began, seen = time.perf_counter(), already
        for piece in plan.frames.take(showing, len(indices) - already):
            conversation.see(piece, times[seen : seen + len(piece)])
            seen += len(piece)
        cost = time.perf_counter() - began
        return Reply("", len(indices), len(indices) - already, times[0], times[-1], cost)


def _nothing_to_show(video: OpenVideo, moment: float) -> MediaError:
    return MediaError(
        f"{video.reader.name}: no frame to show at {moment:.1f} s; expected a video that has begun by then, "
        f"its first frame is at {video.timestamps[0]:.1f} s"
    )


def _with_costs(shown: Reply, earlier: Reply) -> Reply:
    """What was shown now, with the costs of what was shown and asked before for the same question."""
    return replace(
        shown,
        new_frames=earlier.new_frames + shown.new_frames,
        frame_seconds=earlier.frame_seconds + shown.frame_seconds,
        answer_seconds=earlier.answer_seconds + shown.answer_seconds,
    )


def label_scores(conversation: Conversation, question: Question) -> tuple[float, ...]:
    """Log-likelihood of each label, summed over the ways to write it (see Question.written)."""
    forms = [question.written(i) for i in range(len(question.labels))]
    scores = conversation.score_options(question.prompt, [form for written in forms for form in written])
    ends = np.cumsum([len(written) for written in forms])
    return tuple(float(np.logaddexp.reduce(ways)) for ways in np.split(np.asarray(scores), ends[:-1]))
