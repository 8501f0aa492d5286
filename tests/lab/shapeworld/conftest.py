"""A small world on disk, for the tests that read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videochat_online.lab.shapeworld.build import WorldConfig, build_world

SMALL = WorldConfig(4, seed=2, seconds=(20, 30), level=(2, 3), fps=4, size=64, pictures=9)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "small"
    build_world(folder, SMALL, progress=False)
    return folder


def rows(world: Path, name: str) -> list[dict]:
    return json.loads((world / f"{name}.json").read_text())
