"""docs/deploy.md word for word, but for the ports: two processes behind nginx, which keeps a session in one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from videochat_online.serve.client import Client

DOC = Path(__file__).parents[2] / "docs" / "deploy.md"
START = [sys.executable, "-m", "videochat_online.cli", "serve", "--token", "open", "--log-format", "json"]


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)[1]


@pytest.fixture
def proxy(tmp_path: Path, free_port: int) -> Iterator[tuple[str, list[str]]]:
    """The proxy's address, without TLS, and those of the two processes."""
    if (nginx := shutil.which("nginx") or shutil.which("/usr/sbin/nginx")) is None:
        pytest.skip("needs nginx: apt-get install nginx")
    running, ports, place = [], [], {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    try:
        for name in ("one", "two"):
            log = (tmp_path / name).open("w")
            command = [*START, "--port", "0", "--served-as", "video.example.org"]
            process = subprocess.Popen(command, env=place, stderr=subprocess.PIPE, stdout=log, text=True)
            running.append(process)
            line = next(line for line in process.stderr if " is ready" in line)
            ports.append(re.match(r"http://127.0.0.1:(\d+) ", line)[1])
        server = (
            block("nginx")
            .replace("127.0.0.1:8001", f"127.0.0.1:{ports[0]}")
            .replace("443 ssl", f"127.0.0.1:{free_port}")
        )
        server = re.sub(r".*ssl_certificate.*\n", "", server.replace("127.0.0.1:8002", f"127.0.0.1:{ports[1]}"))
        paths = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = tmp_path / "nginx.conf"
        config.write_text(f"pid {tmp_path}/pid; events {{}}\nhttp {{ access_log off; {paths}\n{server}}}\n")
        command = [nginx, "-e", str(tmp_path / "error"), "-c", str(config), "-g", "daemon off;"]
        running.append(subprocess.Popen(command))
        yield f"http://127.0.0.1:{free_port}", [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for process in running:
            process.terminate()
            process.wait(60)


def call(address: str, path: str, body: Any = None) -> Any:
    headers = {"Host": "video.example.org", "Authorization": "Bearer open", "Content-Type": "application/json"}
    request = urllib.request.Request(address + path, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith("{") else text


@pytest.mark.slow
def test_a_session_stays_in_its_process(proxy, wait_until):
    sync_client = pytest.importorskip("websockets.sync.client", reason="pip install websockets")
    address, processes = proxy

    def answers() -> bool:
        try:
            return call(address, "/ready")["status"] == "ready"
        except OSError:
            return False

    wait_until(answers)
    names = [f"camera{number}" for number in range(8)]
    chat = {"model": "pocket", "messages": [{"role": "user", "content": "What?"}], "max_tokens": 4}
    for name in names:
        assert call(address, f"/s/{name}/v1/chat/completions", chat | {"stream": True}).endswith("data: [DONE]\n\n")
    url = address.replace("http", "ws") + f"/s/{names[0]}/v1/realtime"
    key = {"Authorization": "Bearer open", "Host": "video.example.org"}
    with sync_client.connect(url, additional_headers={"Authorization": key["Authorization"]}) as socket:
        assert json.loads(socket.recv())["type"] == "session.created"
        for name in names:
            assert call(address, f"/s/{name}/v1/chat/completions", chat)["usage"]["prompt_tokens"] > 20, "the dialogue"
    held = []
    for process in processes:
        with Client(process, token="open").open("GET", "/metrics") as response:
            held.append(int(re.search(r"_sessions (\d+)", response.read().decode())[1]))
    assert sum(held) == len(names) and all(held), "each name is in one process, and both have some"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        call(address, "/metrics")
