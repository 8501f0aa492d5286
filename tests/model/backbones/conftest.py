"""A tiny random model of each family, written once by the command that users have, and loaded as they load it."""

from dataclasses import replace

import pytest

from videochat_online import load_model
from videochat_online.lab.tiny_models import FAMILIES, write_tiny_model

from . import watched

ANY_SHAPE = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
KINDS = [*sorted(FAMILIES), *(f"{name} 16:9{way}" for name in ANY_SHAPE for way in ("", " pooled"))]
"""Families, and those that take any shape once more with a 16:9 camera, in both ways to make small frames."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    for family in FAMILIES:
        write_tiny_model(family, root / family)
    return root


@pytest.fixture(scope="session")
def loaded(folders):
    """family -> (model, processor), each loaded once."""
    return {family: load_model(folders / family, device="cpu") for family in FAMILIES}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def family(kind):
    return kind.split()[0]


@pytest.fixture
def tiny(loaded, family, kind, monkeypatch):
    """Model and processor; the pictures of this test are squares, or those of a 16:9 camera."""
    model, processor = loaded[family]
    if "16:9" in kind:
        monkeypatch.setattr(watched, "SHAPE", [9, 16])
    if "pooled" in kind:
        monkeypatch.setattr(model, "config", replace(model.config, small_frames="pooled"))
    return model, processor
