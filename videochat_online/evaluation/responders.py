"""Models under test: ours through `StreamingSession`, any image-text-to-text model of transformers, an endpoint.

All answer to the `Responder` protocol of modes.py; the flags say which one is loaded. Nothing here knows benchmarks or
files of predictions.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..command_line import engine_from_flags, load_from_flags, memory_from_flags
from ..config import MemoryConfig, RecallMode, scheduled_level
from ..files import digest
from .benchmarks import Settings
from .endpoint import RecentFrames, endpoint_from_flags
from .modes import Responder

if TYPE_CHECKING:
    import torch

    from ..model.backbone import Backbone
    from ..processing import Processor
    from ..streaming.session import StreamingSession


def memory_of_all(num_frames: int, like: MemoryConfig) -> MemoryConfig:
    """A memory that holds `num_frames` frames, each at the level it enters: nothing is ever forgotten.

    This is how the published sliding window shows its frames.
    """
    counts = [0] * len(like.levels)
    for number in range(num_frames):
        counts[scheduled_level(number, like.every)] += 1
    levels = tuple(replace(level, capacity=count) for level, count in zip(like.levels, counts, strict=True))
    return replace(like, levels=levels, policy="pyramid")


FRAMES_OF_A_DIALOGUE = 16_384
"""No clip of OVBench has more at the rates of the published script that keeps the dialogue, which has no memory."""


@dataclass
class SessionResponder:
    """Our model."""

    model: Backbone
    processor: Processor
    memory: MemoryConfig | None = None
    """None: what the model was made for."""
    skip_below: float | None = None
    """See `StreamingSession`."""
    recall: RecallMode | None = None
    """See `StreamingSession`."""

    def __post_init__(self) -> None:
        from ..streaming.encoding import FrameEncoder

        self._encoder = FrameEncoder(self.model, self.processor)
        self._encoding = threading.Lock()

    def ready(self, frames: Sequence[np.ndarray]) -> Sequence[np.ndarray] | torch.Tensor:
        """The frames' maps, or where those may be left out (`skip_below`) their pixels.

        The frames themselves where their stream decides in which shape they are seen.
        """
        if self.model.config.any_shape:
            return frames
        pixels = self._encoder.prepare(frames)
        if self.skip_below is not None:
            return pixels
        with self._encoding:  # several videos may be on their way, batches go through the encoder one by one
            return self._encoder.encode(pixels)

    def open(self, system_prompt: str | None) -> SessionConversation:
        from ..streaming.session import StreamingSession

        options: dict[str, Any] = {"memory": self.memory, "skip_below": self.skip_below, "recall": self.recall}
        session = StreamingSession(self.model, self.processor, system_prompt=system_prompt, **options)
        return SessionConversation(session)


@dataclass
class SessionConversation:
    session: StreamingSession

    def see(self, frames: Sequence[np.ndarray] | torch.Tensor, timestamps: Sequence[float]) -> None:
        import torch

        if not isinstance(frames, torch.Tensor):
            self.session.see_many(frames, timestamps)
        elif self.session.skip_below is None:
            self.session.see_encoded(frames, timestamps)
        else:
            self.session.see_prepared(frames, timestamps)

    def ask(self, prompt: str, *, max_new_tokens: int, keep: bool) -> str:
        return self.session.ask(prompt, max_new_tokens=max_new_tokens, keep=keep, without_frames=True)

    def recall(self, prompt: str, reply: str) -> None:
        self.session.remember_turn(prompt, reply)

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        return self.session.score_options(prompt, options, without_frames=True)


@dataclass
class TransformersResponder:
    """Any `AutoModelForImageTextToText` with its `AutoProcessor`: it is shown the newest frames as single images.

    Such models have no memory of their own. ValueError for a model that cannot be asked.
    """

    model: Any
    processor: Any
    max_frames: int
    """Frames that are kept."""

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise ValueError(f"a model needs at least one frame, got max_frames={self.max_frames}")
        if getattr(self.processor, "chat_template", None) is None:
            raise ValueError("this model's processor has no chat template, so it cannot be asked")

    @classmethod
    def load(
        cls, name: str, *, device: str, dtype: str, attn_implementation: str, max_frames: int
    ) -> TransformersResponder:
        """`name`: a folder or hub id. Options as for our own models."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from ..model.weights import choose_device, choose_dtype

        place = choose_device(device)
        options: dict[str, Any] = {"dtype": choose_dtype(dtype, on_cpu=place.type == "cpu")}
        options |= {} if attn_implementation == "auto" else {"attn_implementation": attn_implementation}
        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} is no image-text-to-text model of transformers: {error}") from error
        return cls(model.to(place).eval(), processor, max_frames)  # type: ignore[arg-type]

    def open(self, system_prompt: str | None) -> TransformersConversation:
        return TransformersConversation(self, system_prompt)


