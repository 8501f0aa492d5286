"""Sessions that have watched something, for the tests of this folder."""

from __future__ import annotations

import numpy as np

from videochat_online import StreamingSession


def pictures(num_frames, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 255, (num_frames, 40, 56, 3), dtype=np.uint8))


def watching(pocket, num_frames=20, seed=0, **options):
    session = StreamingSession(*pocket, **options)
    session.see_many(pictures(num_frames, seed), [k / 2 for k in range(num_frames)])
    return session
