"""Media inside tar shards: `clips-00.tar/@1536+509868/ride.mp4` is the 509,868 bytes from byte 1,536 of clips-00.tar.

`videochat-online data index` writes such names. A tar stores its files as they are, so any of them is one read away,
in any order. Pictures are read from memory; a video is copied to a temporary file for as long as its reader lives,
because decoders open it several times.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from pathlib import Path
from weakref import finalize

from .source import MediaError, VideoReader, reading

MEMBER = re.compile(r"(?P<shard>.+?\.tar)/@(?P<start>\d+)\+(?P<size>\d+)/(?P<name>.+)", re.DOTALL)
A_SHARD = "the tar shard that `videochat-online data index` read"


def member_name(shard: str, start: int, size: int, name: str) -> str:
    """How a file of a shard is called; `start` is its first byte in the shard, `size` how many it has."""
    return f"{shard}/@{start}+{size}/{name}"


def shard_of(path: Path) -> Path | None:
    """The shard that a path leads into; None for a path of a file of its own."""
    match = MEMBER.fullmatch(str(path))
    return Path(match["shard"]) if match else None


def read_member(path: Path) -> bytes:
    """What a path into a shard names. MediaError where the shard is missing, short, or no longer what was indexed."""
    match = MEMBER.fullmatch(str(path))
    assert match is not None, f"{path} leads into no shard"
    start, size = int(match["start"]), int(match["size"])
    with reading(path, "cannot be read", A_SHARD, errors=OSError), open(match["shard"], "rb", buffering=0) as file:
        head = os.pread(file.fileno(), tarfile.BLOCKSIZE, max(0, start - tarfile.BLOCKSIZE))
        data = os.pread(file.fileno(), size, start)
        while data and len(data) < size and (more := os.pread(file.fileno(), size - len(data), start + len(data))):
            data += more
    try:
        member = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        is_the_same = member.size == size == len(data) and _is_named(member.name, match["name"])
    except tarfile.HeaderError:
        is_the_same = False
    if not is_the_same:
        raise MediaError.about(path, "is not there: the shard has changed or is cut off", A_SHARD)
    return data


def _is_named(header: str, name: str) -> bool:
    """Whether a member's header may belong to this name: one of 100 bytes or not in ASCII stands before the header."""
    return len(name) >= tarfile.LENGTH_NAME or not name.isascii() or str(Path("/", header)) == str(Path("/", name))


def copied(path: Path) -> Path:
    """A temporary file with what a path into a shard names, and with its suffix. `goes_with` removes it."""
    data = read_member(path)
    with reading(path, "cannot be copied out of its shard", "room for temporary files", errors=OSError):
        descriptor, place = tempfile.mkstemp(suffix=path.suffix, prefix="videochat-")
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
        except OSError:
            os.unlink(place)  # of a full disk it would take the rest
            raise
    return Path(place)


def goes_with(place: Path, video: VideoReader | None) -> None:
    """Remove a temporary file with its reader; at once where there is none."""
    if video is None:
        place.unlink(missing_ok=True)
    else:
        finalize(video, _remove, place, os.getpid())


def _remove(place: Path, process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked meanwhile
        place.unlink(missing_ok=True)
