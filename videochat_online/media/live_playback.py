"""Playing in real time what can be had at any time: files, and (in lab/) pictures drawn by a function.

It can be paused, sped up, and (files) moved to another second. A clock says which second is on screen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import numpy as np

from .live import DISPLAY_FPS, LiveSource, fitting
from .readers import Decoder, open_video
from .sampling import sample_pass
from .source import Frame, check_fps


class Playback(LiveSource):
    """A source with a clock: stream time runs `speed` times as fast as real time, or stands while paused."""

    def __init__(self, name: str, *, speed: float = 1.0, start: float = 0.0) -> None:
        super().__init__(name)
        check_fps(speed, "speed")
        self._speed = speed
        self._is_paused = False
        self._anchor = (start, time.monotonic())  # stream seconds, and when that was
        self._jump: float | None = None
        self._changed = threading.Condition()

    @property
    def age(self) -> float | None:
        """0: what is on screen is what belongs there. None before the first picture."""
        return None if self.fresh_until is None else 0.0

    @property
    def position(self) -> float:
        """Seconds: the moment on screen now."""
        seconds, moment = self._anchor
        return seconds if self._is_paused else seconds + (time.monotonic() - moment) * self._speed

    @property
    def speed(self) -> float:
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        check_fps(speed, "speed")
        self._change(speed=speed)

    def pause(self) -> None:
        self._change(is_paused=True)

    def play(self) -> None:
        self._change(is_paused=False)

    def _change(self, *, speed: float | None = None, is_paused: bool | None = None) -> None:
        """Run the clock in another way, from the moment on screen now."""
        with self._changed:
            self._anchor = (self.position, time.monotonic())
            self._speed = self._speed if speed is None else speed
            self._is_paused = self._is_paused if is_paused is None else is_paused
            if self.state in ("playing", "paused"):
                self.state = "paused" if self._is_paused else "playing"
            self._changed.notify_all()

    def stop(self) -> None:
        super().stop()
        with self._changed:
            self._changed.notify_all()

    def _begin(self, seconds: float) -> None:
        """Let the clock stand at `seconds` now: the first picture is there, however long it took."""
        with self._changed:
            self._anchor = (seconds, time.monotonic())
            self.state = "paused" if self._is_paused else "playing"

    def _wait_until(self, seconds: float) -> bool:
        """Wait until `seconds` are on screen; False where the source was stopped or moved meanwhile."""
        with self._changed:
            while not self.stopped.is_set() and self._jump is None:
                left = seconds - self.position
                if left <= 0 and not self._is_paused:
                    return True
                self._changed.wait(None if self._is_paused else left / self._speed)
            return False


class VideoPlayback(Playback):
    """A video file (or gif, or folder of images) in real time.

    Args:
        fps: frames a second shown at most.

    MediaError for a file that is no video.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float = DISPLAY_FPS,
        speed: float = 1.0,
        start: float = 0.0,
        decoder: Decoder = "pyav",
    ) -> None:
        super().__init__(os.path.basename(os.fspath(path)), speed=speed, start=start)
        self.video = open_video(path, decoder=decoder, num_threads=1)
        size = fitting(self.video.size)
        if size != self.video.size and not os.path.isdir(path):
            self.video.close()
            self.video = open_video(path, decoder=decoder, size=size, num_threads=1)
        self.duration = self.video.duration
        self._start = start
        self._indices = sample_pass(self.video.timestamps, fps, video_fps=self.video.fps)

    def seek(self, seconds: float) -> None:
        """Go to another second of the file; ValueError outside it."""
        if not 0 <= seconds <= self.duration:
            raise ValueError(f"{self.name} lasts {self.duration:.1f} s, cannot go to {seconds!r} s")
        with self._changed:
            self._jump = seconds
            self._anchor = (seconds, time.monotonic())
            self._changed.notify_all()

    def close(self) -> None:
        self.video.close()

    def frames(self) -> Iterator[Frame]:
        start = self._start
        while not self.stopped.is_set():
            yield from self._play_from(start)
            with self._changed:
                if self._jump is None:
                    return
                start, self._jump = self._jump, None

    def _play_from(self, start: float) -> Iterator[Frame]:
        """Frames from the one on screen at `start` on, until the end, a seek, or a stop."""
        times = self.video.timestamps[self._indices]
        first = max(0, int(np.searchsorted(times, start, side="right")) - 1)
        for number, frame in enumerate(self.video.read(self._indices[first:])):
            if number == 0:
                if self._jump is None:
                    self._begin(frame.timestamp)
            elif not self._wait_until(frame.timestamp):
                return
            yield frame
        self._wait_until(self.duration)
