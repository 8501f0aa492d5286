"""One stream being watched: frames go in, questions are answered at any moment.

A session owns ALL state of its stream (memory, dialogue, counters); model and processor are shared and never changed,
so any number of sessions run on one model, also from several threads. Within one session `see` may go on in one thread
while another asks: a question is answered from what the memory held when it was asked.

    frame -> processor.frames -> model.encode_frames -> memory.write
    question -> memory.read -> history.dialogue -> processor.render -> model.embed -> answering.generate_answer
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..config import MemoryConfig
from ..model.memory_bank import MemoryEvent, MemoryFrame, PyramidMemoryBank
from .answering import Answer, generate_answer, stream_pieces
from .history import Turn, dialogue

if TYPE_CHECKING:
    from ..media.transforms import Picture
    from ..model.videochat import VideoChatOnline
    from ..processing import Processor
    from ..prompt.render import Rendered

FORMAT = "videochat-online session 1"


class SessionStats(TypedDict):
    """Counters of one session."""

    frames_seen: int
    frames_held: list[int]
    """Per level, finest first."""
    tokens: int
    """Visual tokens held."""
    bytes: int
    """Memory storage, allocated once."""
    encode_fps: float | None
    """Frames a second through transform, encoder and memory, over all frames seen."""
    last_timestamp: float | None
    """Seconds."""
    questions: int
    prompt_tokens: int | None
    """Of the last question, like what follows."""
    time_to_first_token: float | None
    latency: float | None
    """Seconds for the whole answer."""


class StreamingSession:
    """Watches one stream with one model.

    Args:
        memory: shape and rule of the memory; by default what the model's config says.
        timestamps: show the model each frame's time ("Frame3 at 1.0s: ") or only its number.
        system_prompt: instead of the template's own system message.
        encode_batch_size: frames that go through the encoder together in `see_many`.
    """

    def __init__(
        self,
        model: VideoChatOnline,
        processor: Processor,
        *,
        memory: MemoryConfig | None = None,
        timestamps: bool = True,
        system_prompt: str | None = None,
        encode_batch_size: int = 16,
    ) -> None:
        if encode_batch_size < 1:
            raise ValueError(f"encode_batch_size must be >= 1, got {encode_batch_size}")
        self.model, self.processor = model, processor
        self.memory = PyramidMemoryBank((memory or model.config.memory_config).for_encoder(model.config.grid))
        self.timestamps, self.system_prompt = timestamps, system_prompt
        self.encode_batch_size = encode_batch_size
        self._state = threading.RLock()  # memory, dialogue, counters
        self._asking = threading.Lock()  # one question at a time
        self.reset()

    def reset(self) -> None:
        """Forget the stream and the dialogue; frame numbers start again."""
        with self._state:
            self.memory.reset()
            self._turns: list[Turn] = []
            self._encode_seconds = 0.0
            self._last_timestamp: float | None = None
            self._last_answer: Answer | None = None

    # ---- watching -------------------------------------------------------------------------------------------------

    def see(self, frame: Picture, timestamp: float) -> list[MemoryEvent]:
        """Take in the next frame (PIL image or uint8 (H, W, 3)) shown at `timestamp` seconds.

        Returns which frames left their level for it. Raises ValueError for a bad frame or time going back; the session
        stays as it was.
        """
        return self.see_many([frame], [timestamp])

    def see_many(self, frames: Sequence[Picture], timestamps: Sequence[float]) -> list[MemoryEvent]:
        """Take in several frames in order of time, encoded in batches; equal to `see` one by one."""
        if len(frames) != len(timestamps):
            raise ValueError(f"{len(frames)} frames came with {len(timestamps)} timestamps")
        events: list[MemoryEvent] = []
        for first in range(0, len(frames), self.encode_batch_size):
            batch = slice(first, first + self.encode_batch_size)
            events += self._see_batch(frames[batch], timestamps[batch])
        return events

    def _see_batch(self, frames: Sequence[Picture], timestamps: Sequence[float]) -> list[MemoryEvent]:
        started = time.perf_counter()
        features = self.encode(frames)
        with self._state:
            events = self.memory.write(features, timestamps)
            self._last_timestamp = float(timestamps[-1])
            self._encode_seconds += time.perf_counter() - started
        return events

    @torch.no_grad()
    def encode(self, frames: Sequence[Picture]) -> torch.Tensor:
        """Frames -> features (T, C, g, g) as the memory takes them; changes nothing."""
        pixels = self.processor.frames(frames)
        return self.model.encode_frames(pixels.to(self.model.device, self.model.dtype))

    # ---- asking ---------------------------------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 128,
        keep: bool = True,
        without_frames: bool = False,
        **generation: Any,
    ) -> str:
        """Answer a question about what was seen so far.

        Args:
            max_new_tokens: the answer's length at most.
            keep: remember question and answer as a turn of the dialogue.
            without_frames: allow a question before any frame (to measure what a model says blind).
            generation: passed to transformers' `generate`, such as do_sample, temperature or num_beams.

        Raises ValueError for an empty question, or one before any frame.
        """
        with self._asking:
            answer = self._answer(question, keep, without_frames, max_new_tokens=max_new_tokens, **generation)
        return answer.text

    def ask_stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 128,
        keep: bool = True,
        without_frames: bool = False,
        **generation: Any,
    ) -> Iterator[str]:
        """Like `ask`, but yields the answer piece by piece; the pieces joined are what `ask` returns.

        Leaving the iterator early ends the answer there; what was said until then is kept.
        """
        self._check_question(question, without_frames)  # now, not when the first piece is wanted

        def run(emit: Any, stop: threading.Event) -> None:
            with self._asking:
                self._answer(
                    question, keep, without_frames, emit=emit, stop=stop, max_new_tokens=max_new_tokens, **generation
                )

        return stream_pieces(run)

    def _answer(self, question: str, keep: bool, without_frames: bool, **generation: Any) -> Answer:
        started = time.perf_counter()
        with self._state:
            self._check_question(question, without_frames)
            num_seen, timestamp = self.memory.num_written, self._last_timestamp
            rendered, frames = self.prompt(question)
        embeds = self._embed(rendered, frames)
        prepared = time.perf_counter() - started
        answer = generate_answer(self.model, self.processor, embeds, **generation)
        answer.duration += prepared
        if answer.time_to_first_token is not None:
            answer.time_to_first_token += prepared
        with self._state:
            self._last_answer = answer
            if keep:
                self._turns.append(Turn(question, answer.text, num_seen, timestamp))
        return answer

    def prompt(self, question: str) -> tuple[Rendered, list[MemoryFrame]]:
        """What the model would be shown for this question now: the prompt, and the frames in it, oldest first."""
        with self._state:
            frames, turns = self.memory.read(), list(self._turns)
        messages = dialogue(turns, question, frames, timestamps=self.timestamps, system_prompt=self.system_prompt)
        return self.processor.render(messages, generate=True), frames

    @torch.no_grad()
    def _embed(self, rendered: Rendered, frames: Sequence[MemoryFrame]) -> torch.Tensor:
        """Prompt and frames -> input embeddings (1, N, D)."""
        ids = torch.tensor([rendered.ids], device=self.model.device)
        tokens = self.model.project([frame.features for frame in frames]) if frames else None
        return self.model.embed(ids, tokens)

    @torch.no_grad()
    def score_options(self, question: str, options: Sequence[str], *, without_frames: bool = False) -> list[float]:
        """Log-probability of each option as the whole answer (natural log, summed over its tokens and the end mark).

        The dialogue is not changed. All options are scored against one and the same memory.
        """
        if not options:
            raise ValueError("no options to score")
        with self._asking:
            self._check_question(question, without_frames)
            rendered, frames = self.prompt(question)
            embeds = self._embed(rendered, frames)
            return [self._score(embeds, option) for option in options]

    def _score(self, prompt: torch.Tensor, option: str) -> float:
        ids = self.processor.tokenizer(option, add_special_tokens=False)["input_ids"] + self.processor.end_token_ids[:1]
        target = torch.tensor([ids], device=prompt.device)
        embeds = torch.cat([prompt, self.model.embed(target, None)], dim=1)
        logits = self.model(inputs_embeds=embeds, logits_to_keep=len(ids) + 1).logits[0, :-1]
        return float(logits.float().log_softmax(-1).gather(-1, target.T).sum())

    def _check_question(self, question: str, without_frames: bool) -> None:
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"a question must be a text that is not empty, got {question!r}")
        if self.memory.num_written == 0 and not without_frames:
            raise ValueError("a question came before any frame: call see() first, or pass without_frames=True")

    # ---- looking at the session -----------------------------------------------------------------------------------

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The dialogue so far."""
        return tuple(self._turns)

    def stats(self) -> SessionStats:
        """Counters, for a person or a log."""
        with self._state:
            seen, last = self.memory.num_written, self._last_answer
            return SessionStats(
                frames_seen=seen,
                frames_held=list(self.memory.num_held),
                tokens=self.memory.num_tokens,
                bytes=self.memory.num_bytes,
                encode_fps=seen / self._encode_seconds if self._encode_seconds else None,
                last_timestamp=self._last_timestamp,
                questions=len(self._turns),
                prompt_tokens=last.prompt_tokens if last else None,
                time_to_first_token=last.time_to_first_token if last else None,
                latency=last.duration if last else None,
            )

    def save(self, path: str | Path) -> None:
        """Write memory and dialogue into one safetensors file; written whole or not at all."""
        with self._state:
            tensors = {key: value.contiguous().cpu() for key, value in self.memory.state_dict().items()}
            about = {
                "format": FORMAT,
                "memory": self.memory.config.to_dict(),
                "model": self._fingerprint(self.model),
                "timestamps": self.timestamps,
                "system_prompt": self.system_prompt,
                "encode_batch_size": self.encode_batch_size,
                "encode_seconds": self._encode_seconds,
                "turns": [asdict(turn) for turn in self._turns],
            }
        unfinished = Path(f"{path}.unfinished")
        save_file(tensors, unfinished, metadata={"session": json.dumps(about)})
        unfinished.replace(path)

    @classmethod
    def restore(cls, model: VideoChatOnline, processor: Processor, path: str | Path) -> StreamingSession:
        """A session that goes on where `save` left it.

        Raises ValueError where the file is no session, or one of a model of another shape.
        """
        about, tensors = _read_session(path)
        if about["model"] != cls._fingerprint(model):
            raise ValueError(f"{path} is a session of a model {about['model']}, not of {cls._fingerprint(model)}")
        session = cls(
            model,
            processor,
            memory=MemoryConfig.from_dict(about["memory"]),
            timestamps=about["timestamps"],
            system_prompt=about["system_prompt"],
            encode_batch_size=about["encode_batch_size"],
        )
        maps = {key: value.to(model.device) if key.endswith(".features") else value for key, value in tensors.items()}
        session.memory.load_state_dict(maps)
        session._turns = [Turn(**turn) for turn in about["turns"]]
        session._encode_seconds = about["encode_seconds"]
        last = float(tensors["last_timestamp"])
        session._last_timestamp = last if session.memory.num_written else None
        return session

    @staticmethod
    def _fingerprint(model: VideoChatOnline) -> dict[str, Any]:
        """What must be equal for one model's memory to mean anything to another."""
        config = model.config
        return {"channels": config.feature_size, "grid": config.grid, "template": config.template}


def _read_session(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("session", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a session written by StreamingSession.save ({error})") from error
    if not about or about.get("format") != FORMAT:
        raise ValueError(f"{path} is not a session written by StreamingSession.save: expected format {FORMAT!r}")
    return about, tensors
