"""Published data from the hub: the annotations of training, and OVBench with its videos.

What was fetched before is not fetched again; a download that breaks off is resumed.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..extras import hub_errors_named
from ..files import locked, shipped, write_json
from .registry import read_lists

REPOSITORIES = {"videochatonline-it": "MCG-NJU/VideoChatOnline-IT", "ovbench": "MCG-NJU/OVBench"}
"""Name on the command line -> data set on the hub."""
PATTERNS = ("*.json", "*.jsonl", "*.md")
LIST, FOLDER = "anno_data/stage2_online.json", "anno_online"
"""The list that names these annotations, in this folder of $ANNO_ROOT."""
ARCHIVE = re.compile(r"(?P<name>.+?)\.(?P<kind>tar|tar\.gz|tgz|zip)(?P<part>[._-](?:part)?[._-]?[a-z0-9]{1,4})?")
"""An archive, or a part of one: COIN.tar, AVA.tar.gz.part-aa, YFCC100M.zip.001."""
GIGABYTE = 10**9


def _from_hub(repository: str) -> AbstractContextManager[None]:
    return hub_errors_named(f"{repository} could not be fetched from the hub", more="; try again to resume")


def fetch_annotations(name: str, folder: Path) -> None:
    """Download the annotations `name` to `folder`. Raises ValueError where the hub does not give them."""
    from huggingface_hub import snapshot_download

    repository = REPOSITORIES[name]
    with _from_hub(repository):
        snapshot_download(repository, repo_type="dataset", local_dir=folder, allow_patterns=list(PATTERNS))


def annotations_below(folder: Path) -> dict[str, Path]:
    """Where stage 2's list looks for these annotations when $ANNO_ROOT is `folder`, by set."""
    root = str(folder.absolute())
    named = read_lists([shipped(LIST)], {"ANNO_ROOT": root, "DATA_ROOT": root})
    return {one.name: one.annotation for one in named if FOLDER in one.annotation.parts}


# ---- a benchmark with its videos -------------------------------------------------------------------------------------


@dataclass
class Archive:
    """One archive of a data set, perhaps in parts."""

    name: str
    kind: str
    parts: dict[str, int] = field(default_factory=dict)
    """File of the data set -> bytes, in order."""

    @property
    def size(self) -> int:
        return sum(self.parts.values())


@dataclass
class Offer:
    """What a data set on the hub holds."""

    repository: str
    licence: str
    annotations: dict[str, int]
    """File -> bytes."""
    archives: dict[str, Archive]


def offer_of(name: str) -> Offer:
    """Files, sizes and licence of a data set; nothing is downloaded. ValueError where the hub does not tell."""
    from huggingface_hub import HfApi

    repository = REPOSITORIES[name]
    with _from_hub(repository):
        info = HfApi().dataset_info(repository, files_metadata=True)
    card: Any = info.card_data or {}
    tags = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    offer = Offer(repository, str(card.get("license") or ", ".join(tags) or "not stated"), {}, {})
    for one in sorted(info.siblings or (), key=lambda one: one.rfilename):
        size, found = int(one.size or 0), ARCHIVE.fullmatch(one.rfilename)
        if found:
            archive = offer.archives.setdefault(Path(found["name"]).name, Archive(found["name"], found["kind"]))
            archive.parts[one.rfilename] = size
        elif one.rfilename.endswith(".json"):
            offer.annotations[one.rfilename] = size
    if not offer.annotations or not offer.archives:
        raise ValueError(f"{repository} holds no annotations with archives of videos: its layout is not the known one")
    return offer


def fetch_benchmark(offer: Offer, folder: Path, *, only: Sequence[str] = (), keep_archives: bool = False) -> None:
    """Annotations to folder/annotations, each archive unpacked to folder/videos/NAME; given again, it resumes.

    Raises ValueError for unknown names, a disk that is too small, a broken archive, and where the hub gives nothing.
    """
    from huggingface_hub import hf_hub_download

    if unknown := set(only) - set(offer.archives):
        raise ValueError(f"--only {min(unknown)}: expected some of {', '.join(offer.archives)}")
    with locked(folder):
        wanted = [one for name, one in offer.archives.items() if not only or name in only]
        left = [one for one in wanted if not is_unpacked(folder, one)]
        check_space(folder, left)
        download = folder / "download"

        def fetched(file: str) -> Path:
            with _from_hub(offer.repository):
                return Path(hf_hub_download(offer.repository, file, repo_type="dataset", local_dir=download))

        (folder / "annotations").mkdir(exist_ok=True)
        for file in offer.annotations:
            shutil.copyfile(fetched(file), folder / "annotations" / Path(file).name)
        for archive in left:
            files = [fetched(file) for file in archive.parts]
            unpack(files, archive.kind, folder / "videos" / Path(archive.name).name)
            write_json(_mark(folder, archive), archive.parts)
            for part in () if keep_archives else files:
                part.unlink()


def _mark(folder: Path, archive: Archive) -> Path:
    return folder / "download" / f"{Path(archive.name).name}.unpacked.json"


def is_unpacked(folder: Path, archive: Archive) -> bool:
    """Whether it was unpacked whole, and is the same on the hub today."""
    try:
        return bool(json.loads(_mark(folder, archive).read_text("utf-8")) == archive.parts)
    except (OSError, ValueError):
        return False


def check_space(folder: Path, archives: Sequence[Archive]) -> None:
    """ValueError where the videos, and the largest archive beside them, do not fit."""
    needed = sum(one.size for one in archives) + max((one.size for one in archives), default=0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder}: about {needed / GIGABYTE:.1f} GB are needed, {free / GIGABYTE:.1f} GB are free; "
            "expected a larger disk, or fewer archives (--only NAME)"
        )


def unpack(files: Sequence[Path], kind: str, folder: Path) -> None:
    """Unpack one archive, given in parts, below `folder`: nothing outside it. ValueError for a broken one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            joined = io.BufferedReader(Joined([stack.enter_context(file.open("rb")) for file in files]), 2**20)
            if kind == "zip":
                with zipfile.ZipFile(joined) as packed:
                    packed.extractall(folder)  # it never leaves the folder
            else:
                with tarfile.open(fileobj=joined, mode="r:*") as packed_tar:
                    packed_tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        what = f"{files[0]} cannot be unpacked ({error})"
        raise ValueError(f"{what}; remove it to have it fetched again") from error


class Joined(io.RawIOBase):
    """Several open files as one that can be read from any place."""

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self._files = files
        self._ends: list[int] = []
        for file in files:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + file.seek(0, io.SEEK_END))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._ends[-1])[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        for file, end in zip(self._files, self._ends, strict=True):
            if self._position < end:
                size = file.seek(0, io.SEEK_END)
                file.seek(size - (end - self._position))
                data = file.read(min(len(buffer), end - self._position))
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
        return 0
