"""What a session says unasked, handed on as it comes: to a person, and to a file of json lines or of subtitles."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..files import write_text
from .standing import StandingEvent, Watchlist

FORMS = (".jsonl", ".srt")
WAIT_SECONDS = 0.1
LEAST_SECONDS, SECONDS_A_CHARACTER = 2.0, 0.06
"""How long a subtitle stands."""


def srt_of(cues: Sequence[tuple[float, str]]) -> str:
    """SubRip of (seconds, text) in order of time: each until the next one, or as long as reading it takes."""
    written, end = [], 0.0
    for number, (seconds, words) in enumerate(cues, start=1):
        text = "\n".join(line for line in words.splitlines() if line.strip())
        start = max(seconds, end)
        end = start + max(LEAST_SECONDS, SECONDS_A_CHARACTER * len(text))
        if number < len(cues) and cues[number][0] > start:
            end = min(end, cues[number][0])
        written.append(f"{number}\n{srt_time(start)} --> {srt_time(end)}\n{text}\n")
    return "\n".join(written)


def srt_time(seconds: float) -> str:
    """
    >>> srt_time(3725.5)
    '01:02:05,500'
    """
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def check_events_file(path: Path) -> None:
    """ValueError for a file that cannot be written, or whose name does not say in which form."""
    if path.suffix not in FORMS:
        raise ValueError(f"the file of events ends in {' or '.join(FORMS)}, got {path}")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.resolve().parent}")


def line_of(event: StandingEvent) -> str:
    """For a person: when, how sure, why, and what is said."""
    return f"[{event.time:.1f} s, P {event.probability:.2f}] {event.instruction}\n{event.text or '(no room for words)'}"


class Telling:
    """Hands on each event once, in order. In a `with` block from a thread of its own, and all of them at its end.

    The file is whole after each event: whatever ends the program, what was said by then is in it.
    """

    def __init__(self, watchlist: Watchlist, show: Callable[[StandingEvent], None], file: Path | None = None) -> None:
        self.watchlist, self.show, self.file = watchlist, show, file
        self.told: list[StandingEvent] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.error: Exception | None = None
        """Why nobody is told any more: a reader that has left, a disk that is full."""
        self._thread = threading.Thread(target=self._work, name="videochat-online-telling", daemon=True)

    def tell(self) -> None:
        """Hand on what is new. OSError where the file cannot be written."""
        with self._lock:
            new = self.watchlist.after(self.told[-1].id if self.told else 0)
            self.told += new
            if new and self.file is not None:
                write_text(self.file, self._document())
            for event in new:
                self.show(event)

    def _document(self) -> str:
        if self.file is not None and self.file.suffix == ".srt":
            return srt_of([(event.time, f"{event.instruction}\n{event.text}") for event in self.told])
        return "".join(json.dumps(asdict(event), ensure_ascii=False) + "\n" for event in self.told)

    def __enter__(self) -> Telling:
        if self.file is not None:
            write_text(self.file, "")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.tell()
        if self.error is not None and error[0] is None:
            raise self.error

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self.watchlist.wait(self.told[-1].id if self.told else 0, WAIT_SECONDS)
                self.tell()
        except OSError as error:  # raised where the block ends
            self.error = error
