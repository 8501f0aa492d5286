"""A benchmark whose language model runs at an engine has the answers of the run without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.test_commands import config_in, flags, run  # noqa: F401 (a fixture)
from tests.stand_in_engine import StandIn, running
from videochat_online import load_model
from videochat_online.evaluation.afterwards import INCOMPLETE
from videochat_online.evaluation.predictions import read_predictions


def test_a_run_at_an_engine_is_the_run_here(flags, tmp_path: Path):  # noqa: F811
    asked = [*flags, "--answer", "generate", "--no-blind"]
    assert run(*asked, "--output", tmp_path / "here") == INCOMPLETE  # --limit
    with running(StandIn(load_model("pocket", device="cpu")[0])) as engine:
        at = ["--engine", "vllm", "--engine-url", engine.address]
        assert run(*asked, *at, "--output", tmp_path / "there") == INCOMPLETE
        assert len(engine.bodies) == 12
    here, there = (read_predictions(tmp_path / name) for name in ("here", "there"))
    assert {key: one.response for key, one in here.items()} == {key: one.response for key, one in there.items()}
    assert config_in(tmp_path / "there")["engine"] == "vllm" and "engine" not in config_in(tmp_path / "here")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--engine", "vllm"], "no probabilities.*--answer generate"),  # what pocket's config asks for
        (["--engine", "vllm", "--answer", "generate", "--adapter", "transformers"], "--engine is for our models"),
        (["--engine", "vllm", "--answer", "generate", "--endpoint", "http://127.0.0.1:1/v1"], "--engine is for our"),
        (["--engine-url", "http://127.0.0.1:1"], "go with --engine vllm"),
        (["--engine-url", "http://127.0.0.1:1", "--endpoint", "http://127.0.0.1:1/v1"], "go with --engine vllm"),
    ],
)
def test_what_does_not_go_together(flags, tmp_path: Path, more, words):  # noqa: F811
    with pytest.raises(ValueError, match=words):
        run(*flags, *more, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()
