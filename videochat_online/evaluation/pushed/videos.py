"""Which rows can be watched: a video that is missing, broken or too short costs its own rows only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ...media.find import VideoLibrary
from ...media.readers import MediaError, open_video
from ...streaming.reading import StandingRow, frames_of


def watchable(rows: Sequence[StandingRow], library: VideoLibrary, fps: float) -> tuple[list[StandingRow], list[str]]:
    """Those of `rows` that have a frame to be read out at, and a line for each video or instruction that has none.

    Videos are opened, and one frame of each is decoded. ValueError where fewer than two videos are left: levels are
    fixed on other videos.
    """
    kept: list[StandingRow] = []
    left_out: list[str] = []
    for (name, _), group in groupby(rows, key=lambda row: (row.video, row.start)):
        about = list(group)
        try:
            with open_video(library.find(about[0].names or (name,))) as video:
                list(video.read([0]))
                for row in about:
                    try:
                        frames_of(video, [row], fps)
                        kept.append(row)
                    except ValueError as error:
                        left_out.append(str(error))
        except MediaError as error:
            left_out.append(f"{name} with {len(about)} of {len(rows)} instructions: {error}")
    if len({row.video for row in kept}) < 2:
        number = len({row.video for row in rows})
        why = f", such as {left_out[0]}" if left_out else ""
        raise ValueError(f"--videos {library.root}: two of the {number} videos or more must be watchable{why}")
    return kept, left_out
