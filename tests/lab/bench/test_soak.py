"""What the soak calls growth: not what sessions hold within their bounds, but what comes on top, and what stays."""

from __future__ import annotations

import pytest

from videochat_online.lab.bench.soak import found_growth

BEFORE = {"server_mib": 300.0, "held_mib": 0.0, "other_mib": 300.0, "threads": 7.0, "files": 8.0}


def looks(last: dict[str, float] | None = None, **growth: float) -> list[dict[str, float]]:
    """Thirty looks, each number growing by so much a look, from a usual one on."""
    usual = {"server_mib": 700.0, "held_mib": 50.0, "other_mib": 650.0, "threads": 60.0, "files": 40.0}
    there = [{name: value + k * growth.get(name, 0.0) for name, value in usual.items()} for k in range(30)]
    return [BEFORE, *there, BEFORE | (last or {})]


def test_what_stays_is_flat():
    assert found_growth(looks()) == []
    assert found_growth(looks(held_mib=5.0, server_mib=5.0)) == [], "keys and values, dialogues: they have bounds"


@pytest.mark.parametrize(("name", "step"), [("other_mib", 5.0), ("threads", 0.5), ("files", 0.5)])
def test_a_leak_is_named(name, step):
    (found,) = found_growth(looks(**{name: step}))
    assert found.startswith(f"{name} grew from ")


@pytest.mark.parametrize("name", ["threads", "files"])
def test_what_clients_leave_behind_is_named(name):
    (found,) = found_growth(looks(last={name: 30.0}))
    assert found == f"{name}: {BEFORE[name]:g} at first, 30 at the end"


def test_too_short_a_time_says_nothing():
    (found,) = found_growth(looks()[:4])
    assert "too few" in found
