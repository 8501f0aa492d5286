"""videochat-online's models for lmms-eval: every task that shows videos or images runs on them.

A video is watched by the same evaluation modes as in `videochat-online eval`, so the answers are the same; questions
about one video share a pass over it. The class knows no benchmark.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, get_args

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from videochat_online.command_line import (
    CommandParser,
    add_memory_flags,
    add_model_flags,
    add_recall_flag,
    parse_capacities,
)
from videochat_online.config import MemoryConfig
from videochat_online.evaluation.benchmarks import OVBench, Protocol
from videochat_online.evaluation.commands import settings_from_flags
from videochat_online.evaluation.modes import MODES, Examiner
from videochat_online.evaluation.questions import Reply
from videochat_online.evaluation.responders import SessionConversation, SessionResponder, responder_from_flags
from videochat_online.media.picture import upright_rgb
from videochat_online.media.readers import MediaError
from videochat_online.streaming.session import StreamingSession

from . import published
from .inputs import Generation, Request, request_of
from .visuals import one_pass

NO_ANSWER = "?"
"""Where a video or image cannot be read. Not empty: some tasks leave out empty answers, but a question must count."""


class VideoChatOnlineModel(lmms):
    """Model arguments (`--model_args pretrained=pocket,mode=streaming`); defaults are OVBench's published settings.

    Args:
        pretrained: "pocket" (ships with videochat-online), a folder, or a hub id.
        mode: streaming (one pass over the video, the memory kept) or sliding_window (the seconds before the question).
        fps: frames shown per second of video (8 streaming, 2 sliding_window).
        window, frames: sliding_window: seconds before the question (32), and frames at most (64). A question about a
            whole video is shown the whole video, thinned evenly to `frames`.
        memory, policy, cascade, recent: the memory, such as memory=2/2/12, policy=fifo, or recent=16.
        device, dtype, attention, compile: as in `videochat-online eval`.
        system_prompt: a text, or a file with one; tasks may bring their own.
        protocol: published, for Video-MME and MVBench as the published scripts show and ask them (see published.py):
            one pass at 4 fps, at most `frames` (1,800) spread evenly, memory 24/24/144, their words and system text.
        batch_size: any; questions are asked one at a time, about frames that are encoded in batches of 16.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "pocket",
        *,
        mode: str = "streaming",
        fps: float | None = None,
        window: float | None = None,
        frames: int | None = None,
        memory: str | None = None,
        policy: str = "pyramid",
        cascade: bool = False,
        recent: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        attention: str = "auto",
        compile: bool = False,
        system_prompt: str | None = None,
        protocol: Protocol = "causal",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        _check_batch_size(batch_size)
        script = _is_published(protocol, mode, system_prompt)
        if script:
            memory, fps, frames, limit = memory or published.MEMORY, fps or published.FPS, None, frames
        flags = _flags(
            model=pretrained, device=device, dtype=dtype, attention=attention, compile=compile,
            memory=None if memory is None else parse_capacities(str(memory)), policy=policy, cascade=cascade,
            adapter="videochat", mode=mode, fps=fps, window=window, frames=frames, recent=recent,
            max_new_tokens=None, multi_turn=False,
        )  # fmt: skip
        self.mode, self.settings = mode, settings_from_flags(flags, OVBench(), "generate")
        if script:
            self.settings = replace(self.settings, script_frames=True, frames=limit or published.FRAMES)
        self.responder, _ = responder_from_flags(flags, self.settings)
        assert isinstance(self.responder, SessionResponder)
        self.system_prompt = self._resolve_system_prompt(system_prompt) if system_prompt else None
        self._named: set[str] = set()
        self._rank, self._world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    @property
    def device(self) -> torch.device:
        return self.responder.model.device

    @property
    def batch_size(self) -> int:
        return 1

    # ---- what lmms-eval calls -------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """One answer a request, in their order; `NO_ANSWER` where a video or an image cannot be read."""

        def wanted() -> Iterator[Request]:
            for instance in requests:
                prompt, settings, doc_to_visual, doc_id, task, split = instance.args
                row = self.task_dict[task][split][doc_id]
                yield self._request(prompt, doc_to_visual(row), settings, task, row)

        return self._texts(wanted(), len(requests))

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """The answers to all rounds of each request, in their order.

        A round is a question of its own: the task says what is shown and asked next, from the answers so far. Questions
        of one round about one video share a pass. ValueError where a task says anything else than lmms-eval's five.
        """
        answers: list[list[str]] = [[] for _ in requests]
        notes: list[Any] = [None] * len(requests)
        running = list(range(len(requests)))
        for number in count():
            asked: list[tuple[int, Request]] = []
            for one in running:
                prompt, settings, doc_to_visual, doc_to_text, doc_id, task, split = requests[one].args
                row = self.task_dict[task][split][doc_id]
                if number == 0:
                    visuals = doc_to_visual(row)
                else:
                    about = {"previous_output": answers[one], "round_idx": number, "previous_round_info": notes[one]}
                    visuals, prompt, ended, answers[one], notes[one] = _next_round(task, doc_to_text(row, **about))
                    if ended:
                        continue
                asked.append((one, self._request(prompt, visuals, settings, task, row)))
            if not asked:
                return answers
            running = [one for one, _ in asked]
            texts = self._texts((request for _, request in asked), len(asked))
            for one, text in zip(running, texts, strict=True):
                answers[one] = [*answers[one], text]
        raise AssertionError("the rounds are counted without end")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """(minus the log-probability of the continuation, False) a request.

        Minus, since lmms-eval takes the smallest for the best. Whether greedy decoding would give the continuation is
        not looked at. Wrapped, since lmms-eval 0.7.3 makes a text of any other pair.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, instance in enumerate(requests):
            prompt, _, _, *document = instance.args
            groups.setdefault((prompt, *document), []).append(number)

        def wanted() -> Iterator[Request]:
            for (prompt, doc_id, task, split), numbers in groups.items():
                row = self.task_dict[task][split][doc_id]
                texts = [requests[number].args[1] for number in numbers]
                options = [(text(row) if callable(text) else text).strip() for text in texts]
                generation = Generation(system_prompt=self.system_prompt)
                yield request_of(prompt, requests[numbers[0]].args[2](row), generation, options)

        losses = [float("inf")] * len(requests)
        for numbers, reply in zip(groups.values(), self._replies(wanted(), len(groups)), strict=True):
            if reply is not None:
                for number, score in zip(numbers, reply.scores, strict=True):
                    losses[number] = -score
        return [GenerationResult((loss, False)) for loss in losses]  # type: ignore[arg-type]  # see above

    # ---- answering ------------------------------------------------------------------------------------------------

    def _request(self, prompt: str, visuals: Any, settings: dict[str, Any], task: str, row: Any) -> Request:
        generation = Generation.of(settings)
        if generation.system_prompt is None:
            generation = replace(generation, system_prompt=self.system_prompt)
        request = request_of(prompt, visuals, generation)
        if not self.settings.script_frames:
            return request
        request = published.as_published(request, task, row)
        if task not in self._named:
            self._named.add(task)
            whose = "the published scripts'" if published.has_words(task) else "lmms-eval's, the scripts have none"
            logger.info(f"{task}: words are {whose}, such as {request.length_line + request.prompt!r}")
        return request

    def _texts(self, requests: Iterable[Request], total: int) -> list[str]:
        return [NO_ANSWER if reply is None else reply.text for reply in self._replies(requests, total)]

    def _replies(self, requests: Iterable[Request], total: int) -> list[Reply | None]:
        """A reply a request, in their order; None where a video or an image cannot be read.

        1. images at once, so that one request's images are in memory at a time; 2. videos, one pass for each.
        """
        replies: dict[int, Reply | None] = {}
        passes: dict[str, list[tuple[int, Request]]] = {}
        with tqdm(total=total, desc="videochat_online", disable=self.rank != 0) as progress:
            for number, request in enumerate(requests):
                if request.stream is None:
                    replies[number] = self._look(request)
                    progress.update()
                else:
                    passes.setdefault(request.pass_key, []).append((number, request))
            for group in passes.values():
                found = self._watch([request for _, request in group])
                replies.update(zip((number for number, _ in group), found, strict=True))
                progress.update(len(group))
        return [replies[number] for number in range(len(replies))]

    def _look(self, request: Request) -> Reply | None:
        """Answer about images, each at full grid and without a time; or about nothing but words."""
        try:
            pictures = [upright_rgb(image) for image in request.pictures()]
        except MediaError as error:
            logger.error(f"{error}; a question is left without an answer")
            return None
        responder, generation = self.responder, request.generation
        session = StreamingSession(
            responder.model,
            responder.processor,
            memory=MemoryConfig.recent(max(1, len(request.images))),
            timestamps=False,
            system_prompt=generation.system_prompt,
        )
        session.see_many(pictures, range(len(pictures)))
        scores, text = [], ""
        if request.options:
            scores = session.score_options(request.prompt, request.options, without_frames=True)
        else:
            conversation = _Conversation(session, generation)
            text = conversation.ask(request.prompt, max_new_tokens=generation.max_new_tokens, keep=False)
        return Reply(text, len(request.images), len(request.images), None, None, 0.0, 0.0, tuple(scores))

    def _watch(self, requests: Sequence[Request]) -> list[Reply | None]:
        """Answer requests of one `pass_key`."""
        streams = [request.stream for request in requests if request.stream is not None]
        generation = requests[0].generation
        settings = replace(
            self.settings,
            window=None if streams[0].end is None else self.settings.window,
            answer="likelihood" if requests[0].options else "generate",
            max_new_tokens=generation.max_new_tokens,
            system_prompt=generation.system_prompt,
        )
        replies: list[Reply | None] = [None] * len(requests)
        try:
            video = streams[0].open()
            with video.reader:
                seconds = min(video.end, streams[0].clip_end or video.end) - streams[0].start
                prompts = [request.question(seconds) for request in requests]
                options = [request.options for request in requests]
                script = settings.script_frames
                task, unasked = one_pass(video, streams, prompts, options, script_frames=script)
                examiner = Examiner(_Responder(self.responder, generation), self.mode, settings)
                for question, outcome in examiner.examine(task, video, unasked):
                    if isinstance(outcome, MediaError):
                        logger.error(f"{outcome}; a question is left without an answer")
                    else:
                        replies[int(question.id)] = outcome
        except MediaError as error:
            logger.error(f"{error}; {replies.count(None)} questions about {streams[0].path} are left without an answer")
        return replies


def _check_batch_size(batch_size: int | str) -> None:
    """ValueError for what lmms-eval's --batch_size does not have."""
    if not re.fullmatch(r"auto(:\d+)?|[1-9]\d*", str(batch_size)):
        raise ValueError(f"batch_size must be a number >= 1 or auto, got {batch_size!r}")
    if str(batch_size) != "1":
        logger.info(f"batch_size {batch_size}: questions are asked one at a time, frames are encoded 16 at a time")


