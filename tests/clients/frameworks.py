"""Pipecat and LiveKit, which keep a realtime connection open in tasks of their own; try_clients.py calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from asked import ADDRESS, MODEL, SECONDS, SOCKET, TOKEN, Results
from PIL import Image

# ---- Pipecat --------------------------------------------------------------------------------------------------------


async def pipecat() -> Results:
    from loguru import logger

    logger.remove()
    from pipecat.frames.frames import (
        ErrorFrame,
        InputImageRawFrame,
        InterruptionFrame,
        LLMContextFrame,
        LLMFullResponseEndFrame,
        LLMMessagesAppendFrame,
        LLMTextFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineTask
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

    class Listener(FrameProcessor):
        def __init__(self) -> None:
            super().__init__()
            self.answers: asyncio.Queue[list[str]] = asyncio.Queue()
            self.pieces: list[str] = []

        async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, LLMTextFrame):
                self.pieces.append(frame.text)
            elif isinstance(frame, LLMFullResponseEndFrame):
                await self.answers.put(self.pieces)
                self.pieces = []
            await self.push_frame(frame, direction)

    class Errors(FrameProcessor):
        def __init__(self) -> None:
            super().__init__()
            self.first: asyncio.Queue[str] = asyncio.Queue()

        async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, ErrorFrame):
                await self.first.put(str(frame.error))
            await self.push_frame(frame, direction)

    async def with_pipeline(key: str, path: str, talk: Callable[..., Awaitable[None]]) -> None:
        """Default settings: it asks for sound, with turn detection, and is answered in text."""
        service = OpenAIRealtimeLLMService(
            api_key=key, base_url=f"{SOCKET}{path}", settings=OpenAIRealtimeLLMService.Settings(model=MODEL)
        )
        errors, listener, context = Errors(), Listener(), LLMContext([])
        pair = LLMContextAggregatorPair(context)
        task = PipelineTask(Pipeline([errors, pair.user(), service, listener, pair.assistant()]))
        running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
        try:
            await talk(task, service, listener, errors, context)
        finally:
            await task.cancel()
            await asyncio.wait([running], timeout=20)

    done: Results = {}

    async def talk(task: Any, service: Any, listener: Any, errors: Any, context: Any) -> None:
        context.add_message({"role": "user", "content": "What is happening now?"})
        await service.queue_frame(LLMContextFrame(context))
        first = await asyncio.wait_for(listener.answers.get(), SECONDS)
        assert "".join(first)
        done["connect"] = done["question"] = "ok"
        done["streamed"] = "ok" if len(first) > 1 else "one piece"
        red = Image.new("RGB", (160, 120), "red")
        await task.queue_frame(InputImageRawFrame(image=red.tobytes(), size=red.size, format="RGB"))
        await asyncio.sleep(1)  # pictures and texts take two ways to the service
        asked = [{"role": "user", "content": "And now?"}]  # the user's aggregator would keep it
        await service.queue_frame(LLMMessagesAppendFrame(asked, run_llm=True))
        assert "".join(await asyncio.wait_for(listener.answers.get(), SECONDS))
        done["frames"] = done["second"] = "ok"
        await task.queue_frame(InterruptionFrame())  # it sends response.cancel, answer running or not
        again = [{"role": "user", "content": "Again?"}]
        await service.queue_frame(LLMMessagesAppendFrame(again, run_llm=True))
        while not "".join(await asyncio.wait_for(listener.answers.get(), SECONDS)):
            pass
        assert errors.first.empty(), errors.first.get_nowait()
        done["cancel"] = "ok"

    await with_pipeline(TOKEN, "/s/pipecat/v1/realtime", talk)
    done["reconnect"] = "it never does"

    async def refused(task: Any, service: Any, listener: Any, errors: Any, context: Any) -> None:
        assert "401" in await asyncio.wait_for(errors.first.get(), SECONDS)

    await with_pipeline("wrong", "/v1/realtime", refused)
    done["token"] = "ok"
    return done


# ---- LiveKit --------------------------------------------------------------------------------------------------------


async def livekit() -> Results:
    from livekit import rtc
    from livekit.agents import llm, utils
    from livekit.plugins import openai

    def frame(color: str) -> Any:
        picture = Image.new("RGBA", (160, 120), color)
        return rtc.VideoFrame(*picture.size, rtc.VideoBufferType.RGBA, picture.tobytes())

    async def said(session: Any) -> tuple[str, int]:
        generation = await asyncio.wait_for(session.generate_reply(), SECONDS)
        return await _text(generation)

    async def _text(generation: Any) -> tuple[str, int]:
        text, pieces = "", 0
        async for message in generation.message_stream:
            async for piece in message.text_stream:
                text, pieces = text + piece, pieces + 1
        return text, pieces

    async def ask(session: Any, question: str) -> tuple[str, int]:
        context = session.chat_ctx.copy()
        context.add_message(role="user", content=question)
        await asyncio.wait_for(session.update_chat_ctx(context), SECONDS)
        return await said(session)

    done: Results = {}
    async with utils.http_context.open():
        # default settings: it asks for sound, with turn detection, and is answered in text
        model = openai.realtime.RealtimeModel(base_url=f"{ADDRESS}/s/livekit/v1", model=MODEL, api_key=TOKEN)
        session = model.session()
        errors: list[Any] = []
        session.on("error", errors.append)
        await session.update_instructions("Watch.")
        done["connect"] = "ok"
        session.push_video(frame("red"))
        done["frames"] = "ok"
        text, pieces = await ask(session, "What is happening now?")
        assert text
        done["question"], done["streamed"] = "ok", "ok" if pieces > 1 else "one piece"
        assert (await ask(session, "And before that?"))[0]
        done["second"] = "ok"
        context = session.chat_ctx.copy()
        context.add_message(role="user", content="Tell me everything.")
        await session.update_chat_ctx(context)
        generation = await asyncio.wait_for(session.generate_reply(), SECONDS)
        session.interrupt()
        await _text(generation)
        done["cancel"] = "ok"
        await session.aclose()
        # a new connection to the same name, its texts replayed
        replayed = session.chat_ctx.copy()
        session = model.session()
        await session.update_chat_ctx(replayed)
        assert (await ask(session, "What was it?"))[0]
        done["reconnect"] = "ok"
        assert not errors, errors
        await session.aclose()
        refused = openai.realtime.RealtimeModel(base_url=f"{ADDRESS}/v1", model=MODEL, api_key="wrong").session()
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.on("error", lambda event: told.done() or told.set_result(event))
        await asyncio.wait_for(told, SECONDS)
        await refused.aclose()
        done["token"] = "ok"
        assert isinstance(replayed, llm.ChatContext)
    return done
