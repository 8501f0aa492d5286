import pytest

from videochat_online import load_model


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket", device="cpu")
