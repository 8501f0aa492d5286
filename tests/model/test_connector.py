"""The pixel shuffle against recorded values, and the connector's shape and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videochat_online.model.connector import build_connector, pixel_shuffle

CASES = ("sq4", "sq8b2", "rect_w4_h6", "quarter", "full32", "one")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("case", CASES)
def test_recorded_shuffles(golden: Path, case: str, version: str):
    with np.load(golden / "pixel_shuffle.npz") as arrays:
        assert {name.split("/")[0] for name in arrays.files} == set(CASES)
        given, scale, want = (torch.from_numpy(arrays[f"{case}/{part}"]) for part in ("in", "scale", version))
    assert torch.equal(pixel_shuffle(given, float(scale), version), want)


def test_wrong_maps_and_versions_are_refused():
    with pytest.raises(ValueError, match="5x4 map does not divide into blocks of 2x2"):
        pixel_shuffle(torch.zeros(1, 5, 4, 2))
    with pytest.raises(ValueError, match="unknown pixel shuffle 'v3', expected v1 or v2"):
        pixel_shuffle(torch.zeros(1, 4, 4, 2), version="v3")


def test_connector_has_the_published_shape(make_config: Any):
    shapes = {name: tuple(value.shape) for name, value in build_connector(make_config()).state_dict().items()}
    assert shapes == {
        "0.weight": (64,), "0.bias": (64,), "1.weight": (32, 64), "1.bias": (32,), "3.weight": (32, 32), "3.bias": (32,)
    }  # fmt: skip
