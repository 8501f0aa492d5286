"""The packages that people already have, unchanged, against a running server: a table of what works.

python tests/clients/try_clients.py ADDRESS TOKEN     (shell/test_clients.sh starts the server and calls this)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from asked import ADDRESS, CHECKS, MODEL, SECONDS, TOKEN, Results, data_uri
from frameworks import livekit, pipecat
from PIL import Image

# ---- openai ---------------------------------------------------------------------------------------------------------


async def openai_chat() -> Results:
    from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError

    client = AsyncOpenAI(base_url=f"{ADDRESS}/s/openai-chat/v1", api_key=TOKEN)
    done: Results = {}
    assert [model.id async for model in client.models.list()] == [MODEL]
    done["connect"] = "ok"
    image = {"type": "image_url", "image_url": {"url": data_uri("red"), "detail": "low"}}
    question = {"role": "user", "content": [image, {"type": "text", "text": "What is happening now?"}]}
    whole = await client.chat.completions.create(model=MODEL, messages=[question], max_tokens=16)
    assert whole.choices[0].message.content and whole.usage.total_tokens > 0
    done["frames"] = done["question"] = "ok"
    history = [question, {"role": "assistant", "content": whole.choices[0].message.content}]
    history.append({"role": "user", "content": "And before that?"})
    pieces, usage = [], None
    stream = await client.chat.completions.create(
        model=MODEL, messages=history, max_completion_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        usage = chunk.usage or usage
    assert pieces and usage.prompt_tokens_details.cached_tokens > 0
    done["streamed"] = done["second"] = "ok"
    stream = await client.chat.completions.create(model=MODEL, messages=history, stream=True)
    await stream.close()
    for options, error in (({"n": 2}, BadRequestError), ({"model": "other"}, NotFoundError)):
        try:
            await client.chat.completions.create(**{"model": MODEL, "messages": history, **options})
            raise AssertionError(f"{options} was taken")
        except error as caught:
            assert caught.param in ("n", "model") and caught.code
    done["cancel"] = "ok"
    again = AsyncOpenAI(base_url=f"{ADDRESS}/s/openai-chat/v1", api_key=TOKEN)
    kept = await again.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "What was it?"}])
    assert kept.usage.prompt_tokens > whole.usage.prompt_tokens
    done["reconnect"] = "ok"
    try:
        await AsyncOpenAI(base_url=f"{ADDRESS}/v1", api_key="wrong").models.list()
        raise AssertionError("a wrong key was taken")
    except AuthenticationError as caught:
        assert caught.code == "invalid_api_key"
    done["token"] = "ok"
    return done


async def openai_realtime() -> Results:
    from openai import AsyncOpenAI

    done: Results = {}
    client = AsyncOpenAI(base_url=f"{ADDRESS}/s/openai-realtime/v1", api_key=TOKEN)

    def user(**part: Any) -> dict[str, Any]:
        return {"type": "message", "role": "user", "content": [part]}

    async def answer(connection: Any, *, cancel: bool = False) -> tuple[str, Any, int]:
        await connection.response.create()
        text, pieces = "", 0
        async for event in connection:
            if event.type == "response.created" and cancel:
                await connection.response.cancel()
            if event.type == "response.output_text.delta":
                text, pieces = text + event.delta, pieces + 1
            if event.type == "response.done":
                return text, event.response, pieces
            assert event.type != "error", event
        raise AssertionError("the connection ended")

    async with client.realtime.connect(model=MODEL) as connection:
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        done["connect"] = "ok"
        await connection.conversation.item.create(item=user(type="input_image", image_url=data_uri("red")))
        done["frames"] = "ok"
        await connection.conversation.item.create(item=user(type="input_text", text="What is happening now?"))
        text, response, pieces = await answer(connection)
        assert text and response.status == "completed" and response.usage.input_token_details.image_tokens > 0
        done["question"], done["streamed"] = "ok", "ok" if pieces > 1 else "one piece"
        await connection.conversation.item.create(item=user(type="input_text", text="And before that?"))
        assert (await answer(connection))[0]
        done["second"] = "ok"
        await connection.conversation.item.create(item=user(type="input_text", text="Tell me everything."))
        _, response, _ = await answer(connection, cancel=True)
        assert response.status in ("cancelled", "completed")  # it may have ended before the word came
        done["cancel"] = "ok"
        before = response.usage.input_tokens
    async with client.realtime.connect(model=MODEL) as connection:
        await connection.conversation.item.create(item=user(type="input_text", text="What was it?"))
        assert (await answer(connection))[1].usage.input_tokens > before
    done["reconnect"] = "ok"
    try:
        async with AsyncOpenAI(base_url=f"{ADDRESS}/v1", api_key="wrong").realtime.connect(model=MODEL):
            raise AssertionError("a wrong key was taken")
    except Exception as caught:
        assert "401" in str(caught), caught
    done["token"] = "ok"
    return done


# ---- LangChain ------------------------------------------------------------------------------------------------------


async def langchain() -> Results:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    def model(key: str, **options: Any) -> Any:
        return ChatOpenAI(base_url=f"{ADDRESS}/v1", api_key=key, model=MODEL, max_tokens=16, **options)

    done: Results = {}
    human = HumanMessage(
        [{"type": "text", "text": "What color is it?"}, {"type": "image_url", "image_url": data_uri("red")}]
    )
    first = await model(TOKEN, temperature=0, seed=1, stop=["###"]).ainvoke([SystemMessage("Watch."), human])
    assert first.content and first.usage_metadata["total_tokens"] > 0
    done["connect"] = done["frames"] = done["question"] = "ok"
    history = [human, AIMessage(first.content), HumanMessage("And now?")]
    pieces = [piece.content async for piece in model(TOKEN, stream_usage=True).astream(history)]
    assert any(pieces)
    done["streamed"] = done["second"] = "ok"
    async for _ in model(TOKEN).astream(history):
        break
    done["cancel"], done["reconnect"] = "ok", "each is complete"
    try:
        await model("wrong").ainvoke([human])
        raise AssertionError("a wrong key was taken")
    except Exception as caught:
        assert "401" in str(caught), caught
    done["token"] = "ok"
    return done


# ---- Live VLM WebUI -------------------------------------------------------------------------------------------------


async def live_vlm_webui() -> Results:
    """Its camera's frames, as its page gives them to the part that asks; what it was told is in its own debug view."""
    from live_vlm_webui.vlm_service import VLMService

    def at(key: str) -> Any:
        return VLMService(model=MODEL, api_base=f"{ADDRESS}/s/live-vlm-webui/v1", api_key=key)

    async def prompt_tokens(service: Any, color: str) -> int:
        await service.process_frame(Image.new("RGB", (640, 480), color))
        text, is_busy = service.get_current_response()
        assert text and not text.startswith("Error:") and not is_busy, text
        return int(service.get_last_response_payload()["usage"]["prompt_tokens"])

    done: Results = {}
    service = at(TOKEN)
    assert [model.id async for model in service.client.models.list()] == [MODEL]
    done["connect"], done["streamed"] = "ok", "it never does"
    first = await prompt_tokens(service, "red")
    done["frames"] = done["question"] = "ok"
    second = await prompt_tokens(service, "green")
    assert second > first, "it remembers"
    done["second"] = "ok"
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(service.process_frame(Image.new("RGB", (640, 480), "blue")), 0.01)
    assert await prompt_tokens(service, "blue") > second
    done["cancel"] = "ok"
    assert await prompt_tokens(at(TOKEN), "white") > second
    done["reconnect"] = "ok"
    refused = at("wrong")
    await refused.process_frame(Image.new("RGB", (640, 480), "red"))
    assert "401" in refused.get_current_response()[0]
    done["token"] = "ok"
    return done


CLIENTS: list[tuple[str, str, Callable[[], Awaitable[Results]]]] = [
    ("openai (chat)", "openai", openai_chat),
    ("openai (realtime)", "openai", openai_realtime),
    ("langchain-openai", "langchain-openai", langchain),
    ("pipecat-ai", "pipecat-ai", pipecat),
    ("livekit-agents", "livekit-agents", livekit),
    ("live-vlm-webui", "live-vlm-webui", live_vlm_webui),
]


async def main() -> int:
    os.environ["OPENAI_API_KEY"] = TOKEN
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # the packages' own
    failed = 0
    print(f"| {'client':18} | {'version':9} | {' | '.join(f'{name:9}' for name in CHECKS)} |", flush=True)
    print(f"|{'---|' * (2 + len(CHECKS))}", flush=True)
    for name, package, tried in CLIENTS:
        results: Results = {}
        try:
            results = await asyncio.wait_for(tried(), 4 * SECONDS)
        except Exception:
            traceback.print_exc()
        missing = [check for check in CHECKS if check not in results]
        failed += bool(missing)
        cells = [f"{results.get(check, 'FAILS'):9}" for check in CHECKS]
        print(f"| {name:18} | {version(package):9} | {' | '.join(cells)} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
