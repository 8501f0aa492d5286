"""Streams that come in their own time, behind one interface: a source makes frames, a LiveStream queues them.

A LiveStream runs its source in a thread and keeps the newest frames in a bounded queue: where the reader of the queue
is too slow, the oldest frames are dropped and counted. Kinds of sources: PushedFrames here (a browser's camera),
live_playback.py (files, generated pictures) and live_network.py (RTSP, HTTP, HLS, UDP, camera devices).
"""

from __future__ import annotations

import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import Image

from .picture import rgb_array
from .source import Frame, MediaError, check_fps

LiveState = Literal["waiting", "playing", "stalled", "paused", "reconnecting", "over"]
DISPLAY_FPS = 10.0
"""Frames a second that a source gives at most: enough to look at; a model sees fewer."""
MAX_SIDE = 960
"""Pixels; larger pictures are scaled down to this side: no model here sees more, and waiting frames take memory."""
STALLED_SECONDS = 2.5
"""Without a picture for this long, a source that plays has stalled."""
JOIN_SECONDS = 0.5
"""How long closing waits for a source to end; one that hangs in a library is left behind and ends by itself."""


class LiveSource(ABC):
    """Makes frames when their time has come. One source is played once, by one LiveStream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_reconnects = 0
        self.num_damaged = 0
        """Pictures that came damaged, or could not be decoded for a loss before them; they are not given."""
        self.problem: str | None = None
        """What is wrong at the moment, for a person; None while all is well."""
        self.stopped = threading.Event()
        self.stalled_after = STALLED_SECONDS
        self.fresh_until: float | None = None
        """Until when (time.monotonic()) the newest picture is no older than it should be; None before the first."""
        self._state: LiveState = "waiting"

    @property
    def state(self) -> LiveState:
        is_stalled = self._state == "playing" and (self.age or 0.0) > self.stalled_after
        return "stalled" if is_stalled else self._state

    @state.setter
    def state(self, state: LiveState) -> None:
        self._state = state

    @property
    def age(self) -> float | None:
        """Seconds since the newest picture came; None before the first."""
        return None if self.fresh_until is None else max(0.0, time.monotonic() - self.fresh_until)

    @property
    def trouble(self) -> str | None:
        """What is wrong at the moment, for a person: the problem, or that nothing new comes."""
        is_stalled = self.problem is None and self.state == "stalled"
        return f"{self.name} stands still: no new picture comes" if is_stalled else self.problem

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Frames with ascending seconds, each as soon as it is due; ends when `stopped` is set or nothing follows.

        MediaError where the source cannot be read (any more).
        """

    def stop(self) -> None:
        """Ask `frames` to end soon. Called from any thread."""
        self.stopped.set()

    def close(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free what the source holds; `frames` has ended, or was never begun."""


class PushedFrames(LiveSource):
    """Frames that somebody else sends: a frame's second is the time since the first one came."""

    def __init__(self, name: str = "pushed frames") -> None:
        super().__init__(name)
        self._arrived: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._first: float | None = None
        self._num = 0

    def push(self, image: np.ndarray | Image.Image) -> float:
        """Take in a picture (PIL, or uint8 (H, W, 3)), from any thread; returns its seconds.

        MediaError for something else than a picture, ValueError after `stop`.
        """
        picture = rgb_array(image)
        with self._lock:
            if self.stopped.is_set():
                raise ValueError(f"{self.name} has been stopped and takes no more frames")
            now = time.monotonic()
            self._first = now if self._first is None else self._first
            self._arrived.put(Frame(picture, now - self._first, self._num))
            self._num += 1
            return now - self._first

    def stop(self) -> None:
        super().stop()
        self._arrived.put(None)

    def frames(self) -> Iterator[Frame]:
        while (frame := self._arrived.get()) is not None:
            self.state = "playing"
            yield frame


class RateLimit:
    """Lets the first frame of each period of 1 / fps seconds of stream time pass."""

    def __init__(self, fps: float) -> None:
        check_fps(fps)
        self.fps = fps
        self._last: int | None = None

    def passes(self, timestamp: float) -> bool:
        period = math.floor(timestamp * self.fps + 1e-6)
        is_new, self._last = period != self._last, period
        return is_new


class BurstLimit:
    """Lets `fps` frames a second pass in the long run, and `seconds` of them at once."""

    def __init__(self, fps: float, seconds: float) -> None:
        self._period, self._most_early = 1 / fps, seconds
        self._due = -math.inf

    def passes(self, timestamp: float) -> bool:
        due = max(self._due, timestamp)
        if due - timestamp > self._most_early:
            return False
        self._due = due + self._period
        return True


def fitting(size: tuple[int, int]) -> tuple[int, int]:
    """(W, H) of the same shape, even, with no side longer than MAX_SIDE; smaller sizes stay."""
    if max(size) <= MAX_SIDE:
        return size
    scale = MAX_SIDE / max(size)
    width, height = (max(2, round(side * scale / 2) * 2) for side in size)
    return width, height


class LiveStream:
    """The frames of a running source: `take()` them one by one, or look at the `latest`.

    Args:
        fps: frames a second that are queued; None: all. Every frame becomes the `latest`.
        capacity: frames that may wait; the oldest is dropped for a newer one.
    """

    def __init__(self, source: LiveSource, *, fps: float | None = 2.0, capacity: int = 8) -> None:
        if fps is not None:
            check_fps(fps)
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 frame, got {capacity}")
        self.source, self.fps, self.capacity = source, fps, capacity
        self.latest: Frame | None = None
        self.num_received = 0
        """Frames the source gave."""
        self.num_dropped = 0
        """Frames that were dropped from the queue before they were taken."""
        self.error: Exception | None = None
        """Why the source ended, where it did not end by itself."""
        self._waiting: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._limit = None if fps is None else RateLimit(fps)
        self._is_running = False
        self._thread = threading.Thread(target=self._work, name=f"live {source.name}"[:40], daemon=True)

    def start(self) -> LiveStream:
        self._is_running = True
        self._thread.start()
        return self

    @property
    def is_over(self) -> bool:
        """Whether nothing is waiting and nothing will come."""
        with self._changed:
            return not self._waiting and not self._is_running

    @property
    def has_ended(self) -> bool:
        """Whether the source's thread has ended, and freed what it held."""
        return not self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def take(self, timeout: float | None = None) -> Frame | None:
        """The oldest frame waiting; None when the stream is over or closed, or none came within `timeout` seconds.

        Raises what the source ended with, once its last frame was taken.
        """
        with self._changed:
            stopped = self.source.stopped.is_set
            self._changed.wait_for(lambda: self._waiting or not self._is_running or stopped(), timeout)
            if self._waiting:
                return self._waiting.popleft()
            if self.error is not None and not self._is_running:
                raise self.error
            return None

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the source is over."""
        while (frame := self.take()) is not None:
            yield frame

    def wait_for_frame(self, timeout: float) -> Frame:
        """The first frame, left in the queue; MediaError where none comes within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.latest or not self._is_running, timeout)
            if self.latest is not None:
                return self.latest
            if self.error is not None:
                raise self.error
        raise MediaError.about(self.source.name, f"no frame came within {timeout:g} s", "a stream that is running")

    def leave(self) -> None:
        """Stop the source and wake who waits for it; `close` without waiting for its thread."""
        self.source.stop()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the source. Waits for its thread, but not long. May be called again, from any thread; never raises."""
        self.leave()
        if self._thread.ident is None:
            self.source.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(JOIN_SECONDS)

    def __enter__(self) -> LiveStream:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        try:
            for frame in self.source.frames():
                self._queue(frame)
                if self.source.stopped.is_set():
                    break
        except Exception as error:  # raised by take(), in the thread of the reader
            self.error = error
            self.source.problem = str(error)
        finally:
            self.source.state = "over"
            with self._changed:
                self._is_running = False
                self._changed.notify_all()
            self.source.close()  # here: another thread does not know whether it is still read

    def _queue(self, frame: Frame) -> None:
        now = time.monotonic()
        with self._changed:
            self.latest = frame
            self.source.fresh_until = max(now, self.source.fresh_until or now)
            self.num_received += 1
            if self._limit is None or self._limit.passes(frame.timestamp):
                if len(self._waiting) == self.capacity:
                    self._waiting.popleft()
                    self.num_dropped += 1
                self._waiting.append(frame)
            self._changed.notify_all()
