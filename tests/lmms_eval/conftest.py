"""OVBENCH_ROOT with stand-in videos for real questions; tests that need lmms-eval itself skip without it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.evaluation.conftest import annotations, tasks, videos

__all__ = ["annotations", "tasks", "videos"]  # fixtures

INSTALL = (
    "needs lmms-eval: pip install ./lmms-eval-ovbench && pip install --no-deps -r lmms-eval-ovbench/requirements.txt"
)
"""Why tests skip that need lmms-eval itself, which is no part of the test environment."""


@pytest.fixture(scope="session")
def ovbench_root(annotations: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ovbench")
    os.symlink(annotations, root / "annotations")
    os.symlink(videos, root / "videos")
    return root


@pytest.fixture
def root(ovbench_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVBENCH_ROOT", str(ovbench_root))
    monkeypatch.delenv("OVBENCH_VISUAL", raising=False)
    return ovbench_root


@pytest.fixture
def records(annotations: Path) -> dict[str, list[dict]]:
    """The flat annotation files, as they are."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in annotations.glob("*.json")}
