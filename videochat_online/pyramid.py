"""Which level of the pyramid a frame belongs to and how many tokens a level costs: integers only.

The one source for data set, prompt and memory, so that training shows the model exactly the
frame sizes it will meet in a stream. Knows nothing of tensors, tokens' ids or time.
Source: arXiv 2501.00584, section 4.1 (pyramid memory bank).
"""

from __future__ import annotations

from collections.abc import Sequence


def scheduled_level(frame_number: int, every: Sequence[int]) -> int:
    """Level of frame `frame_number` (counted from 0): the first whose `every` divides it.

    >>> [scheduled_level(i, (8, 4, 1)) for i in range(9)]
    [0, 2, 2, 2, 1, 2, 2, 2, 0]
    """
    if frame_number < 0:
        raise ValueError(f"frame numbers count from 0, got {frame_number}")
    for level, step in enumerate(every):
        if frame_number % step == 0:
            return level
    raise ValueError(f"no level takes frame {frame_number}: every={tuple(every)} must end with 1")


def scheduled_grids(num_frames: int, every: Sequence[int], grids: Sequence[int]) -> list[int]:
    """Grid side of each of the frames 0 .. num_frames-1, as they enter the pyramid.

    >>> scheduled_grids(5, (8, 4, 1), (16, 8, 4))
    [16, 4, 4, 4, 8]
    """
    return [grids[scheduled_level(i, every)] for i in range(num_frames)]


def tokens_of_grid(grid: int) -> int:
    """Tokens the language model sees for one frame held as a `grid` x `grid` map."""
    return grid * grid
