"""`data fetch`: annotations and OVBench from a hub that behaves as the real one, or badly."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT
from videochat_online.data.fetch import Archive, check_space, unpack

from .conftest import talk


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs. The server holds `files`, notes what was `asked`, and breaks off once
    in the middle of `cut`."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        files: dict[str, bytes] = self.server.files  # type: ignore[attr-defined]
        path, _, _ = self.path.partition("?")
        name = path.partition("/resolve/")[2].partition("/")[2]
        self.server.asked.append((self.command, name, self.headers.get("Range")))  # type: ignore[attr-defined]
        commit = f"{len(files):040}"
        headers, body, status = {"X-Repo-Commit": commit}, b"", 200
        if name:
            body = files[name]
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            if found := self.headers.get("Range"):
                start = int(found.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                body, status = body[start:], 206
        elif path.startswith("/api/datasets/MCG-NJU/") and files:
            listed: Any = [{"type": "file", "path": n, "oid": "0", "size": len(b)} for n, b in files.items()]
            if "/tree/" not in path:
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                listed = {"id": "x", "sha": commit, "siblings": siblings, "tags": ["license:mit"]}
            body, headers["Content-Type"] = json.dumps(listed).encode(), "application/json"
        else:
            status = 404
        self.send_response(status)
        for header in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(*header)
        self.end_headers()
        if with_body:
            is_cut = bool(name) and self.server.cut == name  # type: ignore[attr-defined]
            self.server.cut = None if is_cut else self.server.cut  # type: ignore[attr-defined]
            self.wfile.write(body[: len(body) // 2] if is_cut else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked, server.cut = {}, [], None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub: Any, folder: Path, name: str = "videochatonline-it", *flags: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    code = "import sys; from videochat_online.cli import main; sys.exit(main(sys.argv[1:]))"
    where = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": f"{folder}_home", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **where, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    command = [sys.executable, "-c", code, "data", "fetch", name, str(folder), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_annotations_come_from_the_hub(hub: Any, tmp_path: Path):
    row = json.dumps([{"video": "a", "conversations": talk("Q", "A")}]).encode()
    entries = json.loads((ROOT / "anno_data/stage2_online.json").read_text())
    paths = [one["annotation"].removeprefix("${ANNO_ROOT}/") for one in entries.values()]
    last, *names = [path for path in paths if path.startswith("anno_online/")]
    hub.files = {**dict.fromkeys(names, row), "README.md": b"card", "videos.zip": b"media"}
    # 1. a download that breaks off is resumed (it is written in pieces of 10 MB); what is missing is said
    hub.cut = names[0]
    hub.files[names[0]] = row + b" " * 25_000_000
    done = fetch(hub, tmp_path / "anno")
    assert done.returncode == 1, done.stderr
    assert {span for what, name, span in hub.asked if (what, name) == ("GET", names[0])} > {None}
    assert f"{len(names)} of {len(names) + 1} sets of anno_data/stage2_online.json are there" in done.stdout
    assert f"{tmp_path}/anno/{last} is missing" in done.stdout
    assert all((tmp_path / "anno" / name).read_bytes() == hub.files[name] for name in names)
    assert not (tmp_path / "anno/videos.zip").exists()
    # 2. a second time only what is new is fetched
    hub.files[last] = row
    hub.asked.clear()
    done = fetch(hub, tmp_path / "anno")
    assert done.returncode == 0, done.stderr
    assert f"export ANNO_ROOT={tmp_path}/anno" in done.stdout
    assert [name for what, name, _ in hub.asked if what == "GET" and name] == [last]


def test_a_hub_without_it_is_one_line(hub: Any, tmp_path: Path):
    done = fetch(hub, tmp_path / "anno")
    assert done.returncode == 2
    assert "error: MCG-NJU/VideoChatOnline-IT could not be fetched from the hub" in done.stderr
    assert "Traceback" not in done.stderr


def packed(kind: str, **files: bytes) -> bytes:
    """An archive of these files."""
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"{name}.mp4", content)
    else:
        with tarfile.open(fileobj=data, mode="w:gz" if kind == "tgz" else "w") as archive:
            for name, content in files.items():
                about = tarfile.TarInfo(f"{name}.mp4")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return data.getvalue()


def test_ovbench_comes_with_its_videos(hub: Any, tmp_path: Path):
    parts = packed("tar", ava=b"A" * 3000)
    coin = packed("zip", coin=b"C" * 2000)
    hub.files = {
        "jsons/ovbench.json": b"[]",
        "AVA.tar.part-aa": parts[:1700],
        "AVA.tar.part-ab": parts[1700:],
        "COIN.zip.001": coin[:100],
        "COIN.zip.002": coin[100:],
        "HiREST.tgz": packed("tgz", hirest=b"H"),
        "README.md": b"card",
    }
    root = tmp_path / "ovbench"
    # 1. sizes and licence, and nothing else
    done = fetch(hub, root, "ovbench", "--list")
    assert done.returncode == 0 and "MCG-NJU/OVBench, licence: mit" in done.stdout, done.stderr
    assert not [name for what, name, _ in hub.asked if what == "GET" and name] and not (root / "videos").exists()
    # 2. one archive, then the rest; what was unpacked is not fetched again
    done = fetch(hub, root, "ovbench", "--only", "COIN")
    assert (done.returncode, (root / "videos/COIN/coin.mp4").read_bytes()) == (0, b"C" * 2000), done.stderr
    assert (root / "annotations/ovbench.json").read_bytes() == b"[]" and not (root / "videos/AVA").exists()
    assert not list((root / "download").glob("COIN.zip*"))
    hub.asked.clear()
    done = fetch(hub, root, "ovbench", "--keep-archives")
    assert done.returncode == 0 and "COIN" in done.stdout and "is here" in done.stdout
    assert (root / "videos/AVA/ava.mp4").read_bytes() == b"A" * 3000
    assert (root / "videos/HiREST/hirest.mp4").read_bytes() == b"H"
    assert not [name for _, name, _ in hub.asked if "COIN" in name] and (root / "download/AVA.tar.part-aa").exists()
    assert f"next: videochat-online eval ovbench --annotations {root}/annotations --videos {root}/videos" in done.stdout


def test_ovbench_that_cannot_be_fetched(hub: Any, tmp_path: Path):
    hub.files = {"jsons/ovbench.json": b"[]", "AVA.tar": packed("tar", ava=b"A" * 3000)[:1000]}
    for flags, message in (
        (("--only", "AVVA"), "--only AVVA: expected some of AVA"),
        ((), r"AVA.tar cannot be unpacked (unexpected end of data); remove it to have it fetched again"),
    ):
        done = fetch(hub, tmp_path / "x", "ovbench", *flags)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert "for ovbench" in fetch(hub, tmp_path / "x", "videochatonline-it", "--list").stderr
    hub.files = {"README.md": b""}
    assert "its layout is not the known one" in fetch(hub, tmp_path / "x", "ovbench").stderr
    huge = Archive("AVA", "tar", {"AVA.tar": 10**18})
    with pytest.raises(ValueError, match=r"about 2000000000\.0 GB are needed"):
        check_space(tmp_path, [huge])
    escaping = tmp_path / "evil.tar"
    with tarfile.open(escaping, "w") as archive:
        archive.addfile(tarfile.TarInfo("../../outside"))
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack([escaping], "tar", tmp_path / "a/b")
    assert not (tmp_path / "outside").exists()
