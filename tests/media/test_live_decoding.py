"""Clocks of live connections and files behind addresses, and limits of what is shown: numbers alone."""

from __future__ import annotations

import pytest

from videochat_online.media.live import BurstLimit
from videochat_online.media.live_decoding import FileClock, LiveClock


def test_what_a_server_sends_at_once_to_begin_with_does_not_move_the_clock():
    """Two seconds of old pictures come together, then the stream runs: the last of them was at the live edge."""
    clock = LiveClock()
    burst = [clock.seconds_of(100 + k / 10, 5.0 + k / 1000) for k in range(21)]
    assert burst == sorted(burst) and burst[-1] == pytest.approx(5.02)
    running = [clock.seconds_of(102 + k / 10, 5.02 + k / 10) for k in range(1, 50)]
    assert running == pytest.approx([5.02 + k / 10 for k in range(1, 50)])


def test_a_slow_network_does_not_move_the_clock():
    clock = LiveClock()
    clock.seconds_of(0.0, 0.0)
    assert clock.seconds_of(1.0, 1.0) == 1.0
    assert clock.seconds_of(1.1, 4.0) == pytest.approx(1.1, abs=0.01), "it was made then, and came late"
    assert clock.seconds_of(4.0, 4.0) == pytest.approx(4.0, abs=0.01)


def test_a_clock_never_runs_ahead_and_never_back():
    clock = LiveClock()
    clock.seconds_of(10.0, 0.0)
    assert clock.seconds_of(95000.0, 1.0) == 1.0, "a jump ahead"
    assert clock.seconds_of(3.0, 2.0) == 2.0, "the sender started again"
    assert clock.seconds_of(2.9, 2.05) == pytest.approx(2.0), "pictures out of order"
    assert clock.seconds_of(None, 2.5) == 2.5, "no time: that of arrival"


def test_a_sender_whose_clock_is_slow_is_followed():
    clock = LiveClock()
    for second in range(10_000):  # 500 parts in a million
        seconds = clock.seconds_of(second * 0.9995, float(second))
    assert seconds == pytest.approx(9999, abs=0.1)


def test_time_in_a_file_continues_where_its_own_jumps():
    clock = FileClock()
    moments = [0.0, 0.1, 0.2, 95000.0, 95000.1, 5.0, 5.1, 5.05, 5.3]
    seconds = [clock.seconds_of(7 + moment, 0.0) for moment in moments]
    assert seconds == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.8])
    assert clock.seconds_of(None, 0.0) == pytest.approx(0.8)


def test_uneven_arrival_loses_no_pictures_of_a_slow_stream():
    uneven = [k / 10 + (0.03 if k % 2 else 0.0) for k in range(100)]
    limit = BurstLimit(10, 0.05)
    assert sum(limit.passes(moment) for moment in uneven) == 100


def test_a_fast_stream_is_thinned_and_a_burst_may_pass():
    limit = BurstLimit(10, 0.05)
    assert 99 <= sum(limit.passes(k / 50) for k in range(500)) <= 102
    limit = BurstLimit(10, 5.0)
    assert sum(limit.passes(0.0) for _ in range(200)) == pytest.approx(50, abs=1)
