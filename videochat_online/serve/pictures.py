"""What a page fetches of a session: the screen, frames of its memory, the dialogue as a file.

A session's id is the only key: <img> and <a> can send no token. The screen is fetched picture by picture and not as one
response without an end: a browser has only six connections for all the pages it shows of a server.
FastAPI is optional and imported inside the functions.
"""

import asyncio
import json
from typing import Any

from .limits import UnknownSession
from .live_session import LiveSession
from .sessions import Sessions
from .track import dialogue_srt, jpeg, mosaic

SCREEN_SIDE = 640
LOOK_SECONDS = 0.02
LONGEST_WAIT = 1.0
"""Seconds until a picture that does not change is sent again."""
MOST_CELLS = 512
NOT_KEPT = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def add_picture_routes(app: Any, sessions: Sessions) -> None:
    from fastapi import Query, Response

    @app.get("/live/{session}/screen.jpg", include_in_schema=False)
    async def screen(session: str) -> Any:
        return Response(await next_picture(sessions.get(session)), media_type="image/jpeg", headers=NOT_KEPT)

    @app.get("/live/{session}/frames/{number}", include_in_schema=False)
    def frame(session: str, number: int, cells: int | None = Query(None, ge=1, le=MOST_CELLS)) -> Any:
        data = sessions.get(session).track.picture(number)
        if data is None:
            raise UnknownSession(f"frame {number} is not kept any more")
        data, kind = (data, "image/jpeg") if cells is None else (mosaic(data, cells), "image/png")
        return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/live/{session}/dialogue.json", include_in_schema=False)
    def dialogue(session: str) -> Any:
        document = sessions.get(session).dialogue_document(sessions.model_name)
        return as_file(json.dumps(document, ensure_ascii=False, indent=1), "dialogue.json", "application/json")

    @app.get("/live/{session}/dialogue.srt", include_in_schema=False)
    def subtitles(session: str) -> Any:
        return as_file(dialogue_srt(sessions.get(session).track.dialogue()), "dialogue.srt", "application/x-subrip")

    def as_file(text: str, name: str, kind: str) -> Any:
        headers = {**NOT_KEPT, "Content-Disposition": f'attachment; filename="{name}"'}
        return Response(text, media_type=kind, headers=headers)


async def next_picture(session: LiveSession) -> bytes:
    """JPEG of the next picture that comes on screen; of the one that stands there, where none comes for a while."""
    loop = asyncio.get_running_loop()
    shown = latest = session.latest()
    until = loop.time() + LONGEST_WAIT
    while not session.is_closed and loop.time() < until:
        if (latest := session.latest()) is not None and latest is not shown:
            break
        await asyncio.sleep(LOOK_SECONDS)
    if latest is None:
        raise UnknownSession("there is no picture yet")
    return await asyncio.to_thread(jpeg, latest.image, side=SCREEN_SIDE)
