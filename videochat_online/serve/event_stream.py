"""Server-sent events: an answer sent piece by piece, and ended as soon as nobody listens any more.

FastAPI is optional and imported inside the functions.
"""

from collections.abc import AsyncIterator, Generator
from typing import Any

EVENTS: dict[str, Any] = {"text/event-stream": {}}
"""What OpenAPI says of such an answer."""


def event_response(lines: Generator[str, None, None]) -> Any:
    """A response that sends `lines`; closes them when the client has left."""
    from fastapi.responses import StreamingResponse

    return StreamingResponse(_closing(lines), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _closing(lines: Generator[str, None, None]) -> AsyncIterator[str]:
    import anyio
    from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool

    try:
        async for line in iterate_in_threadpool(lines):
            yield line
    finally:
        with anyio.CancelScope(shield=True):  # the client's leaving cancels this task; the answer has to end first
            await run_in_threadpool(lines.close)
