"""Looks at media one after another: how long and large each is, and whether what training shows of it can be decoded.

Processes do it, so that a file which crashes or hangs the decoder ends its process only. Knows no lists and no model.
"""

from __future__ import annotations

import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from ..media.readers import MediaError, VideoReader, open_image, open_video
from ..media.source import MediaWarning
from .clip import cut_clip, frames_of_turns, open_reader
from .sample import Sample, SampleError, Video
from .settings import DataSettings

ONE_PROCESS_FILES = 16
"""Up to this many files, starting processes takes longer than opening them."""
LONGEST_SILENCE = 300.0
"""Seconds that opening a file, or decoding one frame of it, may take. A long file on a network disk takes a minute."""

MediaKey = tuple[Path, Video | str]
"""(data root, a video or the name of a still image)."""
Row = tuple[int, int]
"""(number of the set, row)."""
T = TypeVar("T")


@dataclass(frozen=True)
class MediaFacts:
    """What was found at one file, folder or list of frames."""

    problem: str | None = None
    duration: float = 0.0
    """Seconds; of a still image 0."""
    num_frames: int = 0
    size: tuple[int, int] = (0, 0)
    """(W, H) pixels."""
    file_names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is damaged, while the rest can be read."""
    num_decoded: int = 0
    """Still images, and frames that training shows."""
    row_problems: Mapping[Row, str] = field(default_factory=dict)
    """Why a row's frames cannot be shown."""


@dataclass(frozen=True)
class MediaCheck:
    """How media are looked at."""

    strict: bool = False
    """Damage is a problem, not a warning."""
    settings: DataSettings | None = None
    """Decode the frames that training with these shows; None: no frame of a video but its first."""

    def at(self, key: MediaKey, samples: Mapping[Row, Sample], beat: Callable[[], None] = lambda: None) -> MediaFacts:
        """Open one file, or all frames of a folder or list, for the rows that show it; `beat` is called in between."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", MediaWarning)
            try:
                facts = self._opened(key, samples, beat)
            except (MediaError, SampleError, OSError) as error:
                facts = MediaFacts(str(error))
        for one in said:
            if not issubclass(one.category, MediaWarning):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        texts = [str(one.message) for one in said if issubclass(one.category, MediaWarning)]
        return replace(facts, warnings=tuple(dict.fromkeys(texts)))

    def _opened(self, key: MediaKey, samples: Mapping[Row, Sample], beat: Callable[[], None]) -> MediaFacts:
        root, media = key
        if isinstance(media, str):
            size = open_image(root / media, strict=self.strict).size
            return MediaFacts(size=size, num_frames=1, num_decoded=1)
        reader, files = open_reader(media, root, partial(open_video, num_threads=1, strict=self.strict))
        with reader:
            for file in files:
                open_image(file, strict=self.strict)
                beat()
            names = tuple(file.name for file in files)
            facts = MediaFacts(None, reader.duration, reader.num_frames, reader.size, names)
            if self.settings is None:
                return facts
            shown, problems = _shown_frames(reader, files, samples, self.settings)
            failed = _failed_frames(reader, sorted(set().union(*shown.values())), beat)
        for row, frames in shown.items():
            if lost := sorted(frames & failed.keys()):
                problems[row] = f"{failed[lost[0]]}: {len(lost)} of the {len(frames)} frames shown cannot be decoded"
        num_decoded = len(set().union(*shown.values()) - failed.keys())
        return replace(facts, num_decoded=num_decoded, row_problems=problems)


def _shown_frames(
    reader: VideoReader, files: Sequence[Path], samples: Mapping[Row, Sample], settings: DataSettings
) -> tuple[dict[Row, set[int]], dict[Row, str]]:
    """The frames that training shows of each sample, and what is wrong with those of which it can show none."""
    shown, problems = {}, {}
    for row, sample in samples.items():
        try:
            clip, rng = cut_clip(sample, reader, files, settings), random.Random(0)
            turns = frames_of_turns(sample, clip, settings, max_frames=settings.num_frames, rng=rng)
            shown[row] = {frame.index for _, frames in turns for frame in frames}
        except SampleError as error:
            problems[row] = str(error)
    return shown, problems


def _failed_frames(reader: VideoReader, indices: Sequence[int], beat: Callable[[], None]) -> dict[int, str]:
    """What is wrong with each of these frames that cannot be decoded."""
    failed = {}
    for index in indices:
        beat()
        try:
            next(reader.read([index]))
        except (MediaError, OSError) as error:
            failed[index] = str(error)
    return failed


def look_at_all(
    keys: Sequence[MediaKey], samples_of: Callable[[MediaKey], dict[Row, Sample]], look: MediaCheck, *, num_workers: int
) -> dict[MediaKey, MediaFacts]:
    """What is found at each file, by `num_workers` processes. A few files that are only opened need none."""
    if look.settings is None and (num_workers <= 1 or len(keys) <= ONE_PROCESS_FILES):
        return {key: look.at(key, {}) for key in with_bar(keys, len(keys), "files")}
    lookers = [Looker(look) for _ in range(max(1, min(num_workers, len(keys))))]
    free: SimpleQueue[Looker] = SimpleQueue()
    for looker in lookers:
        free.put(looker)

    def look_in_process(key: MediaKey) -> MediaFacts:
        looker = free.get()
        try:
            return looker.look(key, samples_of(key))
        finally:
            free.put(looker)

    with ThreadPoolExecutor(len(lookers)) as threads:
        try:
            found = threads.map(look_in_process, keys)
            return dict(zip(keys, with_bar(found, len(keys), "files"), strict=True))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for looker in lookers:
                looker.close()


class Looker:
    """A process that looks at files, one at a time; where a file ends it, another one takes its place."""

    def __init__(self, look: MediaCheck) -> None:
        self._look = look
        self._process: BaseProcess | None = None
        self._connection: Connection

    def look(self, key: MediaKey, samples: Mapping[Row, Sample]) -> MediaFacts:
        """What the process finds, or how it ended. Raises what is raised in it: that is a mistake of ours."""
        answer: MediaFacts | Exception | None = None
        process = self._process or self._start()
        try:
            self._connection.send((key, samples))
            while answer is None and self._connection.poll(LONGEST_SILENCE):
                answer = self._connection.recv()
            problem = f"hangs: nothing came of it in {LONGEST_SILENCE:g} s; expected a file that can be read"
        except (EOFError, ConnectionError):
            process.join()
            problem = f"ends the process that reads it ({_end(process.exitcode)}); expected a file that can be read"
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            self.close()
        return answer or MediaFacts(problem)

    def _start(self) -> BaseProcess:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._look), daemon=True)
        process.start()
        self._process = process
        theirs.close()
        try:
            self._connection.recv()  # it is up
        except EOFError as error:
            raise ValueError("a process that reads files cannot be started; its own error stands above") from error
        return process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _serve(connection: Connection, look: MediaCheck) -> None:
    """Answer for one file after another, until the other side is gone. None: still at work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side ends this process
    beat = partial(connection.send, None)
    with suppress(EOFError, ConnectionError):
        beat()
        while True:
            key, samples = connection.recv()
            try:
                answer: MediaFacts | Exception = look.at(key, samples, beat)
            except Exception as error:
                answer = error
            connection.send(answer)


def _end(exit_code: int | None) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code and exit_code < 0 else f"exit status {exit_code}"


def with_bar(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The items, with a progress bar where stderr is a terminal."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, unit="", file=sys.stderr, disable=None, leave=False)
