"""Pictures of a session for a browser: what is on screen as motion JPEG, and frames of its memory.

A session's id is the only key: <img> can send no token. FastAPI is optional and imported inside the functions.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

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
