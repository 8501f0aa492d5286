"""OpenAI's chat completions: a request complete in itself, or one about the stream of a session.

Without a session nothing is remembered: the request's pictures stand in the prompt where it has them, a picture that
says when it was seen ("Frame3 at 1.0s: " before it, as our own prompts do) included. In a session pictures become
frames of its stream, and the session keeps the dialogue: what stands behind the last answer is new.
Source: OpenAI's reference of POST /v1/chat/completions; what existing clients send of it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BeforeValidator

from ..config import MemoryConfig
from ..model.memory_bank import MemoryFrame
from ..prompt.messages import FrameStyle, Image, Message, frame_line
from ..streaming.language import LanguageSide, PreparedQuestion, StreamedAnswer, sampling
from ..streaming.session import StreamingSession
from ..streaming.threads import stream_pieces
from .content import Content, RequestReader
from .limits import NO_OTHER_FIELDS, RequestError
from .live_session import USUAL_NEW_TOKENS, LiveSession, Picture, told
from .questions import EVENTS, RunningAnswer, await_first_frame, data_line, error_body, event_response, heard
from .routes import AllSessions
from .sessions import Sessions
from .track import DialogueTurn
from .turns import in_thread

chat_routes = APIRouter(tags=["chat completions"])
named_routes = APIRouter(tags=["chat completions"])

RESPONSES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}} | EVENTS}}
ITS_LINE = re.compile(r"(?:^|\n)(Frame(\d+)(?: at (\d+(?:\.\d+)?)s)?: )$")
"""How the text before a picture ends where the picture has its line already."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}
"""Options that change nothing at these values, and are refused at others: none is ignored."""


@dataclass
class ChatMessage:
    """`content`: a text, or parts: text, image_url and video_url, whose addresses may be data URIs."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None


@dataclass(kw_only=True)
class ChatRequest:
    """OpenAI's chat completion. `session`, or the X-Session header, names a session; without one it is complete.

    Null means not given.
    """

    __pydantic_config__: ClassVar = NO_OTHER_FIELDS

    model: str
    messages: list[ChatMessage] = field(default_factory=list)
    session: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    """0 (the default here): always the likeliest token; else up to 2."""
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    store: bool | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    def check(self) -> None:
        """RequestError for an option that cannot be honoured."""
        for name, values in NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value not in values:
                raise RequestError(f"{name}={value!r:.80} cannot be honoured here", name, "unsupported_value")
        for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RequestError(f"{name} must lie between {low} and {high}, got {value!r}", name)
        if not all(self.stops) or len(self.stops) > 4:
            raise RequestError("stop takes at most 4 texts, none of them empty", "stop")
        if unknown := set(self.stream_options or {}) - {"include_usage", "include_obfuscation"}:
            raise RequestError(f"stream_options has no {min(unknown)!r}", "stream_options")

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def new_tokens(self, most: int) -> int:
        """Tokens of the answer at most; RequestError for more than `most`, the server's limit."""
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        wanted = getattr(self, name)
        if wanted is None:
            return min(USUAL_NEW_TOKENS, most)
        if not 1 <= wanted <= most:
            raise RequestError(f"{name} must lie between 1 and {most} (this server's limit), got {wanted}", name)
        return int(wanted)

    def generation(self) -> dict[str, Any]:
        return sampling(self.temperature or 0.0, top_p=self.top_p, seed=self.seed)


@dataclass
class Said:
    """What one side says before the other speaks again."""

    role: Literal["user", "assistant"]
    content: Content = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        return [part for part in self.content if isinstance(part, Picture)]

    @property
    def text(self) -> str:
        """Its words; the line of a picture is none of them."""
        pieces = []
        for part, following in zip_longest(self.content, self.content[1:]):
            if isinstance(part, str):
                pieces.append(ITS_LINE.sub("", part) if isinstance(following, Picture) else part)
        return "\n".join(piece.strip("\n") for piece in pieces if piece.strip())


