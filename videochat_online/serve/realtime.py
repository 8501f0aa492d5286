"""WS /v1/realtime: OpenAI's Realtime API in text, over a session that watches. Pictures in, words out.

Items with pictures become frames of the session's stream, the last text is the question. Speech is not understood:
clients that ask for it are answered in text. Nothing is computed on the event loop, whose pings must be answered.
Source: OpenAI's reference of the Realtime API, and what openai, Pipecat and LiveKit read of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from ..streaming.standing import StandingEvent
from .content import Attachment, RequestReader
from .limits import Overloaded, RequestError, token_problem
from .live_session import LiveSession, Picture
from .questions import RunningAnswer, await_first_frame, error_body, refusal, refusal_response, retry_headers
from .sessions import Sessions
from .turns import STOPPED, in_thread

realtime_routes = APIRouter()
PROTOCOL, KEY_PROTOCOL = "realtime", "openai-insecure-api-key."
"""Subprotocols of browsers, which can send no Authorization."""
MOST_WAITING = 32
"""Items whose pictures wait to be seen; the oldest beyond them is let go and counted."""
BATCH, BATCH_SIZE = 16, 2**20
"""Items whose pictures are decoded and seen in one turn, and characters from which on no further one is."""
MOST_ITEMS = 1000
"""Ids of items that a connection and a session know."""
MOST_METADATA = 10_000
"""It is sent back with each answer: 16 pairs of 64 and 512 characters, as in OpenAI's API."""
LOOK_SECONDS = 0.1
"""Between two looks for what is said unasked."""
_OF_PROCESS, _NUMBERS = secrets.token_hex(5), itertools.count()
ROLES = ("user", "system", "assistant")
Event = dict[str, Any]
Shown = tuple[Event, RequestReader, list[Attachment]]
"""An item with pictures."""


def token_of(socket: WebSocket) -> str | None:
    """The key a client brings: in a header, or as a browser does."""
    kind, _, key = socket.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    offered = [one for one in socket.scope.get("subprotocols", ()) if one.startswith(KEY_PROTOCOL)]
    return offered[0].removeprefix(KEY_PROTOCOL) if offered else None


@realtime_routes.websocket("/v1/realtime")
@realtime_routes.websocket("/realtime")
@realtime_routes.websocket("/s/{name}/v1/realtime")
@realtime_routes.websocket("/s/{name}/v1")
async def realtime(socket: WebSocket) -> None:
    """A session of its own, which ends with the connection; or the session NAME, which stays."""
    sessions: Sessions = socket.app.state.sessions
    name, session, connection = socket.path_params.get("name"), None, None
    try:
        # 1. who may come in
        if (session := await _admitted(socket, sessions, name)) is None:
            return
        # 2. the conversation; an unnamed session ends with it
        await socket.accept(subprotocol=PROTOCOL if PROTOCOL in socket.scope.get("subprotocols", ()) else None)
        connection = RealtimeClient(socket, sessions, session)
        sessions.sockets.add(connection)
        await connection.run()
        await connection.close()
    except asyncio.CancelledError:  # the server is being stopped, and ends all sessions: no fault of anybody
        return
    finally:
        sessions.sockets.discard(connection)
        if name is None and session is not None:
            with anyio.CancelScope(shield=True):
                await in_thread(sessions.end_if_there, session.key)


async def _admitted(socket: WebSocket, sessions: Sessions, name: str | None) -> LiveSession | None:
    """The session that a client asks for. None: it was refused, by an HTTP answer."""
    token, model, origin = socket.app.state.token, socket.query_params.get("model"), socket.headers.get("origin")
    try:
        if origin is not None and urlsplit(origin).netloc != socket.headers.get("host"):
            raise RequestError("a web page of another host may not connect here", "Origin", "forbidden", status=403)
        if token is not None and (problem := token_problem(token_of(socket), token)):
            raise RequestError(problem, None, "invalid_api_key", status=401)
        if model is not None:
            sessions.check_model(model)
        if sessions.turns.is_closed:  # nor is a session that is there watched anew
            raise Overloaded(STOPPED)
        return await in_thread(sessions.create if name is None else partial(sessions.named, name))
    except ValueError as error:
        await socket.send_denial_response(await refusal_response(error, sessions))
        return None


