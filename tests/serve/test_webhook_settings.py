"""What an operator sets of webhooks, and what the command takes: the server's key, its own addresses, a gate."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the server: pip install 'videochat-online[demo]'")

from tests.serve.test_ending import start  # noqa: F401 (a fixture)
from tests.serve.test_standing import post
from tests.serve.test_webhooks import SECRET, receiver  # noqa: F401 (a fixture)
from videochat_online.cli import main
from videochat_online.serve.client import Client
from videochat_online.serve.webhooks import Webhooks
from videochat_online.streaming.gate import Gate, GateNetwork


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"addresses": ["ftp://x/"]}, "expected an address"),
        ({"addresses": ["rtsp://x/"]}, "http or https"),
        ({"allowed": ["hooks.example.org"]}, "expected an address"),
        ({"secret": "not base64!"}, "VIDEOCHAT_ONLINE_WEBHOOK_SECRET must be base64"),
    ],
)
def test_what_an_operator_mistypes(settings, problem):
    with pytest.raises(ValueError, match=problem):
        Webhooks(**settings)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def gate(pocket, tmp_path):
    """Of pocket's shape; P is 0.9 whatever it sees, and it was trained for a threshold of 0.8."""
    model, _ = pocket
    network = GateNetwork(*Gate.sizes(model))
    for weight in network.parameters():
        torch.nn.init.zeros_(weight)
    torch.nn.init.constant_(network.out[-1].bias, 2.2)
    Gate(network, 0.8, "pocket").save(tmp_path / "gate.safetensors")
    return tmp_path / "gate.safetensors"


def test_a_servers_gate_decides_with_its_own_threshold(serve, png, pocket, gate, wait_until):
    server = serve(gate=Gate.load(gate, pocket[0]))
    with Client(server.address).session() as session:
        assert post(session, text="Is it dark?")["rule"]["threshold"] == 0.8
        assert post(session, text="Is it late?", threshold=0.95)["rule"]["threshold"] == 0.95
        session.see(png(1), 0.0)
        path = f"/v1/sessions/{session.key}/standing"
        wait_until(lambda: all(one["curve"] for one in session.client.call("GET", path)))
        dark, late = session.client.call("GET", path)
        assert dark["probability"] == late["probability"] == pytest.approx(0.9, abs=0.01)
        wait_until(lambda: session.client.call("GET", path)[0]["last"])
        assert late["last"] is None


def test_the_command_takes_them_all(start, gate, png, receiver, wait_until, monkeypatch):  # noqa: F811
    monkeypatch.setenv("VIDEOCHAT_ONLINE_WEBHOOK_SECRET", SECRET)
    flags = ["--gate", str(gate), "--webhook", f"{receiver.address}/ok", "--webhook-allow", f"{receiver.address}/hooks"]
    _, address = start("serve", *flags)
    with Client(address).session() as session:
        given = post(session, text="Is it dark?", webhook=f"{receiver.address}/hooks/door")
        assert given["rule"]["threshold"] == 0.8
        session.see(png(1), 0.0)
        wait_until(lambda: len(receiver.got) == 2)
    assert sorted(receiver.paths()) == ["/hooks/door", "/ok"]
    assert all(headers["webhook-signature"].startswith("v1,") for _, headers, _ in receiver.got)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--webhook", "hooks.example.org"], "expected an address"),
        (["--webhook-allow", "rtsp://hooks.example.org"], "a webhook is an http or https address"),
        (["--gate", "no-such-gate.safetensors"], "no-such-gate.safetensors is not a gate"),
    ],
)
def test_the_command_refuses(flags, problem, capsys):
    assert main(["serve", "--port", "0", *flags]) != 0
    assert problem in capsys.readouterr().err
