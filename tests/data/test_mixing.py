"""How often each row of each set is seen in an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from videochat_online.data.sampler import epoch_rows


def counts(rows: np.ndarray) -> list[int]:
    return [count for _, count in sorted(Counter(rows[:, 0].tolist()).items())]


@pytest.mark.parametrize(("repeat", "count"), [(1, 10), (2, 20), (0.5, 5), (2.5, 25), (0.01, 1), (3.0, 30)])
def test_repeat_time(repeat: float, count: int):
    rows = epoch_rows([10, 4], [repeat, 1], mixing="proportional", seed=0)
    assert counts(rows) == [count, 4]
    seen = Counter(rows[rows[:, 0] == 0, 1].tolist())
    assert set(seen.values()) <= {int(repeat), int(repeat) + 1}
    assert sum(seen.values()) == count


def test_a_fraction_is_a_choice_by_the_seed_not_the_start_of_the_file():
    first, again, other = (
        epoch_rows([1000], [0.1], mixing="proportional", seed=seed)[:, 1].tolist() for seed in (0, 0, 1)
    )
    assert first == again != other
    assert max(first) > 500


def test_sqrt_mixing_keeps_the_length_and_lifts_small_sets():
    rows = epoch_rows([10_000, 100, 1], [1, 1, 1], mixing="sqrt", seed=0)
    assert len(rows) == 10_101
    large, small, single = counts(rows)
    assert large / small == pytest.approx(10, rel=0.01)
    assert small / single == pytest.approx(10, rel=0.01)
    seen = Counter(rows[rows[:, 0] == 1, 1].tolist())
    assert len(seen) == 100
    assert max(seen.values()) - min(seen.values()) <= 1


def test_sqrt_mixing_weighs_what_repeat_time_made():
    rows = epoch_rows([100, 100], [1, 4], mixing="sqrt", seed=0)
    assert counts(rows) == [167, 333]
