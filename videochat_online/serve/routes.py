"""What clients and the page ask of sessions: begin and end them, what they watch, frames in, pictures and dialogue out.

The routes below /live are the page's: a session's id is the only key there, for <img> and <a> can send no token. The
screen is fetched picture by picture and not as one response without an end: a browser has only six connections for all
the pages it shows of a server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from .content import picture_of
from .limits import NO_OTHER_FIELDS, NotAllowed, SessionSettings, TooLarge, UnknownSession
from .live_session import LiveSession
from .sessions import Sessions
from .sources import SourceRequest, open_source
from .track import dialogue_srt, jpeg, mosaic

BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY_IS_A_FILE = {"requestBody": {"content": {"application/octet-stream": BINARY}, "required": True}}
NOT_KEPT = {"Cache-Control": "no-store"}
SCREEN_SIDE = 640
LOOK_SECONDS = 0.02
LONGEST_WAIT = 1.0
"""Seconds until a picture that does not change is sent again."""
MOST_CELLS = 512


async def all_sessions(request: Request) -> Sessions:
    return request.app.state.sessions


async def find_session(session: str, sessions: AllSessions) -> LiveSession:
    return sessions.get(session)


AllSessions = Annotated[Sessions, Depends(all_sessions)]
"""Of the application."""
Found = Annotated[LiveSession, Depends(find_session)]
"""The session that the path names; UnknownSession where there is none."""


@dataclass
class ControlRequest:
    """`seek` takes seconds, `speed` takes a factor as value."""

    __pydantic_config__: ClassVar = NO_OTHER_FIELDS

    action: Literal["play", "pause", "stop", "seek", "speed"]
    value: float | None = None


@dataclass
class SeenFrame:
    number: int
    timestamp: float


model_routes = APIRouter(tags=["models"])
session_routes = APIRouter(tags=["sessions"])
stream_routes = APIRouter(tags=["streams"], prefix="/sessions/{session}")
live_routes = APIRouter(prefix="/live/{session}", include_in_schema=False)


# ---- sessions -------------------------------------------------------------------------------------------------------


@model_routes.get("/models")
async def models(sessions: AllSessions) -> dict[str, Any]:
    """The model this server runs, and what it says about itself."""
    return {"object": "list", "data": [_about_model(sessions)]}


@model_routes.get("/models/{model:path}")
async def model(model: str, sessions: AllSessions) -> dict[str, Any]:
    """The same of the one model."""
    sessions.check_model(model)
    return _about_model(sessions)


def _about_model(sessions: Sessions) -> dict[str, Any]:
    about = {"id": sessions.model_name, "object": "model", "created": sessions.created, "owned_by": "videochat-online"}
    return {**about, "note": sessions.model.config.note}


@session_routes.post("/sessions", status_code=201)
def create(settings: SessionSettings, sessions: AllSessions) -> dict[str, Any]:
    """Begin a session. Its id is the only key to it."""
    return sessions.create(settings).state()


@session_routes.get("/sessions/{session}")
def state(found: Found) -> dict[str, Any]:
    """Stream, memory and counters now."""
    return found.state()


@session_routes.delete("/sessions/{session}", status_code=204, response_class=Response)
def end(session: str, sessions: AllSessions) -> None:
    """End a session and remove its files."""
    sessions.end(session)


@session_routes.get("/sessions/{session}/dialogue")
def dialogue(found: Found, sessions: AllSessions) -> dict[str, Any]:
    """Questions and answers, with what was in memory at each."""
    return found.dialogue_document(sessions.model_name)


@session_routes.get("/sessions/{session}/dialogue.srt", responses={200: {"content": {"application/x-subrip": {}}}})
@live_routes.get("/dialogue.srt")
def subtitles(found: Found) -> Response:
    """The dialogue as subtitles."""
    return Response(dialogue_srt(found.track.turns), media_type="application/x-subrip", headers=NOT_KEPT)


@live_routes.get("/dialogue.json")
def dialogue_file(found: Found, sessions: AllSessions) -> Response:
    text = json.dumps(found.dialogue_document(sessions.model_name), ensure_ascii=False, indent=1)
    return Response(text, media_type="application/json", headers=NOT_KEPT)


# ---- what they watch ------------------------------------------------------------------------------------------------


@stream_routes.put("/source")
def start(found: Found, request: SourceRequest) -> dict[str, Any]:
    """Watch a stream from now on; memory and dialogue begin empty."""
    found.start(open_source(request, found.limits))
    return found.state()


@stream_routes.put("/video", openapi_extra=BODY_IS_A_FILE)
async def upload(found: Found, request: Request) -> dict[str, Any]:
    """Watch a video file, sent as the request's body."""
    path = await save_upload(request.stream(), found)
    await run_in_threadpool(found.start_file, path, "your video")
    return found.state()


