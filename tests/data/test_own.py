"""`data import`, `data fetch`, and `data check` of bare rows: what is written, and what is said where it is not."""

from __future__ import annotations

import argparse
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
from videochat_online.data.commands import add_data_command
from videochat_online.data.fetch import Archive, check_space, unpack
from videochat_online.data.formats import read_row
from videochat_online.data.registry import Annotations, holds_rows, read_lists
from videochat_online.data.sample import Turn, Video

from .conftest import at, talk


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_data_command(parser.add_subparsers())
    options = parser.parse_args(["data", *map(str, arguments)])
    return options.run(options)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# bare rows

ROWS = [{"video": "video", "conversations": talk("Q", "A")}, {"image": "small.png", "conversations": talk("Q", "A")}]


def test_bare_rows_are_named_and_get_a_list(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture):
    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    path = write_rows(tmp_path / "rows.jsonl", [*ROWS, {"messages": said}])
    assert run("check", path, "--media", media) == 0
    printed = capsys.readouterr().out
    assert "3 rows: 2 of conversations (LLaVA), 1 of messages (ms-swift, LLaMA-Factory)" in printed
    assert f"wrote {tmp_path}/rows_list.json; train with --data" in printed
    (one,) = read_lists([tmp_path / "rows_list.json"])
    assert (one.name, one.annotation, one.data_root) == ("rows", path, media)
    assert json.loads((tmp_path / "rows_list.json").read_text())["rows"]["annotation"] == "rows.jsonl"
    assert run("check", tmp_path / "rows_list.json") == 0
    # and a second time nothing is replaced
    (tmp_path / "rows_list.json").write_text("mine")
    assert run("check", path, "--media", media) == 0
    assert "is there already and stays" in capsys.readouterr().out
    assert (tmp_path / "rows_list.json").read_text() == "mine"


def test_bare_rows_with_a_problem_get_no_list(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture):
    path = write_rows(tmp_path / "rows.jsonl", [*ROWS, {"caption": "?"}])
    assert run("check", path, "--media", media) == 1
    said = capsys.readouterr().out
    assert "1 of an unknown format" in said
    assert "rows, row 2: unknown format" in said
    assert "no list is written" in said
    path.write_text('{"conversations": []}\n{"conv')
    assert run("check", path) == 1
    assert "line 2, column 2: not json" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(ValueError, match="--media is for bare rows"):
        run("check", ROOT / "anno_data/stage1_offline.json", "--media", media)


def test_lists_and_rows_are_told_apart(tmp_path: Path):
    for text, expected in {
        "[]": True,
        '[{"a"': True,
        '{"QA": []}\n{"QA": []}': True,
        '{"a": {"annotation": "b"}}': False,
        "{": False,
        "": False,
    }.items():
        (tmp_path / "x.json").write_text(text)
        assert holds_rows(tmp_path / "x.json") == expected, text
    assert not holds_rows(tmp_path / "gone.json")


def test_blank_answers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    rows = [{"conversations": talk("Q", "A", "R", " ", "S", "")}] * 7 + [{"conversations": talk("Q", "")}]
    assert run("check", write_rows(tmp_path / "rows.jsonl", rows)) == 1
    said = capsys.readouterr().out
    assert "1 warning:\n  rows: 14 of 21 answers are blank, in rows 0, 1, 2, 3, 4, ..." in said
    assert "row 7: all 1 answers are blank: there is nothing to learn" in said
    assert run("check", write_rows(tmp_path / "rows.jsonl", rows[:1])) == 0
    assert "2 of 3 answers are blank, in rows 0\n" in capsys.readouterr().out


# import

TABLE = """video;question;answer;start;end;time
video.mp4;What is it?;"dark; then light";;;
video.mp4;And now?;lighter;;;4
video.mp4;What now?;dark;;;1.5
video;Which part?;the end;5;9;
"""


def test_a_table_becomes_rows_and_a_list(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "clips").symlink_to(media)
    (tmp_path / "table.csv").write_text(TABLE, "utf-8-sig")
    assert run("import", tmp_path / "table.csv", tmp_path / "my.json", "--media", tmp_path / "clips") == 0
    assert "wrote 3 rows" in capsys.readouterr().out
    entry = {"annotation": "my_rows.jsonl", "data_root": "clips", "data_augment": False, "repeat_time": 1}
    assert json.loads((tmp_path / "my.json").read_text()) == {"my": entry}
    rows = Annotations(tmp_path / "my_rows.jsonl")
    samples = [read_row(rows[number]) for number in range(3)]
    assert [one.kind for one in samples] == ["video", "online", "video"]
    assert samples[0].turns == (Turn("What is it?", "dark; then light"),)
    assert samples[1].turns == (Turn("What now?", "dark", 1.5), Turn("And now?", "lighter", 4.0))
    assert samples[2].video == Video("video", clip=(5.0, 9.0))
    assert run("check", tmp_path / "my.json") == 0
    with pytest.raises(ValueError, match=r"my\.json is there already and is not replaced"):
        run("import", tmp_path / "table.csv", tmp_path / "my.json", "--media", media)


