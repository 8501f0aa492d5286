"""The memory's configuration, which level a frame belongs to and what it costs; and how answers are found.

The one source for data set, prompt and memory, so that training shows the model exactly the frame sizes that it will
meet in a stream. Plain Python, no torch. Unknown values fail here, with the value and what was expected. The model's
configuration is in model_config.py. Source: arXiv 2501.00584, section 4.1 (pyramid memory bank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

MemoryPolicy = Literal["pyramid", "fifo", "uniform", "merge", "recent"]
MEMORY_POLICIES: tuple[str, ...] = get_args(MemoryPolicy)
SmallFrames = Literal["pooled", "encoded"]
"""How a frame of a coarser level is made: its whole map averaged, or the encoder's own map of a smaller picture."""
Grid = tuple[int, int]
"""Rows and columns of a map."""
SHAPE_TOLERANCE = 1.05
"""Two shapes (width / height) count as one where neither is more than this much wider."""
AnswerMode = Literal["generate", "likelihood"]
"""How a model's answer to a question with options is found: in what it says, or as the likeliest of them."""
RecallMode = Literal["time", "chosen"]
RECALL_MODES: tuple[str, ...] = get_args(RecallMode)
"""Which questions are shown frames of their own: those that name a time, or all, by a chooser beside the model."""
BYTES_OF = {"nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Of a quantized weight: 4 bits, and the scale of each 64 of them in 8 bits, whose own scale each 256 share."""
PUBLISHED_GRID = 16
"""Side of the map the published encoder gives for a frame (448 px, pixel shuffle 0.5)."""


def checked_recall(mode: str | None) -> RecallMode | None:
    """A way to recall, or None for no recall. ValueError for any other value."""
    if mode is not None and mode not in RECALL_MODES:
        raise ValueError(f"recall must be {' or '.join(map(repr, RECALL_MODES))} or None, got {mode!r}")
    return mode  # type: ignore[return-value]


def tokens_of_grid(grid: int) -> int:
    """Tokens the language model sees for one frame held as a `grid` x `grid` map."""
    return grid * grid


def is_same_shape(one: float, other: float) -> bool:
    """Of two shapes, width / height: whether a picture of one may be stretched to the other.

    >>> is_same_shape(16 / 9, 21 / 12), is_same_shape(4 / 3, 16 / 9)
    (True, False)
    """
    return max(one / other, other / one) <= SHAPE_TOLERANCE


def stream_grid(height: int, width: int, side: int) -> Grid:
    """The map of a height x width picture that costs at most side * side tokens, as a square one does.

    Of the grids that have the picture's shape the one with the most tokens; where none has (a side would be shorter
    than a quarter of the square's), the nearest.

    >>> stream_grid(1080, 1920, 16), stream_grid(640, 480, 16), stream_grid(512, 512, 16)
    ((12, 21), (18, 14), (16, 16))
    """
    least, shape = max(1, side // 4), width / height

    def order(grid: Grid) -> tuple[float, int, float]:
        wider = grid[1] / grid[0] / shape
        distance = max(wider, 1 / wider)
        return 0 if is_same_shape(wider, 1) else distance, -grid[0] * grid[1], distance

    rows = range(least, side * side // least + 1)
    return min(((h, w) for h in rows for w in range(least, side * side // h + 1)), key=order)


def scheduled_level(frame_number: int, every: Sequence[int]) -> int:
    """Level of frame `frame_number` (counted from 0): the first whose `every` divides it.

    Raises ValueError for a negative number, and where no level takes the frame.

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


@dataclass(frozen=True)
class MemoryLevel:
    """One step of the pyramid."""

    grid: int
    """Side of the square map a frame is pooled to; the frame then costs grid * grid tokens."""
    every: int
    """Each `every`-th frame enters the memory here (the first level that fits takes it)."""
    capacity: int
    """Frames the level may hold; 0 switches the level off."""

    def __post_init__(self) -> None:
        for name, least in (("grid", 1), ("every", 1), ("capacity", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"MemoryLevel.{name} must be an integer >= {least}, got {value!r}")

    @property
    def num_tokens(self) -> int:
        """Tokens of one frame at this level."""
        return tokens_of_grid(self.grid)


@dataclass(frozen=True)
class MemoryConfig:
    """Shape and rule of the memory bank. Level 0 is the finest.

    Policies: `pyramid` (evict the older of the most similar neighbours; arXiv 2501.00584), and for comparison `fifo`
    (evict the oldest of the level), `uniform` (keep frames evenly spread in time), `merge` (average the most similar
    neighbours), `recent` (the last frames, no memory: `MemoryConfig.recent` keeps them at full grid; over several
    levels it equals `fifo`).
    """

    levels: tuple[MemoryLevel, ...]
    policy: MemoryPolicy = "pyramid"
    cascade: bool = False
    """A frame pushed out of a level by a demotion moves further down the pyramid (the paper's text) instead of
    being dropped (what the published numbers were made with)."""
    scalable: bool = False
    """Nobody asked for these grids: they are the published proportions for a 16x16 map, and `for_encoder` brings
    them to the map that a model's encoder gives."""
    small_frames: SmallFrames | None = None
    """How frames of coarser levels are made; None: as the model's family was trained (`model.backbone.memory_on`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if self.policy not in MEMORY_POLICIES:
            raise ValueError(f"unknown memory policy {self.policy!r}, expected one of {', '.join(MEMORY_POLICIES)}")
        if self.small_frames not in (None, *get_args(SmallFrames)):
            expected = " or ".join(get_args(SmallFrames))
            raise ValueError(f"MemoryConfig.small_frames must be {expected}, got {self.small_frames!r}")
        if not self.levels:
            raise ValueError("a memory needs at least one level")
        for finer, coarser in pairwise(self.levels):
            if finer.grid < coarser.grid:
                raise ValueError(f"grids must not grow from level to level (0 is the finest), got {list(self.grids)}")
        if self.levels[-1].every != 1:
            raise ValueError(f"the last level must take every frame (every=1), got every={self.every}")
        if self.capacity == 0:
            raise ValueError("every level has capacity 0: the memory would hold nothing")

    @classmethod
    def pyramid(
        cls,
        *,
        capacities: tuple[int, ...] = (2, 2, 12),
        grids: tuple[int, ...] | None = None,
        every: tuple[int, ...] = (8, 4, 1),
        cascade: bool = False,
        policy: MemoryPolicy = "pyramid",
        small_frames: SmallFrames | None = None,
    ) -> MemoryConfig:
        """The published bank: 2 frames of 256 tokens, 2 of 64 and 12 of 16, 832 tokens in all.

        `grids` default to 16, 8, 4, halved again for each further level; left at that, they follow the encoder.
        """
        scalable = grids is None
        if grids is None:
            grids = tuple(max(1, PUBLISHED_GRID >> level) for level in range(len(capacities)))
        if not len(capacities) == len(grids) == len(every):
            raise ValueError(f"capacities, grids and every need one number a level, got {capacities}, {grids}, {every}")
        levels = tuple(map(MemoryLevel, grids, every, capacities))
        return cls(levels, policy=policy, cascade=cascade, scalable=scalable, small_frames=small_frames)

    @classmethod
    def single(cls, policy: MemoryPolicy, *, capacity: int, grid: int, scalable: bool = False) -> MemoryConfig:
        """One level for the comparison policies: `capacity` frames of grid * grid tokens."""
        return cls((MemoryLevel(grid, 1, capacity),), policy=policy, scalable=scalable)

    @classmethod
    def recent(cls, capacity: int, *, grid: int | None = None) -> MemoryConfig:
        """The last `capacity` frames, at the encoder's full grid by default: the baseline any memory must beat."""
        return cls.single("recent", capacity=capacity, grid=grid or PUBLISHED_GRID, scalable=grid is None)

    @classmethod
    def of_budget(cls, policy: MemoryPolicy, like: MemoryConfig) -> MemoryConfig:
        """A bank of another policy that costs at most as many tokens as `like`, for fair comparison.

        `recent` keeps full-grid frames; `fifo`, `uniform` and `merge` keep frames of the coarsest grid.
        """
        if policy == "pyramid":
            return replace(like, policy=policy)
        grid = like.levels[0 if policy == "recent" else -1].grid
        capacity = like.max_tokens // tokens_of_grid(grid)
        if capacity == 0:
            raise ValueError(f"{like.max_tokens} tokens do not hold one frame of {tokens_of_grid(grid)} tokens")
        single = cls.single(policy, capacity=capacity, grid=grid, scalable=like.scalable)
        return replace(single, small_frames=like.small_frames)

    def adapted(
        self, *, capacities: Sequence[int] | None = None, policy: MemoryPolicy = "pyramid", cascade: bool = False
    ) -> MemoryConfig:
        """This memory with what a user chose: other capacities, `cascade`, or another policy that costs as much.

        Raises ValueError where there is not one capacity for each level.
        """
        chosen = tuple(capacities or self.capacities)
        if len(chosen) != len(self.levels):
            given = "/".join(map(str, chosen))
            raise ValueError(f"this model's memory has {len(self.levels)} levels, got capacities {given}")
        levels = tuple(replace(level, capacity=count) for level, count in zip(self.levels, chosen, strict=True))
        return MemoryConfig.of_budget(policy, replace(self, levels=levels, cascade=cascade))

    def for_encoder(self, grid: int) -> MemoryConfig:
        """This memory for an encoder that gives grid x grid maps.

        Grids left at their default keep their proportion to the encoder's map (16, 8, 4 become 8, 4, 2 for an 8x8
        map); grids that were asked for stay. Raises ValueError where a grid is finer than the map.
        """
        levels = self.levels
        if self.scalable:
            levels = tuple(replace(level, grid=max(1, level.grid * grid // PUBLISHED_GRID)) for level in levels)
        if levels[0].grid > grid:
            raise ValueError(f"memory grids {self.grids} do not fit an encoder that gives {grid}x{grid} maps")
        return replace(self, levels=levels, scalable=False)

    def grids_on(self, whole: Grid, side: int) -> tuple[Grid, ...]:
        """The levels' grids where a whole frame's map has the grid `whole`, instead of the square side x side.

        Each keeps its scale, rounded down, so that no level costs more tokens than its square.

        >>> MemoryConfig.pyramid().grids_on((12, 21), 16)
        ((12, 21), (6, 10), (3, 5))
        """
        grids = []
        for level in self.levels:
            rows = max(1, min(whole[0] * level.grid // side, level.num_tokens))
            grids.append((rows, max(1, min(whole[1] * level.grid // side, level.num_tokens // rows))))
        return tuple(grids)

    @property
    def grids(self) -> tuple[int, ...]:
        return tuple(level.grid for level in self.levels)

    @property
    def every(self) -> tuple[int, ...]:
        return tuple(level.every for level in self.levels)

    @property
    def capacities(self) -> tuple[int, ...]:
        return tuple(level.capacity for level in self.levels)

    @property
    def capacity(self) -> int:
        """Frames held at most."""
        return sum(level.capacity for level in self.levels)

    @property
    def max_tokens(self) -> int:
        """Tokens held at most."""
        return sum(level.capacity * level.num_tokens for level in self.levels)

    @property
    def max_cells(self) -> int:
        """Cells of maps stored at most: the tokens held, and of encoded frames the maps that they may go down to."""
        costs = [level.num_tokens if level.capacity else 0 for level in self.levels]
        if self.small_frames != "encoded":
            return self.max_tokens
        return sum(level.capacity * sum(costs[k:]) for k, level in enumerate(self.levels))

    def to_dict(self) -> dict[str, Any]:
        """As plain values; `small_frames` only where it was chosen."""
        values = asdict(self)
        return values if self.small_frames else {key: values[key] for key in values if key != "small_frames"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemoryConfig:
        """The reverse of `to_dict`. ValueError where a key is missing or unknown."""
        try:
            return cls(**{**values, "levels": tuple(MemoryLevel(**level) for level in values["levels"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a memory's settings ({error}): {values}") from error
