"""What visitors may do, as numbers an operator sets; and the errors that say so."""

from __future__ import annotations

from dataclasses import dataclass


class UnknownSession(ValueError):
    """No session of that id: it never was, or it has ended."""


class LimitReached(ValueError):
    """More than the operator allows."""


class NotAllowed(ValueError):
    """Something the operator has not switched on, or that does not fit what the session is doing."""


@dataclass(frozen=True)
class Limits:
    """Limits of one server."""

    max_sessions: int = 16
    idle_seconds: float = 1800.0
    """A session without a question, a command or a frame for so long is ended."""
    max_upload_bytes: int = 256 * 2**20
    max_video_seconds: float = 3600.0
    max_image_bytes: int = 8 * 2**20
    """Of one pushed frame."""
    max_new_tokens: int = 512
    max_question_chars: int = 4000
    max_fps: float = 10.0
    max_memory_tokens: int = 8192
    """Visual tokens of one session's memory."""
    max_prompt_tokens: int = 16384
    """Of memory, dialogue and answer together; a longer dialogue loses its oldest turns. Bounds a session's cache."""
    allow_urls: bool = False
    """Visitors may name public RTSP and HTTP addresses."""
    allow_private_urls: bool = False
    """... also inside this machine and its network; redirects, playlists and UDP."""
    allow_cameras: bool = False
    """Visitors may open camera devices of this machine."""

    def __post_init__(self) -> None:
        for name in (
            "max_sessions", "max_upload_bytes", "max_image_bytes", "max_new_tokens", "max_question_chars",
            "max_prompt_tokens",
        ):  # fmt: skip
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"Limits.{name} must be an integer >= 1, got {getattr(self, name)!r}")
        for name in ("idle_seconds", "max_video_seconds", "max_fps", "max_memory_tokens"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Limits.{name} must be > 0, got {getattr(self, name)!r}")
        if self.allow_private_urls and not self.allow_urls:
            raise ValueError("Limits.allow_private_urls needs allow_urls: without it no address is opened at all")
