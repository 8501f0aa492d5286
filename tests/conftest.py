"""What every test stands on: one thread, no network, and the two folders of recorded values.

Fixtures: `golden` (tests/golden, in the repository) and `shared` (../shared, large files; the test skips without it),
`wait_until` and `no_thread_is_left`.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Read by torch, OpenMP and huggingface_hub when they are imported, which must not have happened before this file.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", HF_HUB_OFFLINE="1")

import numpy as np
import torch

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"
LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(scope="session")
def golden() -> Path:
    """tests/golden: small recorded inputs and outputs."""
    return TESTS / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """../shared, beside the repository: recorded values and clips too large for it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the files of {SHARED}, which is not there")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A test that reaches for another machine fails; servers on this one are allowed."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"tests use no network, but this one connects to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """wait_until(condition, seconds=60.0); fails where it does not come true in time."""

    def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(0.01)

    return wait


@pytest.fixture
def no_thread_is_left(wait_until: Callable[..., None]) -> Iterator[None]:
    """None that the test began: those of other tests are not its own. One that hangs in a library when its stream is
    closed ends when that gives up, which takes seconds; tqdm keeps one for good."""
    before = set(threading.enumerate())
    yield
    wait_until(lambda: all(t in before or type(t).__name__ == "TMonitor" for t in threading.enumerate()), 15)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seed_everything()
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """What a test draws depends on no test before it in its process (chance decides which), and on no fixture."""
    seed_everything()


def seed_everything() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