def _is_published(protocol: str, mode: str, system_prompt: str | None) -> bool:
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {protocol!r}")
    if protocol == "published" and (mode != "streaming" or system_prompt):
        raise ValueError("protocol=published has its own mode (streaming) and system_prompt: leave these out")
    return protocol == "published"


def _next_round(task: str, told: Any) -> tuple[Any, str, bool, list[str], Any]:
    """What a task says about its next round: visuals, words, whether it has ended, the answers so far, notes."""
    if not isinstance(told, tuple) or len(told) != 5:
        raise ValueError(f"{task}: expected five things about the next round, got {told!r:.80}")
    visuals, prompt, ended, answers, notes = told
    return visuals, prompt, bool(ended), list(answers or ()), notes


def _flags(**given: Any) -> Namespace:
    """The flags of `videochat-online eval`: those given, and the defaults of all others."""
    parser = CommandParser()
    add_model_flags(parser)
    add_memory_flags(parser)
    add_recall_flag(parser)
    flags = parser.parse_args([])
    vars(flags).update(given)
    return flags


class _Responder:
    """Our model with a task's way of generating."""

    def __init__(self, base: SessionResponder, generation: Generation) -> None:
        self.base, self.generation = base, generation

    def open(self, system_prompt: str | None) -> _Conversation:
        return _Conversation(self.base.open(system_prompt).session, self.generation)

    def ready(self, frames: Sequence[Any]) -> Any:
        return self.base.ready(frames)


class _Conversation(SessionConversation):
    def __init__(self, session: StreamingSession, generation: Generation) -> None:
        super().__init__(session)
        self.generation = generation

    def ask(self, prompt: str, *, max_new_tokens: int, keep: bool) -> str:
        options = dict(self.generation.options)
        text = self.session.ask(prompt, max_new_tokens=max_new_tokens, keep=keep, without_frames=True, **options)
        return self.generation.cut(text)
