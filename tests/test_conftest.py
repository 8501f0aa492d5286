"""The ground the other tests stand on does what it says."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def test_no_network():
    with socket.socket() as outside, pytest.raises(AssertionError, match="no network"):
        outside.connect(("192.0.2.1", 80))


def test_loopback_is_allowed():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"hello")
        assert server.accept()[0].recv(5) == b"hello"


def test_one_thread():
    import torch

    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_golden_is_in_the_repository(golden: Path):
    assert golden == Path(__file__).parent / "golden"