# ---- what can be asked for ------------------------------------------------------------------------------------------


def _given(value: Any) -> Any:
    """What clients say without saying anything, such as `"tool_calls": null`, is absent."""
    if not isinstance(value, dict):
        return value
    found = {name: one for name, one in value.items() if one is not None}
    if isinstance(messages := found.get("messages"), list):
        found["messages"] = [_given(message) for message in messages]
    return found


Asked = Annotated[ChatRequest, BeforeValidator(_given)]


@chat_routes.post("/chat/completions", responses=RESPONSES)
async def complete(request: Asked, connection: Request, sessions: AllSessions,
                   x_session: Annotated[str | None, Header()] = None) -> Any:  # fmt: skip
    """Answer the last message: from this request alone or, where a session is named, from what it has seen so far."""
    key = x_session if request.session is None else request.session
    return await _complete(request, connection, sessions, None if key is None else partial(sessions.get, key))


@named_routes.post("/chat/completions", responses=RESPONSES)
async def complete_in(name: str, request: Asked, connection: Request, sessions: AllSessions) -> Any:
    """Answer the last message in the session NAME, which begins where there is none: it remembers what it was shown."""
    return await _complete(request, connection, sessions, partial(sessions.named, name))


async def _complete(
    request: ChatRequest, connection: Request, sessions: Sessions, find: Callable[[], LiveSession] | None
) -> Any:
    """Piece by piece, or whole. A session is looked for, or begins, once the request is known to be one."""
    # 1. what is asked for, before anything is changed
    sessions.check_model(request.model)
    request.check()
    most = request.new_tokens(sessions.limits.max_new_tokens)
    # 2. the answer begins when its turn has come
    head: dict[str, Any] = {"created": int(time.time()), "model": request.model}
    head["id"] = f"chatcmpl-{secrets.token_hex(12)}"
    if find is None:
        completion = await _begun_alone(request, sessions, head, most)
    else:
        is_repeat = connection.headers.get("x-stainless-retry-count", "0") != "0"
        completion = await _begun_in(request, sessions, head, most, find, is_repeat=is_repeat)
    if request.stream:
        with_usage = bool((request.stream_options or {}).get("include_usage"))
        return event_response(completion.pieces, completion.chunks(with_usage=with_usage))
    return completion.whole(await heard(completion.pieces, connection))


async def _begun_alone(request: ChatRequest, sessions: Sessions, head: dict[str, Any], most: int) -> Completion:
    """The answer of a request that is complete in itself. Its place in the queue bounds what is held of pictures."""
    with sessions.turns.entered() as place:
        system, turns = await read_dialogue(request, sessions)
        await place.turn()
        options = {"max_new_tokens": most, "pace": place.pause, **request.generation()}
        answer = await in_thread(answer_alone, sessions, system, turns, **options)
        turn = DialogueTurn(0, turns[-1].text, 0.0, [])
        pieces = told(turn, answer, sessions.processor.end_token_ids)
        running = RunningAnswer(up_to_stop(pieces, request.stops, turn), place, sessions)
    return Completion(head, running, turn)


async def _begun_in(
    request: ChatRequest,
    sessions: Sessions,
    head: dict[str, Any],
    most: int,
    find: Callable[[], LiveSession],
    *,
    is_repeat: bool,
) -> Completion:
    """The answer about a session's stream, which sees what is new before."""
    system, turns = await read_dialogue(request, sessions)
    session, question = await in_thread(find), turns[-1].text
    session.check_question(question, most)
    with sessions.turns.entered(session.key) as place:
        if system is not None:
            session.instruct(system)
        if pictures := turns[-1].pictures:
            await sessions.reading.do(session.show, pictures, is_repeat=is_repeat)
        await await_first_frame(session, place)
        await place.turn()
        options = {"max_new_tokens": most, "stops": request.stops, "pace": place.pause, "at_once": True}
        options |= {"without_frames": True, **request.generation()}
        turn, pieces = await in_thread(session.ask, question, **options)
        running = RunningAnswer(up_to_stop(pieces, request.stops, turn), place, sessions)
    head |= {"picture_age": turn.age, "stream_time": {"timestamp": turn.timestamp}}
    return Completion(head, running, turn)


