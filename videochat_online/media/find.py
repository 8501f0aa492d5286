"""Where a video lies: a file or a folder of frames, named with or without its suffix, at its place or below a root.

Archives unpack differently from mirror to mirror, so a library looks at the likeliest places first and after that for
the name anywhere below its root.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath

from .image_source import IMAGE_SUFFIXES
from .readers import Decoder, check_decoder
from .shards import shard_of
from .source import MediaError, reading

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".gif")


def find_video(path: Path) -> Path:
    """The file or folder `path`, or the video file of this name with its suffix. MediaError if there is none."""
    if found := path if shard_of(path) else _present(path):
        return found
    what = f"does not exist, nor with {', '.join(VIDEO_SUFFIXES)}"
    raise MediaError.about(path, what, "a video or a folder of frames")


def _present(path: Path) -> Path | None:
    with reading(path, "cannot be looked for", "the name of a video", errors=OSError):  # too long, say
        places = (path, *(Path(f"{path}{suffix}") for suffix in VIDEO_SUFFIXES))
        return next((place for place in places if place.exists()), None)


class VideoLibrary:
    """Finds videos and folders of frames below `root`. The tree is walked at most once, and only when needed.

    `decoder`: what its videos are to be read with. ValueError for an unknown one, and where there is no such folder.
    """

    def __init__(self, root: Path, *, decoder: Decoder = "pyav") -> None:
        check_decoder(decoder)
        if not root.is_dir():
            raise ValueError(f"--videos {root}: no such folder")
        self.root, self.decoder = root, decoder

    def find(self, names: Sequence[str]) -> Path:
        """The first of `names` that is at its place below the root; else what is called so, wherever it lies.

        MediaError: nothing found, or several and no way to choose.
        """
        for name in names:
            if present := _present(self.root / name):
                return present
        last = PurePosixPath(names[0])
        found = self._by_name.get(last.name) or self._by_name.get(_without_suffix(last), [])
        if len(found) > 1:
            top = last.parts[0].lower()
            found = [p for p in found if top in (part.lower() for part in p.relative_to(self.root).parts)] or found
        if len(found) == 1:
            return found[0]
        what = "not found" if not found else f"found {len(found)} times ({', '.join(map(str, found[:3]))})"
        raise MediaError(f"{names[0]}: {what} below {self.root}; expected one video or folder of frames of that name")

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """File name, file stem, or folder of frames -> where it lies."""
        places: dict[str, list[Path]] = defaultdict(list)
        for path in videos_below(self.root):
            for name in {path.name, _without_suffix(path)}:
                places[name].append(path)
        return places


def _without_suffix(path: PurePath) -> str:
    """The name without a video's suffix; other dots belong to the name."""
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


def videos_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Video files, and folders that hold images, in the order of their names.

    `above` are the folders on the way here: a link back to one of them has nothing new below it. What may not be read
    is left out, and its videos are not found.
    """
    try:
        place = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    here = (place.st_dev, place.st_ino)
    if here in above:
        return
    subfolders, images = [], False
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if os.path.isdir(entry):  # unlike entry.is_dir(), also where a link leads to itself
            subfolders.append(Path(entry.path))
        elif suffix in VIDEO_SUFFIXES:
            yield Path(entry.path)
        else:
            images = images or suffix in IMAGE_SUFFIXES
    if images:
        yield folder
    for subfolder in subfolders:
        yield from videos_below(subfolder, above | {here})