async def save_upload(stream: AsyncIterator[bytes], session: LiveSession) -> Path:
    """Write a body to a new file of the session's folder; nothing is left of one that is too large or breaks off."""
    if not session.receiving.acquire(blocking=False):
        raise NotAllowed("this session is being sent a video already: one at a time")
    path = session.upload_path()
    try:
        with path.open("xb") as file:
            async for chunk in bounded(stream, session.limits.max_upload_bytes):
                file.write(chunk)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):  # the folder went with its session
            raise UnknownSession("the session ended before its video had come") from error
        raise
    finally:
        session.receiving.release()
    return path


async def bounded(stream: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """The stream's chunks; TooLarge as soon as they are more than `most` bytes."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > most:
            raise TooLarge(f"more than {most:,} bytes were sent, which is all this server takes")
        yield chunk


@stream_routes.post("/control")
def control(found: Found, request: ControlRequest) -> dict[str, Any]:
    """Play, pause, stop, seek or change the speed."""
    found.control(request.action, request.value)
    return found.state()


@stream_routes.post("/frames", status_code=201, openapi_extra=BODY_IS_A_FILE)
async def see(found: Found, request: Request, sessions: AllSessions, timestamp: float | None = None) -> SeenFrame:
    """See one picture (JPEG, PNG, ...), sent as the request's body, shown at `timestamp` seconds."""
    data = b"".join([chunk async for chunk in bounded(request.stream(), found.limits.max_image_bytes)])
    return await sessions.reading.do(lambda: SeenFrame(**found.see(picture_of(data, "the frame sent"), timestamp)))


# ---- what it looks like ---------------------------------------------------------------------------------------------


@live_routes.get("/screen.jpg")
async def screen(found: Found) -> Response:
    return Response(await next_picture(found), media_type="image/jpeg", headers=NOT_KEPT)


@live_routes.get("/frames/{number}")
def frame(
    found: Found,
    number: int,
    cells: Annotated[int | None, Query(ge=1, le=MOST_CELLS)] = None,
    rows: Annotated[int | None, Query(ge=1, le=MOST_CELLS)] = None,
) -> Response:
    """A picture of one frame; with `cells`, coarse: so many cells wide, and as many high unless `rows` is given."""
    data = found.track.pictures.get(number)
    if data is None:
        raise UnknownSession(f"frame {number} is not kept any more")
    data, kind = (data, "image/jpeg") if cells is None else (mosaic(data, cells, rows or cells), "image/png")
    return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


async def next_picture(session: LiveSession) -> bytes:
    """JPEG of the next picture that comes on screen; of the one that stands there, where none comes for a while."""
    loop = asyncio.get_running_loop()
    shown = latest = session.latest()
    until = loop.time() + LONGEST_WAIT
    while latest in (None, shown) and not session.is_closed and loop.time() < until:
        await asyncio.sleep(LOOK_SECONDS)
        latest = session.latest()
    if latest is None:
        raise UnknownSession("there is no picture yet")
    return await asyncio.to_thread(jpeg, latest.image, side=SCREEN_SIDE)
