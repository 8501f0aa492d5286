"""`chat --calibrate`: alarms an hour by threshold, of files and live streams; nothing is said."""

from __future__ import annotations

import json

import pytest

from tests.test_chat_standing import CLIP, TOP, address  # noqa: F401 (a fixture)
from videochat_online.cli import main
from videochat_online.streaming.moments import calibrated, keep_all, poisson_limit
from videochat_online.streaming.session import StreamingSession
from videochat_online.streaming.standing import KEPT_POINTS, Watchlist


def standing_with(p, rest=0.0):
    standing = Watchlist().add("Is it so?", refractory=rest)
    keep_all(standing)
    standing.curve.extend((float(second), each) for second, each in enumerate(p))
    return standing


def test_the_threshold_that_is_named_gives_no_more_than_was_asked_for():
    quiet, loud = [0.2, 0.2], [0.2, 0.8]
    standing = standing_with(
        (loud * 30 + quiet * 30 + [0.2, 0.95] * 2 + quiet) * 30
    )  # 32 rises in 126 s, of P 0.8 and 0.95
    assert len(standing.curve) == 126 * 30 > KEPT_POINTS
    hours = (126 * 30 - 1) / 3600
    every, few, none = (calibrated(standing, most) for most in (1e4, 100, 1))
    assert every.threshold == 0.1 and every.alarms[0.9] == 60 and every.alarms[0.7] == 960
    assert 0.8 < few.threshold <= 0.95 and few.at_threshold == 60 < 100 * hours
    assert none.threshold > 0.95 and none.at_threshold == 0
    assert none.at_most_an_hour == pytest.approx(2.9957 / hours, rel=1e-3) and none.highest == 0.95
    assert calibrated(standing_with([0.9]), 1).threshold is None


def test_higher_thresholds_keep_the_promise_too():
    """P that dips only below 0.9 fires again and again there, and once at 0.5."""
    found = calibrated(standing_with([0.1, *[0.85, 0.95] * 40, 0.1]), 3600 / 82 * 2)
    assert found.alarms[0.5] == 1 and found.alarms[0.9] == 40 and found.threshold > 0.95


def test_the_limit_is_the_one_of_tables():
    assert [round(poisson_limit(n), 2) for n in (0, 1, 5, 50)] == [3.0, 4.74, 10.51, 63.29]


def test_a_file(capsys, monkeypatch):
    told = ["--tell-me", TOP, "--fps", "4"]
    assert main(["chat", CLIP, *told, "--calibrate", "200"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{TOP}\n0.3 minutes, 80 readouts, P up to 0.76") and "[" not in said
    threshold = said.split("--threshold ")[1].split(" ")[0]
    assert main(["chat", CLIP, *told, "--threshold", threshold, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["events"]) == 1 < 200 * 19.75 / 3600 + 0.1  # as it was promised
    assert main(["chat", CLIP, *told, "--calibrate", "1", "--minutes", "0.1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["minutes"] == pytest.approx(0.1, abs=0.005) and found["alarms"]["0.999"] == 0
    # Ctrl-C in the middle
    see, count = StreamingSession.see_prepared, []

    def interrupted(self, *parts):
        count.append(1)
        if len(count) > 1:
            raise KeyboardInterrupt
        return see(self, *parts)

    monkeypatch.setattr(StreamingSession, "see_prepared", interrupted)
    assert main(["chat", CLIP, *told, "--calibrate", "1"]) == 0
    assert "readouts, P up to" in capsys.readouterr().out


def test_a_live_stream(address, capsys):  # noqa: F811
    assert main(["chat", address, "--tell-me", TOP, "--fps", "4", "--calibrate", "5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{TOP}\n0.0 minutes, ") and "at most 5 an hour: --threshold" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calibrate", "1"], "--calibrate belongs to --tell-me TEXT"),
        (["--tell-me", "x", "--minutes", "1"], "--minutes belongs to --calibrate N"),
        (["--tell-me", "x", "--calibrate", "0"], "--calibrate must be > 0, got 0"),
        (["--tell-me", "x", "--calibrate", "nan"], "--calibrate must be > 0, got nan"),
        (["--tell-me", "x", "--calibrate", "1", "--minutes", "-1"], "--minutes must be > 0, got -1"),
        (["--tell-me", "x", "--calibrate", "1", "-q", "y"], "it goes without -q"),
        (["--tell-me", "x", "--calibrate", "1", "--threshold", "0.4"], "it goes without -q"),
    ],
)
def test_mistakes(flags, message, capsys):
    assert main(["chat", CLIP, *flags]) == 2
    assert message in capsys.readouterr().err
