"""What a visitor chooses for a session: how often to look, what to remember, how to answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..config import MEMORY_POLICIES, MemoryConfig
from .limits import LimitReached, Limits

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline


@dataclass(frozen=True)
class SessionSettings:
    """Settings of one session; None leaves a choice to the model."""

    fps: float = 2.0
    """Frames a second that the model sees."""
    capacities: tuple[int, ...] | None = None
    """Frames each level of the memory holds, finest first."""
    policy: str = "pyramid"
    cascade: bool = False
    system_prompt: str | None = None
    max_new_tokens: int | None = None
    timestamps: bool = True
    """Tell the model each frame's time."""

    def __post_init__(self) -> None:
        if self.capacities is not None:
            object.__setattr__(self, "capacities", tuple(self.capacities))
        if not math.isfinite(self.fps) or self.fps <= 0:
            raise ValueError(f"fps must be a number > 0, got {self.fps!r}")
        if self.policy not in MEMORY_POLICIES:
            raise ValueError(f"unknown policy {self.policy!r}, expected one of {', '.join(MEMORY_POLICIES)}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SessionSettings:
        """From json; ValueError for names it does not know."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown setting {', '.join(unknown)}; expected some of {', '.join(known)}")
        return cls(**values)

    def memory(self, model: VideoChatOnline) -> MemoryConfig:
        """The memory that is asked for, on the grids of this model."""
        return model.config.memory_config.adapted(
            capacities=self.capacities,
            policy=self.policy,  # type: ignore[arg-type]
            cascade=self.cascade,
        )

    def check(self, limits: Limits, model: VideoChatOnline) -> None:
        """LimitReached for more than the operator allows."""
        tokens = self.memory(model).max_tokens
        for name, wanted, most in (
            ("fps", self.fps, limits.max_fps),
            ("max_new_tokens", self.max_new_tokens or 1, limits.max_new_tokens),
            ("memory tokens", tokens, limits.max_memory_tokens),
            ("characters of the system prompt", len(self.system_prompt or ""), limits.max_question_chars),
        ):
            if wanted > most:
                raise LimitReached(f"{wanted:g} {name} are more than this server allows ({most:g})")
