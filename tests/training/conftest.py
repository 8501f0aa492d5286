"""Each test begins with a fresh accelerate, which keeps device and precision for a whole process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from videochat_online.lab.tiny_models import FAMILIES, write_tiny_model


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of each family of transformers, by name."""
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        write_tiny_model(family, root / family)
    return root
