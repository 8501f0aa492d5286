"""The language model in another process: prompts go to vLLM's server as embeddings, ids come back as they are made.

Encoder, connector and word embeddings stay here; of the language model no layer is loaded. vLLM keeps keys and values
(its prefix cache) and batches all that is asked at once. `videochat-online export-llm` (llm_export.py) writes what it
loads, under a name that only this checkpoint's language model has; another one is refused.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import io
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors import safe_open
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..model_config import VideoChatOnlineConfig, has_length_dependent_rope
from .language_model import steady_positions
from .videochat import VideoChatOnline

LANGUAGE = "language_model."
LOOK_SECONDS = 0.05
"""How often somebody who waits for an id looks whether anybody still listens."""
TAKEN = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}
"""Options of transformers' generate that change nothing."""


class EngineError(ValueError):
    """The engine cannot be asked, or did not answer. `status` is what a server's client is told."""

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message)
        self.status = status


class Engine:
    """One vLLM server. Requests of all threads run on one event loop, in a thread of its own.

    `silence`: seconds without a byte after which an answer is given up. VLLM_API_KEY is its key, as for vLLM itself.
    """

    NO_SCORES = "an engine gives answers, no probabilities: options cannot be scored (for eval: --answer generate)"

    def __init__(self, address: str, *, silence: float = 60.0) -> None:
        if not address.startswith(("http://", "https://")) or "@" in address:  # a login would be in every error
            known = "http://127.0.0.1:8000, and the key in VLLM_API_KEY"
            raise ValueError(f"--engine-url: expected an address such as {known}, got {address.rpartition('@')[2]!r}")
        if not 0 < silence <= 86400:
            raise ValueError(f"--engine-timeout must lie above 0 and up to 86400 seconds, got {silence!r}")
        self.address, self.silence = address.rstrip("/").removesuffix("/v1"), silence
        self.model = ""
        """The name it serves our language model under."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="videochat-online-engine", daemon=True).start()

    def connect(self, name: str, config: Any) -> int:
        """Positions it takes; EngineError unless it is there and serves the model `name`, whose config this is."""
        with self._errors_named() as options:
            response = httpx.get(f"{self.address}/v1/models", trust_env=False, **options)
            self._check(response.status_code, response.text)
            document = json.loads(response.text)
        try:
            served = {str(one["id"]): int(one["max_model_len"]) for one in document["data"]}
        except (TypeError, KeyError, ValueError) as error:
            raise EngineError(f"{self.address} is no vLLM server: it does not say what it serves") from error
        if name not in served:
            what = f"the engine at {self.address} serves {', '.join(map(repr, served)) or 'nothing'}, not {name!r}"
            raise EngineError(f"{what}: export this model with `videochat-online export-llm` and start vLLM as it says")
        taken, most = served[name], steady_positions(config)  # vLLM takes the factors of its own longest one for all
        if has_length_dependent_rope(config) and taken > most:
            what = f"the engine at {self.address} takes {taken} positions, and from {most} on all have other factors"
            raise EngineError(f"{what} (LongRoPE): start it with --max-model-len {most}")
        self.model = name
        return min(taken, most)

    def answer(self, body: dict[str, Any], is_left: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Events of a streamed completion; `is_left` says that nobody listens, which ends the request there, too."""
        made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        task = asyncio.run_coroutine_threadsafe(self._stream({"model": self.model, **body}, made.put), self._loop)
        task.add_done_callback(lambda _: made.put(None))
        try:
            while not is_left():
                try:
                    event = made.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    continue
                if event is None:
                    return task.result()
                yield event
        finally:
            task.cancel()

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # one kept may be closed as it is used
        return httpx.AsyncClient(limits=limits, trust_env=False)  # what cameras saw goes through no proxy

    async def _stream(self, body: dict[str, Any], put: Callable[[dict[str, Any]], None]) -> None:
        address = f"{self.address}/v1/completions"
        with self._errors_named() as options:
            async with self._client.stream("POST", address, json=body, **options) as response:
                if response.status_code != 200:
                    self._check(response.status_code, (await response.aread()).decode("utf-8", "replace"))
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        event = json.loads(line.removeprefix("data: "))
                        if not isinstance(event, dict) or "error" in event:
                            raise EngineError(f"the engine at {self.address} failed: {_words(event)}")
                        put(event)
        raise EngineError(f"the engine at {self.address} broke its answer off")

    def _check(self, status: int, text: str) -> None:
        if status != 200:
            try:
                text = _words(json.loads(text))
            except ValueError:
                text = text[:300]
            raise EngineError(f"the engine at {self.address} refuses (HTTP {status}): {text}")

    @contextmanager
    def _errors_named(self) -> Iterator[dict[str, Any]]:
        """Options of a request; what httpx and json raise in the block becomes an error of ours."""
        key = os.environ.get("VLLM_API_KEY")
        try:
            yield {
                "timeout": httpx.Timeout(self.silence, connect=min(10.0, self.silence), pool=None),
                "headers": {"Authorization": f"Bearer {key}"} if key else {},
            }
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            what = f"no engine answers at {self.address} ({error or type(error).__name__})"
            raise EngineError(f"{what}: start vLLM as `videochat-online export-llm` says", 503) from error
        except httpx.TimeoutException as error:
            raise EngineError(f"the engine at {self.address} said nothing for {self.silence:g} s", 504) from error
        except httpx.HTTPError as error:
            why = error or type(error).__name__
            raise EngineError(f"the engine at {self.address} broke its answer off ({why})") from error
        except (httpx.InvalidURL, json.JSONDecodeError) as error:
            raise EngineError(f"{self.address} cannot be spoken to as vLLM's server ({error})") from error


