"""--push-to-hub against a stand-in of the hub: what is refused before training, what is uploaded, what a card says."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.training.world import save_small_model, write_online_list
from videochat_online.data.settings import SettingError
from videochat_online.training.configuration import TrainingConfig

ROOT = Path(__file__).parents[2]


class Hub(BaseHTTPRequestHandler):
    """A repository is made and takes one commit, as the hub's interface has it; the token is `right`."""

    server: Any

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        if self.headers["Authorization"] != "Bearer right":
            return self.answer({"error": "Invalid user token."}, 401)
        if self.path == "/api/repos/create" and self.server.is_strange:
            return self.answer({})
        if self.path == "/api/repos/create":
            self.server.made = json.loads(raw)
            return self.answer({"url": f"{self.server.address}/mine/model", "name": "mine/model"})
        if self.path == "/api/models/mine/model/preupload/main":
            files = [one["path"] for one in json.loads(raw)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            return self.answer({"files": modes})
        if self.path.startswith("/api/models/mine/model/commit/main"):
            if self.server.is_full:
                return self.answer({"error": "No room for it"}, 403)
            for line in map(json.loads, raw.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.address}/mine/model/commit/{'0' * 40}"
            return self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        return self.answer({"errors": [], "warnings": []})  # of a card's head

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer right":
            return self.answer({"error": "Invalid user token."}, 401)
        return self.answer({"id": "mine/model", "sha": "0" * 40, "siblings": []})

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.files, server.asked, server.made, server.is_full = {}, [], None, False
    server.is_strange = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def train(hub: Any, folder: Path, token: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    model = folder / "start"
    if not model.exists():
        save_small_model(model)
        write_online_list(folder, 4)
    command = [sys.executable, "-m", "videochat_online.training", "--model", str(model), "--cpu", "--tracker", "none"]
    command += ["--data", str(folder / "list.json"), "--output-dir", str(folder / "run"), "--num-workers", "0"]
    command += ["--max-steps", "2", "--global-batch-size", "2", "--push-to-hub", "mine/model", "--resume", "auto"]
    where = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "home"), "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **where, "NO_PROXY": "*", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([*command, *flags], env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_token_that_is_not_taken_is_an_error_before_training(hub: Any, tmp_path: Path, token: str):
    done = train(hub, tmp_path, token)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    message = "Invalid user token" if token else "there is no token: set HF_TOKEN, or `hf auth login`"
    assert "--push-to-hub mine/model: " in done.stderr and message in done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}
    if not token:
        checked = train(hub, tmp_path, token, "--check")
        assert checked.returncode == 1 and message in checked.stdout and not hub.asked


def test_an_answer_that_is_not_the_hubs_is_an_error_before_training(hub: Any, tmp_path: Path):
    hub.is_strange = True
    done = train(hub, tmp_path, "right")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--push-to-hub mine/model: the hub refused: the hub answered without 'url'" in done.stderr


def test_the_model_and_its_card_come_to_the_hub(hub: Any, tmp_path: Path):
    """At the end of a run; where the hub refuses, the model stays and is pushed by the same command again."""
    hub.is_full = True
    done = train(hub, tmp_path, "right", "--private")
    assert done.returncode == 2 and "No room for it" in done.stderr
    assert f"the model is in {tmp_path}/run/model: `hf upload mine/model" in done.stderr
    hub.is_full = False
    done = train(hub, tmp_path, "right", "--private")
    assert done.returncode == 0, done.stderr
    assert f"and at {hub.address}/mine/model" in done.stdout
    assert hub.made["name"] == "model" and hub.made["organization"] == "mine"
    assert hub.made.get("private") is True or hub.made.get("visibility") == "private"
    for name, content in hub.files.items():
        assert content == (tmp_path / "run" / "model" / name).read_bytes(), name
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= hub.files.keys()
    card = hub.files["README.md"].decode()
    assert card.startswith("---\n") and "pipeline_tag: video-text-to-text" in card
    assert "A model, trained from `start` with videochat-online" in card and "online (x 1)" in card
    assert "Steps: 2. Mean loss of the run: " in card and '"max_steps": 2' in card
    assert str(tmp_path) not in card, "folders of this machine are nobody's business"


def test_what_a_repository_is_called():
    with pytest.raises(SettingError, match="--push-to-hub must be of the form ORG/NAME, got 'model'"):
        TrainingConfig(push_to_hub="model")
