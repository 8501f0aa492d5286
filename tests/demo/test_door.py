"""What a stranger may send to the page, over HTTP: no file is opened or copied that was not uploaded to it."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.demo.visitor import FILE, Visitor

pytestmark = pytest.mark.filterwarnings("ignore::Warning:gradio")
REFUSED = "only files that were uploaded here can be opened"


@pytest.fixture
def secret(tmp_path):
    """A file of the server that is nobody's business, as picture."""
    path = tmp_path / "secret.png"
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(path)
    return path


def held(demo) -> set[str]:
    return {str(path) for path in demo.uploads.rglob("*") if path.is_file()}


def foreign_files(demo, visitor, secret) -> dict[str, dict]:
    """Descriptions of files that a page must not open."""
    mine = visitor.upload(secret, "mine.png")["path"]
    folder = demo.uploads / ("a" * 64)
    folder.mkdir()
    (folder / "other.png").write_bytes(secret.read_bytes())
    (folder / "link.png").symlink_to(secret)
    named = {
        "outside": secret, "etc": "/etc/passwd", "dots": f"{mine}/../../../../../../etc/passwd", 
        "relative": "setup.py",
        "dots back": f"{demo.uploads}/x/../{mine.removeprefix(str(demo.uploads))[1:]}", 
        "in the cache": folder / "other.png",
        "link": folder / "link.png", "the folder": demo.uploads, "a sample": demo.sessions.files.path, "nul": "\0",
        "long": "x" * 5000, "web": "http://127.0.0.1:9/a.png", "empty": "", "encoded": str(secret).replace("/", "%2f"),
        "list": [str(secret)], "number": 7, "static": "/static/img/logo.svg",
    }  # fmt: skip
    paths = {name: path if isinstance(path, list | int) else str(path) for name, path in named.items()}
    files = {name: {**FILE, "path": path} for name, path in paths.items()}
    files["url"] = {**FILE, "path": None, "url": "http://127.0.0.1:9/a.png"}
    files["file url"] = {**FILE, "url": f"file://{secret}"}
    files["stream"] = {**FILE, "path": str(secret), "is_stream": True}
    files["no meta"] = {"path": str(secret)}
    files["proxy"] = {**FILE, "path": str(secret), "url": f"/gradio_api/proxy={secret}"}
    return files


def test_no_event_opens_a_foreign_file(demo, secret):
    visitor = Visitor(demo.address)
    files = foreign_files(demo, visitor, secret)
    before = held(demo)
    events = [event for event in visitor.events if event["inputs"]]
    assert len(events) >= 5
    feed = visitor.find("vco-feed", "act")
    for name, file in files.items():
        for deep in (file, [file], {"value": [{"deep": file}]}):
            for do in ("upload", "camera", "watch"):
                status, answer = visitor.join(feed, [], event_data={"do": do, "file": deep, "frame": deep})
                assert (status, json.loads(answer)["error"]["message"]) == (403, REFUSED), (do, name)
    for event in events:
        for name, file in files.items():
            for data in ([file], [[file]], {"value": [{"deep": file}]}):
                rest = [None] * (len(event["inputs"]) - 1)
                for place in range(len(event["inputs"])):
                    values = [*rest[:place], data, *rest[place:]]
                    status, answer = visitor.join(event, values)
                    assert (status, json.loads(answer)["error"]["message"]) == (403, REFUSED), (event["targets"], name)
                if name not in ("outside", "url"):
                    break  # how deep it is makes no difference, shown by these two
    assert held(demo) == before and len(demo.sessions) == 0


@pytest.mark.parametrize("path", ["run/predict", "stream/abc", "queue/join"])
def test_every_way_in_is_looked_at(demo, secret, path):
    visitor = Visitor(demo.address)
    tick = visitor.find("vco-question", "submit")
    body = {"data": [{**FILE, "path": str(secret)}], "fn_index": tick["id"], "session_hash": visitor.session}
    assert visitor.request("POST", f"/gradio_api/{path}", body)[0] == 403
    assert visitor.request("POST", f"/gradio_api/{path}", {**body, "data": [0], "event_data": body["data"]})[0] == 403
    twice = json.dumps(body).replace('"path": ', '"path": "x", "path": ').encode()
    kind = {"Content-Type": "application/json"}
    assert visitor.request("POST", f"/gradio_api/{path}", twice, kind)[0] == 403
    for odd in (b"[" * 100_000, b"[]", b"\xff", b"", json.dumps(body).encode("utf-16")[:-1]):
        assert visitor.request("POST", f"/gradio_api/{path}", odd, kind)[0] == 400
    assert visitor.request("POST", f"/gradio_api/{path}", b" " * (17 * 2**20), kind)[0] == 413