BAD_TABLES = {
    "no column": ("video,question\n", "line 1: the column answer is missing, got video, question"),
    "unknown column": ("video,question,answr\n", "line 1: unknown column 'answr'; did you mean answer"),
    "only a head": ("video,question,answer\n", "holds no lines"),
    "nothing": ("", "the column video is missing, got nothing"),
    "too many": ("video,question,answer\nvideo,Q,a, b\n", "line 2: expected 3 values; one with a comma"),
    "quotes": ('video,question,answer\nvideo,Q,"A\n', r"line \d: is not csv"),
    "blank": ("video,question,answer\nvideo,Q,A\nvideo,Q,\n", "line 3: the answer is blank"),
    "time": ("video,question,answer,time\nvideo,Q,A,soon\n", "line 2: time must be seconds, got 'soon'"),
    "half a part": ("video,question,answer,start\nvideo,Q,A,1\n", "line 2: start and end stand together"),
    "turned": ("video,question,answer,start,end\nvideo,Q,A,4,1\n", "line 2: a clip is"),
    "several": (
        "video,question,answer,start,end\nvideo,Q,A,4,1\nvideo,Q,,,\n",
        r"2 lines cannot be used, nothing is written:\n  line 2: a clip is .*\n  line 3: the answer is blank",
    ),
    "gone": ("video,question,answer\nvideo,Q,A\nvide,Q,A\n", "line 3: .*vide: does not exist"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_says_where(case: str, tmp_path: Path, media: Path):
    text, message = BAD_TABLES[case]
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        run("import", tmp_path, tmp_path / "my.json", "--media", media)
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_a_table_by_another_name(tmp_path: Path, media: Path):
    text = "video,question,answer\nvideo,Q,A\n"
    for name, mark in {"A.CSV": ",", "b.tsv": "\t"}.items():
        (tmp_path / name).write_text(text.replace(",", mark))
        assert run("import", tmp_path / name, tmp_path / f"{name}.json", "--media", media) == 0
        assert (tmp_path / f"{name}_rows.jsonl").read_text().count("\n") == 1
    with pytest.raises(ValueError, match=r"the list to write needs a name that ends in \.json"):
        run("import", tmp_path / "A.CSV", tmp_path / "list.csv", "--media", media)
    with pytest.raises(ValueError, match=r"--picture .*x\.mp4: cannot be written .*; expected a picture file"):
        run("show", tmp_path / "A.CSV.json", 0, "--picture", tmp_path / "x.mp4")


def test_a_folder_holds_one_table(tmp_path: Path):
    with pytest.raises(ValueError, match=r"x\.csv is a table: `videochat-online data import x\.csv LIST`"):
        run("check", "x.csv")
    with pytest.raises(ValueError, match=r"expected one csv with the columns video, .*, found none"):
        run("import", tmp_path, tmp_path / "my.json")


def test_rows_of_others_become_ours(tmp_path: Path, media: Path):
    picture = {"type": "image_url", "image_url": {"url": "small.png"}}
    parts = [picture, {"type": "text", "text": "Q"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A"}]
    theirs = [
        {"messages": said},
        {"conversations": talk("<video>Q", "A"), "videos": ["video.mp4"], "system": "Brief."},
        {"video": "video", "conversations": at(2, "Q", "A")},
    ]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    assert run("import", tmp_path / "theirs.json", tmp_path / "my.json", "--media", media) == 0
    rows = Annotations(tmp_path / "my_rows.jsonl")
    assert rows[0] == {"conversations": talk("<image>\nQ", "A"), "image": ["small.png"]}
    assert [read_row(rows[number]) for number in range(3)] == list(map(read_row, theirs))
    assert run("check", tmp_path / "my.json") == 0
    theirs[1]["videos"] = ["gone.mp4"]
    (tmp_path / "theirs.json").write_text(json.dumps([*theirs, {"caption": "?"}]))
    with pytest.raises(ValueError, match=r"row 1: .*gone.mp4: does not exist.*\n  row 3: unknown"):
        run("import", tmp_path / "theirs.json", tmp_path / "other.json", "--media", media)


# fetch


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