class VideoChatAtEngine(VideoChatOnline):
    """Our network whose language model runs in `engine`: here it has word embeddings alone, and `generate` asks there.

    `config` is that of the whole model.
    """

    keeps_keys = False
    engine: Engine
    taken: int
    """Positions, here and there."""
    _keys_to_ignore_on_load_unexpected = [f"^{LANGUAGE}"]  # noqa: RUF012 (transformers' own form)

    def __init__(self, config: VideoChatOnlineConfig) -> None:
        config = copy.deepcopy(config)
        config.llm_config.num_hidden_layers, config.llm_config.tie_word_embeddings = 0, False
        if getattr(config.llm_config, "layer_types", None):
            config.llm_config.layer_types = []
        super().__init__(config)
        self.language_model.set_output_embeddings(nn.Identity())

    @classmethod
    def at(cls, engine: Engine, folder: Path, config: VideoChatOnlineConfig, **options: Any) -> VideoChatAtEngine:
        """The model of a checkpoint's folder. EngineError where the engine does not serve its language model."""
        taken = engine.connect(served_name(folder), config.llm_config)
        model: VideoChatAtEngine = cls.from_pretrained(folder, config=copy.deepcopy(config), **options)
        model.config, model.engine, model.taken = config, engine, taken
        return model

    @property
    def max_positions(self) -> int:
        """Tokens of a sequence at most, here and there."""
        return self.taken

    def forward(self, *arguments: Any, **named: Any) -> CausalLMOutputWithPast:
        raise EngineError(Engine.NO_SCORES, 400)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        *,
        inputs_embeds: torch.Tensor,
        eos_token_id: list[int],
        max_new_tokens: int,
        pad_token_id: int | None = None,
        streamer: Any = None,
        stopping_criteria: Any = None,
        **options: Any,
    ) -> torch.Tensor:
        """New ids (1, new) behind `inputs_embeds` (1, N, D). As `VideoChatOnline.generate`, with the options that
        `asked_of_engine` knows; `streamer` is told what the engine had cached, too."""
        data = io.BytesIO()
        torch.save(inputs_embeds[0].cpu().clone(), data)  # a view would take all of its storage along
        body = asked_of_engine(options) | {
            "prompt_embeds": base64.b64encode(data.getvalue()).decode(),
            "max_tokens": max_new_tokens,
            "stop_token_ids": eos_token_id,
            "ignore_eos": True,  # of its own tokenizer: ours are named
            "stream": True,
            "return_token_ids": True,
            "stream_options": {"include_usage": True},
        }
        ids = torch.empty(1, 0, dtype=torch.long)
        is_left = lambda: bool(stopping_criteria and stopping_criteria(ids[:, :0], None).any())  # noqa: E731
        for event in self.engine.answer(body, is_left):
            try:
                new = [int(id_) for choice in event["choices"] for id_ in choice["token_ids"]]
                cached = ((event.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens")
            except (AttributeError, TypeError, KeyError, ValueError) as error:
                what = f"the engine at {self.engine.address} gives no ids of its words"
                raise EngineError(f"{what}: expected vLLM 0.10.2 or later") from error
            ids = torch.cat([ids, torch.tensor([new], dtype=torch.long)], dim=1)
            if streamer is not None:
                streamer.put(ids[:, ids.shape[1] - len(new) :])
                streamer.found_cached(cached or 0)
        if streamer is not None:
            streamer.end()
        return ids


def asked_of_engine(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `generate` in vLLM's words; what is not named there is set to change nothing.

    ValueError for one that the engine cannot honour.
    """
    given = {name: value for name, value in options.items() if value is not None and NEUTRAL.get(name) != value}
    is_drawn, drawn = given.pop("do_sample", False), getattr(given.get("logits_processor"), "asked", None)
    if drawn is not None:  # what `sampling` of streaming/language.py asks for
        del given["logits_processor"]
    if unknown := sorted(given.keys() - TAKEN):
        known = ", ".join(["do_sample", *sorted(TAKEN)])
        raise ValueError(f"the engine cannot honour {', '.join(unknown)}; it takes {known}")
    asked = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "temperature": 1.0, **given}
    return asked | ({} if is_drawn else {"temperature": 0}) | (drawn or {})


def served_name(folder: Path) -> str:
    """The name of a checkpoint's language model at an engine, made of its config and of a part of every tensor."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    parts = {"": json.dumps(config.get("llm_config"), sort_keys=True).encode()}
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            for key in (key for key in tensors.keys() if key.startswith(LANGUAGE)):  # noqa: SIM118 (not a dict)
                rows = tensors.get_slice(key)
                first = rows[:1].contiguous().view(torch.uint8).numpy().tobytes()
                parts[key] = f"{key} {rows.get_shape()}".encode() + first
    return f"videochat-llm-{hashlib.sha256(b''.join(parts[key] for key in sorted(parts))).hexdigest()[:16]}"


def _words(document: Any) -> str:
    """What an error document says, on one line."""
    error = document.get("error", document) if isinstance(document, dict) else document
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text).split())[:300]
