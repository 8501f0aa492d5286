"""One visitor: a stream, a session on the shared model, and what a page or an API wants to know about both.

Nothing here is shared between visitors but the model. Changing the stream forgets memory and dialogue.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..media.live import LiveStream, PushedFrames
from ..media.live_playback import Playback, VideoPlayback
from ..media.picture import rgb_array
from ..media.source import Frame
from ..streaming.encoding import FrameEncoder
from ..streaming.language import StreamedAnswer
from ..streaming.session import StreamingSession
from ..streaming.standing import Watchlist
from ..streaming.together import SharedDecoder
from ..streaming.watching import LiveWatcher
from .limits import Limits, NotAllowed, RequestError, SessionSettings
from .sources import WatchedStream, open_file
from .track import DialogueTurn, HeldPicture, MemoryTrack

if TYPE_CHECKING:
    from ..model.backbone import Backbone
    from ..processing import Processor

FIRST_FRAME_SECONDS = 15.0
USUAL_NEW_TOKENS = 128


@dataclass(frozen=True)
class Picture:
    """One picture of a message."""

    image: np.ndarray
    """uint8 (H, W, 3)."""
    seconds: float | None = None
    """Of its video, where it is a frame of one."""
    came: float = field(default_factory=time.monotonic)
    """When its message came (time.monotonic)."""

    @property
    def num_pixels(self) -> int:
        return self.image.shape[0] * self.image.shape[1]


class LiveSession:
    """See the module. `folder` is the session's own and is removed with it; others share `encoder` and `decoder`."""

    def __init__(
        self,
        key: str,
        model: Backbone,
        processor: Processor,
        settings: SessionSettings,
        *,
        limits: Limits,
        folder: Path,
        encoder: FrameEncoder,
        decoder: SharedDecoder | None = None,
        prepare: Callable[[LiveSession], None] = lambda live: None,
    ) -> None:
        """`prepare`: called whenever `session` is a new one, before it sees anything."""
        settings.check(limits, model)
        self.key, self.limits, self.folder = key, limits, folder
        self._model, self._processor, self._encoder, self._decoder = model, processor, encoder, decoder
        self._prepare = prepare
        self._lock = threading.RLock()  # starting and stopping
        self._seeing = threading.Lock()  # frames that come through the API, one after another
        self.receiving = threading.Lock()
        """Held while a file is being sent to the session's folder: one at a time."""
        self._watcher: LiveWatcher | None = None
        self._watched: WatchedStream | None = None
        self._file: Path | None = None  # of the session's folder, the last that was watched
        self.is_closed = False
        self._run = 0  # streams started so far
        self.last_used = time.monotonic()
        self.client = ""
        """The address of whoever began it."""
        self.num_let_go = 0
        """Frames dropped of streams before this one, and by the realtime socket."""
        self._told = Watchlist()
        self._configure(settings)

    def _configure(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.session = StreamingSession(
            self._model,
            self._processor,
            memory=settings.memory(self._model),
            timestamps=settings.timestamps,
            system_prompt=settings.system_prompt,
            encoder=self._encoder,
            decoder=self._decoder,
            max_prompt_tokens=self.limits.max_prompt_tokens,
            recall=settings.recalls(self.limits),
        )
        self.session.watchlist = self._told = self._told.continued()  # what is to be told outlives a stream
        self.num_told_before = self._told.num_events  # of streams before this one
        self._prepare(self)
        self.track = MemoryTrack()
        self.known_items: dict[str, Any] = {}  # of the realtime socket: what a reconnected client replays
        self.shown: deque[int] = deque(maxlen=256)
        """Digests of what messages showed last: a client that repeats a request does not show it twice."""
        self._first_seen: float | None = None  # real time of the first frame that came through the API
        self._last_seen: float | None = None

    # ---- the stream -----------------------------------------------------------------------------------------------

    def start(self, stream: WatchedStream) -> None:
        """Watch another stream, from the beginning: memory and dialogue are those of one stream."""
        with self._lock:
            try:
                self._use()
                self._watch(stream)
            except BaseException:
                stream.source.close()
                raise

    def upload_path(self) -> Path:
        """For a file that is to be watched: in the session's own folder, under a name that the server chooses."""
        return self.folder / f"upload-{secrets.token_hex(8)}.video"

    def start_file(self, path: Path, name: str) -> None:
        """Watch a file of the session's folder. One file is kept: the one before goes, and so does one that fails."""
        try:
            self.start(open_file(path, self.limits, name=name))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            before, self._file = self._file, path
        if before is not None and before != path:
            before.unlink(missing_ok=True)

    def _watch(self, stream: WatchedStream) -> None:
        # 1. the stream before ends 2. memory and dialogue are empty again 3. the new stream runs
        self.stop()
        self._configure(self.settings)
        self._watched = stream
        self._run += 1
        self.num_let_go = self.num_dropped
        live = LiveStream(stream.source, fps=self.settings.fps)
        self._watcher = LiveWatcher(self.session, live, on_seen=self.track.add).start()

    def change(self, settings: SessionSettings) -> None:
        """Other settings: the stream restarts, with an empty memory."""
        settings.check(self.limits, self._model)
        with self._lock:
            self._use()
            if self._watched is None:
                self._configure(settings)
            else:
                again = self._reopened()
                self.settings = settings
                self._watch(again)

    def _reopened(self, seconds: float = 0.0) -> WatchedStream:
        """The stream that is watched once more, from that second on."""
        assert self._watched is not None, "there is a stream to open again"
        return replace(self._watched, source=self._watched.reopen(seconds))

    @property
    def watcher(self) -> LiveWatcher | None:
        return self._watcher

    @property
    def num_dropped(self) -> int:
        """Frames that came faster than they could be encoded, of all streams so far."""
        return self.num_let_go + (self._watcher.stream.num_dropped if self._watcher else 0)

    @property
    def source(self) -> Any:
        return None if self._watched is None else self._watched.source

    def control(self, action: str, value: float | None = None) -> None:
        """`play`, `pause`, `stop`; `seek` to a second or set the `speed`, which need a value."""
        self._use()
        if action not in ("seek", "speed"):
            {"play": self.play, "pause": self.pause, "stop": self.stop}[action]()
        elif value is None:
            raise ValueError(f"{action} needs a value")
        else:
            {"seek": self.seek, "speed": self.set_speed}[action](value)

    def stop(self) -> None:
        """End the stream; memory and dialogue stay, so that questions can still be asked."""
        with self._lock:
            if self._watcher is not None:
                self._watcher.close()

    def pause(self) -> None:
        self._paced("be paused: stop it instead").pause()

    def play(self) -> None:
        """Continue after a pause; a stream that is over, or was stopped, restarts."""
        with self._lock:
            if self._watched is None:
                raise NotAllowed("nothing is playing: choose what to watch first")
            if self.source.state == "over":
                self._use()
                self._watch(self._reopened())
            elif isinstance(self.source, Playback):
                self.source.play()

    def set_speed(self, speed: float) -> None:
        if not 0.1 <= speed <= 8:
            raise ValueError(f"speed must lie between 0.1 and 8, got {speed}")
        self._paced("change its speed").speed = speed

    def seek(self, seconds: float) -> None:
        """Go to another second of a file. Forward, the memory is kept; back, it starts empty: time runs one way."""
        with self._lock:
            source = self._paced("be moved")
            if not isinstance(source, VideoPlayback):
                raise NotAllowed(f"{source.name} cannot be moved to another second")
            if not 0 <= seconds <= source.duration:
                raise ValueError(f"{source.name} lasts {source.duration:.1f} s, cannot go to {seconds:g} s")
            if source.state != "over" and seconds >= source.position:
                source.seek(seconds)
                return
            again = self._reopened(seconds)
            assert isinstance(again.source, VideoPlayback), "a file is reopened as a file"
            again.source.speed = source.speed
            if source.state == "paused":
                again.source.pause()
            self._watch(again)

    def _paced(self, what: str) -> Playback:
        if not isinstance(self.source, Playback):
            raise NotAllowed(f"{self.source.name if self.source else 'nothing is playing: it'} cannot {what}")
        return self.source

    # ---- frames that are sent -------------------------------------------------------------------------------------

    @property
    def watches_pushes(self) -> bool:
        """Whether `push` would be taken."""
        return isinstance(self.source, PushedFrames) and not self.source.stopped.is_set()

    def push(self, image: Any) -> None:
        """A frame of the visitor's camera, in real time: it is thinned to the session's fps, and dropped on lag."""
        self._use()
        if not self.watches_pushes:
            raise NotAllowed("this session does not watch a camera of yours: choose that as its source first")
        self.source.push(image)

    def see(self, image: Any, timestamp: float | None = None) -> dict[str, Any]:
        """A frame through the API: seen at once, whatever the session's fps."""
        picture = rgb_array(image)
        with self._seeing:
            seconds = self._second_of(time.monotonic()) if timestamp is None else float(timestamp)
            return {"number": self._see_all([picture], [seconds]), "timestamp": seconds}

    def show(self, pictures: Sequence[Picture], *, is_repeat: bool = False) -> None:
        """See pictures of messages, each at the second when it came, and frames of a video one behind the other.

        Of a request that is repeated, none is seen twice.
        """
        with self._seeing:  # a repeat may come while its first try is still being seen
            digests = [hash((one.image.shape, one.image.tobytes())) for one in pictures]
            before = set(self.shown) if is_repeat else set()
            new = [one for one, digest in zip(pictures, digests, strict=True) if digest not in before]
            last, seconds = self.session.memory.last_timestamp or 0.0, []
            began, at = last, -1.0  # of a video, and the last frame of it
            for one in new:
                if one.seconds is None:
                    last = max(last, self._second_of(one.came))
                else:
                    began, at = (began if one.seconds > at else last), one.seconds
                    last = max(last, began + at)
                seconds.append(last)
            if new:
                self._see_all([one.image for one in new], seconds)
                self.shown.extend(digest for digest in digests if digest not in before)

    def _second_of(self, moment: float) -> float:
        """Of the stream, at a moment of time.monotonic."""
        self._first_seen = moment if self._first_seen is None else self._first_seen
        return max(self.session.memory.last_timestamp or 0.0, moment - self._first_seen)

    def _see_all(self, images: Sequence[np.ndarray], seconds: Sequence[float]) -> int:
        """The number of the first; whoever calls this holds `_seeing`."""
        self._use()
        if self._watcher is not None and not self._watcher.is_over:
            raise NotAllowed(f"this session watches {self.source.name}: stop that before pushing frames")
        last = self.session.memory.last_timestamp
        if last is not None and seconds[0] < last:
            raise ValueError(f"a frame at {seconds[0]:g} s came after one at {last:g} s")
        number = self.session.memory.num_written
        frames = [Frame(image, at, number + k) for k, (image, at) in enumerate(zip(images, seconds, strict=True))]
        self.track.add(frames, self.session.see_many(images, seconds))
        self._last_seen = time.monotonic()
        return number

    # ---- questions ------------------------------------------------------------------------------------------------

    def instruct(self, system_prompt: str) -> None:
        """Another system prompt from the next question on; memory and dialogue stay."""
        settings = replace(self.settings, system_prompt=system_prompt)
        settings.check(self.limits, self._model)
        self.settings = settings
        self.session.system_prompt = system_prompt

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int | None = None,
        without_frames: bool = False,
        at_once: bool = False,
        **generation: Any,
    ) -> tuple[DialogueTurn, Iterator[str]]:
        """The question's turn, and its answer piece by piece. Errors of the question itself come at once.

        Options as `StreamingSession.ask_stream`; `at_once`: a first frame was waited for already. ValueError for an
        empty question, before the first frame, or after the stream failed; RequestError for more than the operator
        allows.
        """
        most = self.check_question(question, max_new_tokens)
        # 1. the model begins to answer 2. what it is asked about is kept for the page
        if not at_once:
            self._await_first_frame()
        self.check_stream(without_frames=without_frames)
        pieces = self.session.ask_stream(question, max_new_tokens=most, without_frames=without_frames, **generation)
        held = [HeldPicture(frame.index, frame.timestamp, frame.level) for frame in pieces.question.frames]
        turn = self.track.ask(question, pieces.question.timestamp or 0.0, held, age=self.age)
        return turn, self._answer(turn, pieces)

    def check_question(self, question: str, max_new_tokens: int | None = None) -> int:
        """Tokens of its answer at most. RequestError for more than the operator allows."""
        self._use()
        usual = self.settings.max_new_tokens or min(USUAL_NEW_TOKENS, self.limits.max_new_tokens)
        most = usual if max_new_tokens is None else max_new_tokens
        if not 1 <= most <= self.limits.max_new_tokens:
            raise RequestError(f"max_new_tokens must lie between 1 and {self.limits.max_new_tokens}, got {most}")
        if len(question) > self.limits.max_question_chars:
            raise RequestError(f"a question may have {self.limits.max_question_chars} characters, got {len(question)}")
        return most

    def _answer(self, turn: DialogueTurn, pieces: StreamedAnswer) -> Iterator[str]:
        try:
            yield from told(turn, pieces, self._processor.end_token_ids)
        finally:
            self.keep()

    def _await_first_frame(self) -> None:
        """A question right after the start waits for something to be asked about."""
        until = time.monotonic() + FIRST_FRAME_SECONDS
        while self.awaits_first_frame and time.monotonic() < until:
            time.sleep(0.02)

    def check_stream(self, *, without_frames: bool = False) -> None:
        """ValueError where the stream failed before anything was seen of it, or is still to show its first frame."""
        if self.session.memory.num_written == 0 and (watcher := self._watcher) is not None:
            if watcher.error is not None:
                raise ValueError(str(watcher.error))
            if not watcher.is_over and not without_frames:
                raise ValueError(f"{self.source.name} has shown no frame yet; ask later")

    @property
    def awaits_first_frame(self) -> bool:
        """Whether a stream runs that nothing was seen of yet."""
        watcher = self._watcher
        return watcher is not None and not watcher.is_over and self.session.memory.num_written == 0

    # ---- looking at it --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything a page or a client shows, as plain values. Seconds, bytes."""
        source, watcher = self.source, self._watcher
        latest = None if watcher is None else watcher.stream.latest
        position = 0.0 if latest is None else latest.timestamp
        truth = None if self._watched is None else self._watched.truth
        stats, memory = self.session.stats(), self.session.memory
        return {
            "id": self.key,
            "run": self._run,
            "source": source.name if source else None,
            "state": source.state if source else "none",
            "problem": source.trouble if source else None,
            "age": self.age,
            "position": max(position, stats["last_timestamp"] or 0.0),
            "duration": getattr(source, "duration", None),
            "speed": getattr(source, "speed", None),
            "frames_received": watcher.stream.num_received if watcher else stats["frames_seen"],
            "frames_dropped": watcher.stream.num_dropped if watcher else 0,
            "frames_damaged": source.num_damaged if source else 0,
            "reconnects": source.num_reconnects if source else 0,
            "lag": watcher.lag if watcher else 0.0,
            "truth": truth(position) if truth and latest is not None else None,
            "levels": [
                asdict(level) | {"rows": rows, "columns": columns, "tokens": rows * columns}
                for level, (rows, columns) in zip(memory.config.levels, memory.grids, strict=True)
            ],
            "held": [asdict(frame) for frame in self.track.held.values()],
            "departures": [asdict(event) for event in self.track.departures],
            "questions": len(self.track.turns),
            "stats": dict(stats),
        }

    @property
    def age(self) -> float | None:
        """Seconds since the newest picture came; None before the first."""
        if self._last_seen is not None:
            return time.monotonic() - self._last_seen
        return None if self.source is None else self.source.age

    def latest(self) -> Frame | None:
        """The picture on screen now."""
        return None if self._watcher is None else self._watcher.stream.latest

    def dialogue_document(self, model_name: str) -> dict[str, Any]:
        """What was watched, by which model, and every question with its answer and what was in memory then."""
        turns = [asdict(turn) for turn in self.track.turns]
        return {"source": self.source.name if self.source else None, "model": model_name, "dialogue": turns}

    def keep(self) -> None:
        """It is in use, though not asked."""
        self.last_used = time.monotonic()

    def _use(self) -> None:
        """It is not idle; NotAllowed where it has ended."""
        if self.is_closed:
            raise NotAllowed("this session has ended; start another one")
        self.keep()

    def close(self) -> None:
        """End the stream and remove the session's files. May be called again."""
        with self._lock:
            self.is_closed = True
            self.stop()
            shutil.rmtree(self.folder, ignore_errors=True)


def told(turn: DialogueTurn, pieces: StreamedAnswer, end_token_ids: Sequence[int]) -> Iterator[str]:
    """The pieces of an answer; what it was and cost stands in its turn when it ends, or is left."""
    try:
        for piece in pieces:
            turn.answer += piece
            yield piece
    finally:
        pieces.close()  # an answer that is left early is kept, and has cost something, too
        if (answer := pieces.question.answer) is not None:
            turn.answer = answer.text
            turn.prompt_tokens, turn.answer_tokens = answer.prompt_tokens, len(answer.ids)
            turn.cached_tokens = answer.cached_tokens
            turn.visual_tokens = sum(frame.num_tokens for frame in pieces.question.frames)
            turn.is_cut = not set(answer.ids[-1:]) & set(end_token_ids)
        turn.is_done = True