@dataclass
class ActiveResponse:
    """One answer on its way, and the item that it becomes."""

    metadata: Any = None
    id: str = field(default_factory=lambda: new_id("resp"))
    item: str = field(default_factory=lambda: new_id("item"))
    is_cancelled: bool = False
    task: asyncio.Task[None] | None = None
    """Of its words."""
    text: str = ""
    turn: Any = None

    @property
    def place(self) -> Event:
        """Where its words stand."""
        return {"response_id": self.id, "item_id": self.item, "output_index": 0, "content_index": 0}

    def cancel(self) -> None:
        """It ends at once where it waits for its turn, and at the model's next token where it is being made."""
        if self.task is not None and not self.is_cancelled:  # a second time would end the wait for its last token
            self.task.cancel()
        self.is_cancelled = True

    def item_as(self, status: str, content: list[Event]) -> Event:
        about = {"id": self.item, "object": "realtime.item", "type": "message", "role": "assistant"}
        return {**about, "status": status, "content": content}

    def event(self, status: str, output: list[Event], *, details: Any = None) -> Event:
        """It as a whole."""
        about = {"object": "realtime.response", "id": self.id, "status": status, "status_details": details}
        usage = None if self.turn is None or status == "in_progress" else _usage(self.turn)
        return {**about, "output": output, "output_modalities": ["text"], "metadata": self.metadata, "usage": usage}


