"""What a page fetches of a session: the screen as motion JPEG, frames of its memory, the dialogue as a file.

A session's id is the only key: <img> and <a> can send no token. FastAPI is optional and imported inside the functions.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from .export import dialogue_json, dialogue_srt
from .limits import UnknownSession
from .live_session import LiveSession
from .sessions import Sessions
from .track import jpeg

SCREEN_SIDE = 640
LOOK_SECONDS = 0.05
REPEAT_SECONDS = 2.0
"""A picture that does not change is sent again, so that a visitor who left is noticed."""
BOUNDARY = "frame"


def add_picture_routes(app: Any, sessions: Sessions) -> None:
    from fastapi import Response
    from fastapi.responses import StreamingResponse

    @app.get("/live/{session}/screen.mjpg", include_in_schema=False)
    async def screen(session: str) -> Any:
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        return StreamingResponse(motion(sessions.get(session)), media_type=kind, headers=NOT_KEPT)

    @app.get("/live/{session}/frames/{number}.jpg", include_in_schema=False)
    def frame(session: str, number: int) -> Any:
        data = sessions.get(session).track.picture(number)
        if data is None:
            raise UnknownSession(f"frame {number} is not kept any more")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/live/{session}/dialogue.{kind}", include_in_schema=False)
    def dialogue(session: str, kind: str) -> Any:
        found = sessions.get(session)
        moments = list(found.track.moments)
        if kind not in ("json", "srt"):
            raise UnknownSession(f"a dialogue comes as json or srt, not {kind!r:.20}")
        about = {"source": found.state()["source"], "model": sessions.model_name}
        text = dialogue_json(moments, about) if kind == "json" else dialogue_srt(moments)
        headers = {**NOT_KEPT, "Content-Disposition": f'attachment; filename="dialogue.{kind}"'}
        return Response(
            text, media_type="application/json" if kind == "json" else "application/x-subrip", headers=headers
        )


NOT_KEPT = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def motion(session: LiveSession) -> AsyncIterator[bytes]:
    """Each new picture on screen, until the session ends."""
    loop = asyncio.get_running_loop()
    shown, sent = None, 0.0
    while not session.is_closed:
        latest = session.latest()
        if latest is not None and (latest is not shown or loop.time() - sent > REPEAT_SECONDS):
            data = await asyncio.to_thread(jpeg, latest.image, side=SCREEN_SIDE)
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            yield head.encode() + data + b"\r\n"
            shown, sent = latest, loop.time()
        await asyncio.sleep(LOOK_SECONDS)
