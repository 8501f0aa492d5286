"""What a session counts, for a person or a log. Plain numbers: goes into json as it is."""

from __future__ import annotations

from typing import TypedDict


class SessionStats(TypedDict):
    """Counters of one session."""

    frames_seen: int
    frames_skipped: int
    """Of these, not encoded because they looked like the one before."""
    frames_held: list[int]
    """Per level, finest first."""
    tokens: int
    """Visual tokens held."""
    bytes: int
    """Memory storage, allocated once."""
    encode_fps: float | None
    """Frames a second through transform, encoder and memory, over all frames seen."""
    last_timestamp: float | None
    """Seconds."""
    questions: int
    """Kept in the dialogue, or forgotten."""
    turns_forgotten: int
    """Oldest turns that the dialogue had to give up to fit a prompt."""
    cache_bytes: int
    """Keys, values and projected frames kept of the last prompt."""
    cache_bytes_at_most: int
    """What keys and values may come to: `max_cache_bytes`, or those of the longest prompt that is taken."""
    prompt_tokens: int | None
    """Of the last question, like what follows."""
    cached_tokens: int | None
    """Prompt tokens that were not computed again."""
    time_to_first_token: float | None
    latency: float | None
    """Seconds for the whole answer."""