class RealtimeClient:
    """One client's conversation with one session."""

    def __init__(self, socket: WebSocket, sessions: Sessions, session: LiveSession) -> None:
        self.socket, self.session, self.sessions = socket, session, sessions
        self.most_tokens: int | str = "inf"
        self.items: dict[str, Event] = {}
        """Announced on this connection, oldest first."""
        self.last_item: str | None = None
        self.question = ""
        """The newest text of user or system that was not answered."""
        self.response: ActiveResponse | None = None
        self._shown: deque[Shown] = deque()
        """Items whose pictures are to be seen, with the event that brought each."""
        self._jobs: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._sending = asyncio.Lock()
        self._telling = asyncio.Lock()
        """Held while a response that nobody created is sent: one that is created meanwhile begins behind it."""

    async def run(self) -> None:
        """Until the client leaves."""
        await self.send("session.created", session=self.about())
        worker, ear = asyncio.create_task(self._work()), asyncio.create_task(self._listen())
        try:
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if self.session.is_closed:  # clients that connect again begin another one
                    await self.socket.close(1001, "the session has ended")
                    return
                self.session.keep()
                await self._receive(message)
        except WebSocketDisconnect:
            return
        finally:
            for task in (worker, ear):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        if self.socket.application_state == WebSocketState.CONNECTED:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self.socket.close(code, reason)

    # ---- what is sent -----------------------------------------------------------------------------------------------

    async def send(self, kind: str, **fields: Any) -> None:
        """One event; nothing where the client has left."""
        async with self._sending:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, OSError):
                text = json.dumps({"type": kind, "event_id": new_id("event"), **fields})
                await self.socket.send_text(text)

    async def refuse(self, error: Exception, event: Any) -> None:
        """An error of one event; the connection stays open."""
        about = event.get("event_id") if isinstance(event, dict) else None
        await self.send("error", error={**_problem(error), "event_id": about if isinstance(about, str) else None})
        await retry_headers(error, self.sessions)  # what was refused for lack of room comes again no sooner

    def about(self) -> Event:
        """The session as it is in force."""
        about = {"type": "realtime", "object": "realtime.session", "id": f"sess_{self.session.key}"}
        given = {"instructions": self.session.settings.system_prompt or "", "max_output_tokens": self.most_tokens}
        fixed = {"output_modalities": ["text"], "tools": [], "tool_choice": "auto"}
        audio = {"input": {"turn_detection": None}}
        return {**about, "model": self.sessions.model_name, **given, **fixed, "audio": audio}

    async def announce(self, item: Event) -> None:
        """That an item is in the conversation, behind the one announced before it."""
        before, self.last_item = self.last_item, item["id"]
        self._remember(item)
        await self.send("conversation.item.added", previous_item_id=before, item=item)
        if item["status"] == "completed":
            await self.send("conversation.item.done", previous_item_id=before, item=item)

    def _remember(self, item: Event) -> None:
        for known in (self.items, self.session.known_items):
            known[item["id"]] = item
            while len(known) > MOST_ITEMS:
                del known[next(iter(known))]

    # ---- what is received -------------------------------------------------------------------------------------------

    async def _receive(self, message: Any) -> None:
        """One message. Whatever is wrong with it is an error event."""
        event: Any = None
        try:
            if message.get("text") is None:
                raise RequestError("expected a text frame with one JSON object")
            try:
                event = json.loads(message["text"], parse_constant=_no_number)
            except (ValueError, RecursionError) as error:
                raise RequestError("the message is not JSON") from error
            if not isinstance(event, dict):
                raise RequestError("expected a JSON object")
            handler = HANDLERS.get(str(event.get("type")))
            if handler is None:
                raise RequestError(f"unknown event type {event.get('type')!r:.80}", "type")
            await handler(self, event)
        except (ValueError, TypeError, OSError) as error:
            await self.refuse(error, event)

    async def update(self, event: Event) -> None:
        """session.update: what is given changes, the rest stays; what is in force is told."""
        given = _object(event.get("session"), "session")
        most = given.get("max_output_tokens")
        if most is not None:
            self.most_tokens = self._tokens(most, "session.max_output_tokens")
        if (instructions := _instructions(given, "session")) is not None:
            self.session.instruct(instructions)
        await self.send("session.updated", session=self.about())

    def _tokens(self, value: Any, where: str) -> int | str:
        most = self.session.limits.max_new_tokens
        if value == "inf":
            return "inf"
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RequestError(f"{where} must be a number >= 1 or 'inf', got {value!r:.40}", where)
        return min(value, most)

    async def create(self, event: Event) -> None:
        """conversation.item.create: a text, pictures, or what was said before."""
        item = _object(event.get("item"), "item")
        role, key = item.get("role"), item.get("id") or new_id("item")
        if item.get("type", "message") != "message" or role not in ROLES:
            what = f"an item is a message of {', '.join(ROLES)}, got {item.get('type')!r:.40} of {role!r:.40}"
            raise RequestError(what, "item.role")
        if not isinstance(key, str) or len(key) > 200:
            raise RequestError("an item's id is a text of at most 200 characters", "item.id")
        if key in self.items:
            raise RequestError(f"the item {key!r} is there already", "item.id", "item_create_duplicate_item_id")
        parts = item.get("content") or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RequestError("the content is a list of parts", "item.content")
        spoken = [part for part in parts if part.get("type") not in ("input_audio", "output_audio")]
        spoken += [{"type": "text", "text": part["transcript"]} for part in parts if part.get("transcript")]
        reader = RequestReader(self.session.limits, self.sessions.files.path)
        found = await in_thread(reader.looked_at, spoken, "item.content")
        sent = [part for part in found if isinstance(part, Attachment)]
        if sent and role == "assistant":
            raise RequestError("only the user shows pictures", "item.content")
        # what a client replays after a break is announced again, and enters the memory once
        is_known = key in self.session.known_items
        text = "\n".join(part for part in found if isinstance(part, str)).strip()
        if text and role == "assistant" and not is_known:
            self.session.session.remember_turn(self.question, text)
        if text:  # the question, or the answer to it
            self.question = "" if role == "assistant" else text
        about = {"id": key, "object": "realtime.item", "type": "message", "status": "completed", "role": role}
        await self.announce({**about, "content": [_shown_part(part) for part in parts]})
        if sent and not is_known:
            await self._queue((event, reader, sent))

    async def _queue(self, item: Shown) -> None:
        """Pictures wait to be seen, as they came; who sends them faster than they are is slowed down."""
        shown, most = self._shown, self.session.limits.max_request_bytes
        shown.append(item)
        self._jobs.put_nowait(self._see)
        while len(shown) > MOST_WAITING or _size(shown) > most:
            self.session.num_let_go += len(shown.popleft()[2])
            await self.sessions.let_go.moment()

    async def about_item(self, event: Event) -> None:
        """conversation.item.delete, .retrieve, .truncate. What was seen of it stays in the memory."""
        key, kind = event.get("item_id"), event["type"].rpartition(".")[2]
        if not isinstance(key, str) or key not in self.items:
            raise RequestError(f"there is no item {key!r:.80}", "item_id", f"item_{kind}_invalid_item_id")
        if kind == "retrieve":
            await self.send("conversation.item.retrieved", item=self.items[key])
        elif kind == "delete":
            del self.items[key]
            await self.send("conversation.item.deleted", item_id=key)
        else:
            places = {name: event.get(name) or 0 for name in ("content_index", "audio_end_ms")}
            await self.send("conversation.item.truncated", item_id=key, **places)

    async def ignore(self, event: Event) -> None:
        """Sound: an error would end some clients' sessions, and session.updated says that there is no ear."""
        if event["type"] == "input_audio_buffer.clear":
            await self.send("input_audio_buffer.cleared")

    async def respond(self, event: Event) -> None:
        """response.create: announced at once, answered when what came before it is seen."""
        given = event.get("response")
        given = {} if given is None else _object(given, "response")
        if self.response is not None:
            what = "an answer is on its way: cancel it, or wait for response.done"
            raise RequestError(what, "response", "conversation_already_has_active_response")
        most = given.get("max_output_tokens", given.get("max_response_output_tokens"))
        tokens = self.most_tokens if most is None else self._tokens(most, "response.max_output_tokens")
        instructions = _instructions(given, "response")
        if given.get("input") or given.get("conversation") not in (None, "auto"):
            what = "an answer is about the session's own conversation: input and conversation cannot be honoured here"
            raise RequestError(what, "response", "unsupported_value")
        metadata = given.get("metadata")
        if metadata is not None and len(json.dumps(_object(metadata, "response.metadata"))) > MOST_METADATA:
            raise RequestError(f"the metadata may have {MOST_METADATA} characters as JSON", "response.metadata")
        self.response = response = ActiveResponse(metadata)
        question = "\n".join(text for text in (self.question, instructions) if text)
        self.question = ""
        async with self._telling:
            await self.send("response.created", response=response.event("in_progress", []))
        self._jobs.put_nowait(lambda: self._reply(response, partial(self._say, response, question, tokens)))

    async def cancel(self, event: Event) -> None:
        wanted = event.get("response_id")
        if self.response is None or (wanted is not None and wanted != self.response.id):
            what = "Cancellation failed: no active response found"
            raise RequestError(what, "response_id", "response_cancel_not_active")
        self.response.cancel()

    # ---- the work, one thing after another ---------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await job()
            except Exception as error:  # the conversation goes on
                await self.refuse(error, None)

    async def _see(self) -> None:
        """What waits, in one turn: together it takes less, and a question behind it waits for no row of turns."""
        if not self._shown:
            return
        items: list[Shown] = []
        try:
            async with self.sessions.reading.begun():
                while self._shown and len(items) < BATCH and _size(items) < BATCH_SIZE:
                    items.append(self._shown.popleft())
                failures = await in_thread(self._decode_and_see, items)
        except (ValueError, OSError) as error:  # the queue is full, or the session takes no pictures now
            failures = [(item, error) for item in items or [self._shown.popleft()]]
        for (event, _, sent), problem in failures:
            self.session.num_let_go += len(sent)
            await self.refuse(problem, event)

    def _decode_and_see(self, items: list[Shown]) -> list[tuple[Shown, Exception]]:
        """What cannot be decoded, and why."""
        pictures: list[Picture] = []
        failures: list[tuple[Shown, Exception]] = []
        for item in items:
            try:
                pictures += [picture for one in item[2] for picture in item[1].pictures(one)]
            except (ValueError, OSError) as error:
                failures.append((item, error))
        self.session.show(pictures)
        return failures

    async def _reply(self, response: ActiveResponse, say: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """One answer, from the first event behind response.created to response.done."""
        # 1. it is announced, before anything is computed
        before, begun = self.last_item, response.item_as("in_progress", [])
        await self.send("response.output_item.added", response_id=response.id, output_index=0, item=begun)
        await self.announce(begun)
        await self.send("response.content_part.added", **response.place, part={"type": "text", "text": ""})
        # 2. its words, and how it ended
        failure, status, details = None, "completed", None
        if not response.is_cancelled:
            response.task = asyncio.create_task(say())
            (failure,) = await asyncio.gather(response.task, return_exceptions=True)  # ended where the client has left
        if isinstance(failure, Exception):
            status, details = "failed", {"type": "failed", "error": _problem(failure)}
        elif response.is_cancelled:
            status, details = "cancelled", {"type": "cancelled", "reason": "client_cancelled"}
        elif response.turn is not None and response.turn.is_cut:
            status, details = "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}
        # 3. all that follows the last word
        text = response.text
        content = [{"type": "output_text", "text": text}]
        done = response.item_as("completed" if status == "completed" else "incomplete", content)
        self._remember(done)
        await self.send("response.output_text.done", **response.place, text=text)
        await self.send("response.content_part.done", **response.place, part={"type": "text", "text": text})
        await self.send("response.output_item.done", response_id=response.id, output_index=0, item=done)
        await self.send("conversation.item.done", previous_item_id=before, item=done)
        if self.response is response:
            self.response = None  # from here on the next may be asked for
        await self.send("response.done", response=response.event(status, [done], details=details))

    async def _say(self, response: ActiveResponse, question: str, tokens: int | str) -> None:
        """The words of one answer, when its turn has come."""
        session, most = self.session, None if tokens == "inf" else int(tokens)
        session.check_question(question, most)
        with self.sessions.turns.entered(session.key) as place:
            await await_first_frame(session, place)
            await place.turn()
            options = {"max_new_tokens": most, "without_frames": True, "at_once": True, "pace": place.pause}
            response.turn, pieces = await in_thread(session.ask, question, **options)
            answer = RunningAnswer(pieces, place, self.sessions)
        try:
            async for piece in answer:
                await self._put(response, piece)
        finally:
            response.turn.is_done = True
            await answer.close()

    async def _put(self, response: ActiveResponse, piece: str) -> None:
        response.text += piece
        await self.send("response.output_text.delta", **response.place, delta=piece)

    async def _listen(self) -> None:
        """What the session says unasked becomes a job, behind those that wait."""
        number = self.session.session.watchlist.num_events
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for event in self.session.session.watchlist.after(number):
                number = event.id
                if not event.quiet:
                    self._jobs.put_nowait(partial(self._tell, event))

    async def _tell(self, event: StandingEvent) -> None:
        """A response that nobody created, whole; one that was created goes first."""
        if self.response is not None:
            self._jobs.put_nowait(partial(self._tell, event))  # whose job stands in the queue before this one now
            return
        async with self._telling:
            response = ActiveResponse()
            await self.send("response.created", response=response.event("in_progress", []))
            await self._reply(response, partial(self._put, response, event.text))


HANDLERS: dict[str, Callable[[RealtimeClient, Event], Awaitable[None]]] = {
    "session.update": RealtimeClient.update,
    "conversation.item.create": RealtimeClient.create,
    **{f"conversation.item.{kind}": RealtimeClient.about_item for kind in ("delete", "retrieve", "truncate")},
    "response.create": RealtimeClient.respond,
    "response.cancel": RealtimeClient.cancel,
    **{f"input_audio_buffer.{kind}": RealtimeClient.ignore for kind in ("append", "clear", "commit")},
    "output_audio_buffer.clear": RealtimeClient.ignore,
}


def _size(items: Iterable[Shown]) -> int:
    """Characters of what was sent."""
    return sum(len(one.address) for *_, sent in items for one in sent)


def _usage(turn: Any) -> Event:
    """The tokens of an answer and of what it was made from."""
    used, said, cached = turn.prompt_tokens, turn.answer_tokens, turn.cached_tokens
    seen = {"text_tokens": used - turn.visual_tokens, "image_tokens": turn.visual_tokens}
    tokens_in = {"input_token_details": {**seen, "cached_tokens": cached}}
    whole = {"total_tokens": used + said, "input_tokens": used, "output_tokens": said, **tokens_in}
    return {**whole, "output_token_details": {"text_tokens": said}}


def new_id(kind: str) -> str:
    """Of no other in this process or one beside it; no secret."""
    return f"{kind}_{_OF_PROCESS}{next(_NUMBERS):010x}"


def _no_number(text: str) -> Any:
    """NaN and Infinity, which Python reads and no JSON has."""
    raise ValueError(f"{text} is no JSON")


def _object(value: Any, where: str) -> Event:
    if not isinstance(value, dict):
        raise RequestError(f"{where} must be an object", where)
    return value


def _instructions(given: Event, where: str) -> str | None:
    instructions = given.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise RequestError("the instructions must be a text", f"{where}.instructions")
    return instructions


def _problem(error: Exception) -> Event:
    """What failed, as `refusal` says it, with a code whatever it is; what no client did wrong is the server's fault."""
    known = isinstance(error, (ValueError, TypeError, OSError))
    body = refusal(error)[1] if known else error_body(str(error), 500)
    code = "invalid_value" if body["type"] == "invalid_request_error" else body["type"]
    return {**body, "code": body["code"] or code}


def _shown_part(part: Event) -> Event:
    """A part as it is told back: its words, no picture, which would close sockets that take small messages only."""
    return {name: part[name] for name in ("type", "text", "transcript", "detail") if isinstance(part.get(name), str)}