def test_nothing_runs_past_the_queue(demo):
    visitor = Visitor(demo.address)
    act = visitor.find("vco-feed", "act")
    tick = next(event for event in visitor.events if event["targets"][0][1] == "tick")
    for event, more, status in (
        (act, {"event_data": {"do": "watch", "request": {"kind": "sample"}}}, 404),
        (tick, {}, 200),
    ):
        body = {"data": [], "fn_index": event["id"], "session_hash": visitor.session, **more}
        assert visitor.request("POST", "/gradio_api/run/predict", body)[0] == status
    assert len(demo.sessions) == 0


def test_only_the_pages_own_routes_are_there(demo, secret, clips):
    visitor = Visitor(demo.address)
    mine = visitor.upload(clips.one)["path"]
    body = {"data": [{**FILE, "path": str(secret)}], "session_hash": visitor.session}
    for method, path in (
        ("GET", f"file={secret}"), ("GET", f"file={mine}"), ("GET", f"file/{mine}"), ("GET", "file=http://127.0.0.1:9/"),
        ("HEAD", f"file={mine}"), ("GET", "proxy=http://127.0.0.1:9/"), ("POST", "call/upload"), 
        ("POST", "call/v2/upload"),
        ("POST", "api/predict"), ("POST", "run/upload"), ("POST", "component_server"), ("POST", "process_recording"),
        ("GET", "deep_link?session_hash=x"), ("GET", "openapi.json"), ("POST", "queue/join/"), ("POST", "//queue/join"),
        ("GET", "vibe-code"), ("GET", "runs"), ("GET", "queue/../file=/etc/passwd"),
    ):  # fmt: skip
        status = visitor.request(method, f"/gradio_api/{path}", body if method == "POST" else None)[0]
        assert status == 404, path
    for path in ("monitoring", "monitoring/summary", "login", "custom_component/a", "gradio_api%2ffile=/etc/passwd"):
        path = f"/{path}"
        assert visitor.request("GET", path)[0] == 404, path


def test_an_upload_is_watched_and_belongs_to_its_session_alone(demo, clips):
    visitor, other = Visitor(demo.address), Visitor(demo.address)
    file, feed = visitor.upload(clips.one, "mine.mp4"), visitor.find("vco-feed", "act")
    file["url"] = f"{demo.address}gradio_api/file={file['path']}"  # as browsers add it
    assert visitor.act("upload", file=file)["source"] == "mine.mp4"
    (session,) = demo.sessions._sessions.values()
    assert session.state()["source"] == "mine.mp4" and not held(demo)
    status = other.join(feed, [], event_data={"do": "upload", "file": file})[0]
    assert status == 403, "it is not there any more for anybody"
    again = other.upload(clips.one, "mine.mp4")
    assert other.act("upload", file=again)["source"] == "mine.mp4" and len(demo.sessions) == 2


def test_an_upload_has_a_size_whatever_its_form(demo):
    """Gradio limits each file; fields without a name it keeps in memory, and of files it takes a thousand."""
    visitor = Visitor(demo.address)
    kind = {"Content-Type": "multipart/form-data; boundary=cut"}
    for name in ("", '; filename="a.mp4"'):
        part = f'--cut\r\nContent-Disposition: form-data; name="files"{name}\r\n\r\n'.encode()
        body = (part + b"x" * 2**19 + b"\r\n") * 5 + b"--cut--\r\n"
        status, answer = visitor.request("POST", "/gradio_api/upload", body, kind)
        assert (status, json.loads(answer)["detail"]) == (413, "an upload may have 2,097,152 bytes")


def test_an_upload_that_breaks_off_does_not_stay(demo):
    place = urlsplit(demo.address)
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
    form = '--cut\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=cut\r\n\r\n{form}".encode())
        connection.sendall(b"x" * 300_000)
        while not held(demo):
            time.sleep(0.02)
        demo.sessions.files.remove_broken_uploads(60.0)
        assert held(demo), "it is still coming"
    (left,) = held(demo)
    os.utime(left, (0, 0))
    while held(demo):  # the server looks by itself
        time.sleep(0.05)


def test_a_camera_sends_pictures_not_paths(demo, secret):
    visitor = Visitor(demo.address)
    picture = "data:image/png;base64," + base64.b64encode(secret.read_bytes()).decode()
    assert visitor.act("camera", frame={"url": picture}, begins=True)["source"] == "your camera"
    assert visitor.act("camera", frame={"url": picture}) == {}
    sent = {"do": "camera", "frame": {**FILE, "path": str(secret), "url": picture}}
    assert visitor.join(visitor.find("vco-feed", "act"), [], event_data=sent)[0] == 403


@pytest.mark.parametrize(
    ("size", "words"),
    [((9000, 4000), "a picture of 9000x4000 is too large"), (None, "the camera's picture: is broken")],
)
def test_a_camera_sends_no_picture_of_any_size(demo, size, words):
    """Some kilobytes can be a picture of gigabytes."""
    data = io.BytesIO(b"no picture")
    if size is not None:
        Image.new("1", size).save(data, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    said = Visitor(demo.address).fault("camera", frame={"url": picture}, begins=True)
    assert words in said and len(demo.sessions) == 0