async def read_dialogue(request: ChatRequest, sessions: Sessions) -> tuple[str | None, list[Said]]:
    """`dialogue_of` a request; one with parts, which may be pictures, waits for its turn."""
    do = sessions.reading.do if any(isinstance(one.content, list) for one in request.messages) else in_thread
    return await do(dialogue_of, request.messages, RequestReader(sessions.limits, sessions.files.path))


def dialogue_of(messages: Sequence[ChatMessage], reader: RequestReader) -> tuple[str | None, list[Said]]:
    """The system text, and who said and showed what in turn; the user comes first and has the last word."""
    system: list[str] = []
    turns = [Said("user")]
    for number, message in enumerate(messages):
        content = reader.content(message.content, f"messages.[{number}].content")
        if message.role != "user" and any(isinstance(part, Picture) for part in content):
            raise RequestError("only the user shows pictures", f"messages.[{number}].content")
        if message.role in ("system", "developer"):
            system.append("\n".join(part for part in content if isinstance(part, str)))
            continue
        if message.role != turns[-1].role:
            turns.append(Said(message.role))  # type: ignore[arg-type]
        elif turns[-1].content and content and isinstance(turns[-1].content[-1], str):
            turns[-1].content.append("\n")  # one message after another
        turns[-1].content += content
    if turns[-1].role != "user" or not turns[-1].text.strip():
        what = "the last message must be the user's, with a text: it is the question"
        raise RequestError(what, f"messages.[{max(0, len(messages) - 1)}]")
    return "\n".join(system) if system else None, turns


# ---- answers --------------------------------------------------------------------------------------------------------


def answer_alone(
    sessions: Sessions, system: str | None, turns: Sequence[Said], *, max_new_tokens: int, pace: Any, **generation: Any
) -> StreamedAnswer:
    """The answer to a dialogue of which nothing is kept; RequestError for a prompt longer than the server takes.

    `pace` as in `StreamingSession.ask_stream`.
    """
    model, processor = sessions.model, sessions.processor
    frames = _memory_of(sessions, [picture for turn in turns for picture in turn.pictures])
    messages = [] if system is None else [Message("system", (system,))]
    numbers = iter(range(sum(len(turn.pictures) for turn in turns)))
    held = {frame.index: frame for frame in frames}
    style = processor.template.frame
    messages += [Message(turn.role, _parts(turn, numbers, held, style)) for turn in turns]
    rendered = processor.render(messages, generate=True)
    most = sessions.limits.max_prompt_tokens
    language = LanguageSide(model, processor, reuse_cache=False, max_prompt_tokens=most, decoder=sessions.decoder)
    if len(rendered.ids) + max_new_tokens > language.max_positions:
        what = f"the prompt has {len(rendered.ids)} tokens and the answer may have {max_new_tokens}, "
        what += f"but {language.max_positions} are taken in all"
        raise RequestError(what, "messages", "context_length_exceeded")
    question = PreparedQuestion(turns[-1].text, rendered, frames, len(held), None, time.perf_counter(), 0)

    def run(emit: Any, stop: Any) -> None:
        question.answer = language.answer(
            question, emit=emit, pace=pace, stop=stop, max_new_tokens=max_new_tokens, **generation
        )

    return StreamedAnswer(question, stream_pieces(run))


