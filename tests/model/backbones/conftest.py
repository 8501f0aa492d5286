"""A tiny random model of each family, written once by the command that users have, and loaded as they load it."""

import pytest

from videochat_online import load_model
from videochat_online.lab.tiny_models import FAMILIES, write_tiny_model


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


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture
def tiny(loaded, family):
    return loaded[family]