class TransformersConversation(RecentFrames):
    def answer(self, prompt: str, max_new_tokens: int) -> str:
        import torch

        inputs = self._inputs(prompt)
        with torch.inference_mode():
            ids = self.responder.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        return self.responder.processor.decode(new, skip_special_tokens=True).strip()

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        """Log-likelihood of each option as the whole reply, its end mark included."""
        inputs = self._inputs(prompt)
        return [self._score(inputs, option) for option in options]

    def _score(self, inputs: dict[str, Any], option: str) -> float:
        import torch

        tokenizer, model = self.responder.processor.tokenizer, self.responder.model
        ends = model.generation_config.eos_token_id
        end = tokenizer.eos_token_id if ends is None else ends[0] if isinstance(ends, list) else ends
        reply = [*tokenizer(option, add_special_tokens=False)["input_ids"], end]
        ids = torch.tensor([reply], device=inputs["input_ids"].device)
        zeros = torch.zeros_like(ids)  # of no special type
        tails = {"input_ids": ids, "attention_mask": zeros + 1, "token_type_ids": zeros, "mm_token_type_ids": zeros}
        longer = {
            key: torch.cat([value, tails[key].to(value.dtype)], dim=1) if key in tails else value
            for key, value in inputs.items()
        }
        with torch.inference_mode():
            logits = model(**longer).logits[0, -len(reply) - 1 : -1]
        return float(logits.float().log_softmax(-1).gather(-1, ids.T).sum())

    def _inputs(self, prompt: str) -> dict[str, Any]:
        """Frames in the order of time, then the dialogue so far, then the question."""
        model, processor = self.responder.model, self.responder.processor
        text = processor.apply_chat_template(
            self.messages(prompt, lambda _: {"type": "image"}), add_generation_prompt=True
        )
        images = [Image.fromarray(frame) for _, _, frame in self.frames] or None
        return dict(processor(text=[text], images=images, return_tensors="pt").to(model.device, model.dtype))


def responder_from_flags(options: argparse.Namespace, settings: Settings) -> tuple[Responder, dict[str, Any]]:
    """The model under test, and what identifies it. ValueError for flags that do not go together."""
    options.device = _device_of_process(options.device)
    about: dict[str, Any] = {"model": options.model, "adapter": options.adapter}
    has_memory, engine = options.adapter == "videochat", engine_from_flags(options)
    if engine is not None and not has_memory:
        raise ValueError(f"--engine is for our models, not for --adapter {options.adapter}")
    if engine is not None and settings.answer == "likelihood":
        raise ValueError(engine.NO_SCORES)
    others = options.recent or options.skip_below or options.small_frames or options.recall
    if not has_memory and (others or _asks_for_memory(options)):
        ours = "--memory, --policy, --cascade, --recent, --recall, --skip-below and --small-frames are for our models"
        raise ValueError(f"{ours}; see --frames")
    if options.adapter == "endpoint":
        remote, endpoint = endpoint_from_flags(options, settings.frames or 64)
        return remote, about | endpoint
    if options.adapter == "transformers":
        about["max_frames"] = settings.frames or 64
        where = {"device": options.device, "dtype": options.dtype, "attn_implementation": options.attention}
        responder = TransformersResponder.load(options.model, max_frames=about["max_frames"], **where)
        about["weights"] = weights_digest(Path(options.model)) or responder.model.config._commit_hash
        return responder, {**about, "dtype": str(responder.model.dtype)}
    from ..model.backbone import memory_on
    from ..model.weights import adapter_folder, find_checkpoint
    from ..streaming.chooser import chooser_file, chooser_of

    model, processor = load_from_flags(options)
    memory = _memory(options, settings, model)
    about["weights"] = weights_digest(find_checkpoint(options.model))
    if (lora := adapter_folder(options.model, options.lora, {})) is not None:
        about["lora"] = weights_digest(lora)
    if options.quantize != "none":
        about["quantize"] = options.quantize
    about |= {} if engine is None else {"engine": options.engine}
    about["memory"] = memory_on(model.config, memory).to_dict()
    if options.skip_below is not None:
        about["skip_below"] = options.skip_below
    about |= {"recall": options.recall} if options.recall else {}
    if options.recall == "chosen":
        chooser_of(model)  # where it is none, that is said before the folder is made
        about["chooser"] = digest(chooser_file(model))
    return SessionResponder(model, processor, memory, options.skip_below, options.recall), {
        **about,
        "dtype": str(model.dtype),
    }


def weights_digest(folder: Path) -> str | None:
    """SHA-256 over the weight files of a checkpoint in the order of their names; None: no folder, or none in it."""
    from ..streaming.chooser import CHOOSER_FILE
    from ..streaming.gate import GATE_FILE

    files = sorted(file for file in folder.glob("*.safetensors") if file.name not in (GATE_FILE, CHOOSER_FILE))
    return digest(*files) if files else None


def _memory(options: argparse.Namespace, settings: Settings, model: Backbone) -> MemoryConfig:
    """What the flags ask for; without such flags, what has no memory in the published scripts forgets nothing."""
    if options.recent is not None:
        if _asks_for_memory(options):
            raise ValueError("--recent N keeps no memory, so it cannot be used with --memory, --policy or --cascade")
        return MemoryConfig.recent(options.recent)
    memory = memory_from_flags(options, model)
    if settings.script_frames and settings.multi_turn and not _asks_for_memory(options):
        return memory_of_all(FRAMES_OF_A_DIALOGUE, memory)
    if options.mode != "sliding_window" or _asks_for_memory(options):
        return memory
    if settings.frames is None:
        raise ValueError("--mode sliding_window needs --frames N for this benchmark")
    return memory_of_all(settings.frames, memory)


def _asks_for_memory(options: argparse.Namespace) -> bool:
    return bool(options.memory or options.cascade or options.policy != "pyramid")


def _device_of_process(device: str) -> str:
    """Under torchrun each process takes the GPU of its local rank."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{local_rank}" if device == "auto" and local_rank and torch.cuda.is_available() else device