def _memory_of(sessions: Sessions, pictures: Sequence[Picture]) -> list[MemoryFrame]:
    """The pictures as a session's memory holds them: all at full grid where they cost no more than a full memory."""
    if not pictures:
        return []
    model, memory = sessions.model, sessions.model.config.memory_config
    whole = MemoryConfig.recent(len(pictures)).for_encoder(model.config.grid)
    memory = whole if whole.max_tokens <= memory.max_tokens else memory
    session = StreamingSession(model, sessions.processor, memory=memory, encoder=sessions.encoder)
    session.see_many([picture.image for picture in pictures], [float(number) for number in range(len(pictures))])
    return session.memory.read()


def _parts(
    turn: Said, numbers: Iterator[int], held: dict[int, MemoryFrame], style: FrameStyle
) -> tuple[str | Image, ...]:
    """A turn as a session writes it to this model: each picture behind its line, in the words of the model's family."""
    parts: list[str | Image] = []
    is_behind_picture, num_shown = False, 0
    for part in turn.content:
        if isinstance(part, str):
            parts.append(part.removeprefix("\n") if is_behind_picture else part)
            is_behind_picture = False
            continue
        number, is_behind_picture = next(numbers), True
        before = parts[-1] if parts and isinstance(parts[-1], str) else ""
        has_line = ITS_LINE.search(before)
        if number not in held:  # the memory has let it go, and its line with it
            if has_line:
                parts[-1] = before[: has_line.start()]
            continue
        if not has_line:
            parts.append(frame_line(number, part.seconds, style))
        elif style != FrameStyle():
            seconds = None if has_line[3] is None else float(has_line[3])
            parts[-1] = before[: has_line.start(1)] + frame_line(max(0, int(has_line[2]) - 1), seconds, style)
        parts += [Image(held[number].num_tokens), style.after]
        num_shown = len(parts)
    if num_shown:
        parts.insert(num_shown, style.after_all)
    return tuple(part for part in parts if part)


def up_to_stop(pieces: Any, stops: Sequence[str], turn: DialogueTurn) -> Iterator[str]:
    """The pieces of an answer up to the first of some texts, which ends it."""
    held = ""
    try:
        for piece in pieces:
            held += piece
            if ends := [held.find(stop) for stop in stops if stop in held]:
                pieces.close()
                turn.is_cut = False
                held = held[: min(ends)]
                break
            open_ = max((n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
            yield held[: len(held) - open_]  # the rest may be the beginning of a stop
            held = held[len(held) - open_ :]
        yield held
    finally:
        pieces.close()


@dataclass
class Completion:
    """An answer on its way, as OpenAI's clients read it."""

    head: dict[str, Any]
    pieces: RunningAnswer
    turn: DialogueTurn

    def _ended(self) -> tuple[str, dict[str, Any]]:
        """Why it ended, and what it cost."""
        used, said = self.turn.prompt_tokens, self.turn.answer_tokens
        usage: dict[str, Any] = {"prompt_tokens": used, "completion_tokens": said, "total_tokens": used + said}
        usage["prompt_tokens_details"] = {"cached_tokens": self.turn.cached_tokens}
        return "length" if self.turn.is_cut else "stop", usage

    def whole(self, text: str) -> dict[str, Any]:
        finish, usage = self._ended()
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        return {**self.head, "object": "chat.completion", "choices": [choice | {"logprobs": None}], "usage": usage}

    async def chunks(self, *, with_usage: bool) -> AsyncGenerator[str, None]:
        """Server-sent events. An error on the way is one too: the status was sent."""
        head = {**self.head, "object": "chat.completion.chunk"} | ({"usage": None} if with_usage else {})

        def chunk(delta: dict[str, str], finish: str | None = None) -> str:
            return data_line({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        try:
            yield chunk({"role": "assistant", "content": ""})
            async for piece in self.pieces:
                if piece:
                    yield chunk({"content": piece})
            finish, usage = self._ended()
            yield chunk({}, finish)
            if with_usage:
                yield data_line({**head, "choices": [], "usage": usage})
        except Exception as error:
            yield data_line({"error": error_body(str(error), 500)})
        yield "data: [DONE]\n\n"
