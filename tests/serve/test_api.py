"""The server API as clients meet it: a real server on the loopback, our own client, OpenAI's way to speak to it."""

from __future__ import annotations

import gzip
import http.client
import io
import random
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.odd_media import mutated, with_gbk_title, with_unknown_codec
from videochat_online.serve import content, sources
from videochat_online.serve.client import Client, ServerError
from videochat_online.serve.commands import is_loopback, shown_name


def refused(status: int, message: str):
    return pytest.raises(ServerError, match=rf"{message}.*\(HTTP {status}\)")


def test_push_ask_look_end(serve, png):
    server = serve()
    with Client(server.address).session(fps=2, capacities=[1, 1, 4]) as session:
        assert [session.see(png(k), k / 2) for k in range(6)][-1] == {"number": 5, "timestamp": 2.5}
        pieces = list(session.ask("What is happening?", max_new_tokens=12))
        assert len(pieces) > 1
        state = session.state()
        assert state["stats"]["frames_seen"] == 6 and state["stats"]["frames_held"] == [1, 1, 4]
        dialogue = session.client.call("GET", f"/v1/sessions/{session.key}/dialogue")["dialogue"]
        assert [(turn["question"], turn["answer"], turn["timestamp"]) for turn in dialogue] == [
            ("What is happening?", "".join(pieces), 2.5)
        ]
        with session.client.open("GET", f"/v1/sessions/{session.key}/dialogue.srt") as response:
            assert b"00:00:02,500 -->" in response.read()
        with session.client.open("GET", f"/live/{session.key}/frames/5") as response:
            assert response.read(2) == b"\xff\xd8"
    assert len(server.sessions) == 0
    with refused(404, "there is no session"):
        session.state()


def test_an_upload_plays_pauses_and_ends_without_a_trace(serve, clip, wait_until):
    server = serve()
    with Client(server.address).session() as session:
        assert session.upload(clip)["duration"] == 4.0
        folder = server.sessions.get(session.key).folder
        assert len(list(folder.iterdir())) == 1
        session.control("pause")
        wait_until(lambda: session.state()["state"] == "paused")
        session.control("play")
        session.control("speed", 4)
        wait_until(lambda: session.state()["stats"]["frames_seen"] > 1)
        session.control("seek", 3.5)
        wait_until(lambda: session.state()["state"] == "over")
        with refused(400, "seek needs a value"):
            session.control("seek")
    assert not folder.exists()


def test_one_video_a_session_is_kept_and_sent_at_a_time(serve, clip, wait_until):
    server = serve()
    with Client(server.address).session() as session:
        folder, path = server.sessions.get(session.key).folder, f"/v1/sessions/{session.key}/video"
        session.upload(clip)
        first = list(folder.iterdir())
        session.upload(clip)
        second = list(folder.iterdir())
        assert len(first) == len(second) == 1 and first != second
        slow = http.client.HTTPConnection(urlsplit(server.address).netloc)
        slow.putrequest("PUT", path)
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b"the beginning of a video")
        wait_until(lambda: len(list(folder.iterdir())) == 2)
        with refused(403, "is being sent a video already"):
            session.upload(clip)
        slow.close()  # the visitor's connection breaks
        wait_until(lambda: list(folder.iterdir()) == second)
        session.upload(clip)


def test_worlds_samples_and_what_is_not_allowed(serve, wait_until):
    with Client(serve().address).session() as session:
        assert session.watch("shapeworld", seed=4, level=3)["source"] == "ShapeWorld, seed 4, level 3"
        assert session.watch("sample", name="shapes")["duration"] > 1
        for details, status, message in (
            ({"kind": "sample", "name": "/etc/passwd"}, 400, "unknown sample"),
            ({"kind": "url", "address": "rtsp://127.0.0.1/live"}, 403, "switched off here"),
            ({"kind": "camera"}, 403, "switched off here"),
            ({"kind": "shapeworld", "level": 77}, 400, "unknown level 77"),
            ({"kind": "file", "name": "/etc/passwd"}, 400, "body.kind: Input should be .sample., "),
            ({"kind": "shapeworld", "sead": 4}, 400, "body.sead: Unexpected keyword argument"),
        ):
            with refused(status, message):
                session.watch(**details)
        wait_until(lambda: session.state()["state"] == "playing")
        assert session.state()["source"] == "sample: shapes", "what was refused changes nothing"


def test_private_addresses_are_refused(serve):
    with Client(serve(allow_urls=True).address).session() as session, refused(403, "inside a private network"):
        session.watch("url", address="http://127.0.0.1:1/a.mp4")


def test_odd_videos_over_http(serve, tmp_path, wait_until, monkeypatch):
    """Whatever their library raises is the visitor's 400, by the name the visitor knows; the session lives."""
    server = serve()
    with Client(server.address).session() as session:
        path = f"/v1/sessions/{session.key}/video"
        with refused(400, "your video: its codec 'zz9z' is unknown to FFmpeg"):
            session.upload(with_unknown_codec(tmp_path / "odd.mp4"))
        for junk in (b"GIF89a" + bytes(60), b"\x89PNG\r\n\x1a\n" + bytes(60), b"RIFF\xff\xff\xff\xffAVI LIST" * 9):
            with refused(400, "your video: "):
                session.client.call("PUT", path, junk)
        assert list(server.sessions.get(session.key).folder.iterdir()) == []
        assert session.upload(with_gbk_title(tmp_path / "gbk.mp4"))["duration"] == 5.0
        wait_until(lambda: session.state()["stats"]["frames_seen"] > 0)
        monkeypatch.setitem(sources.SAMPLES, "odd", tmp_path / "odd.mp4")
        with refused(400, "sample: odd: its codec 'zz9z' is unknown to FFmpeg"):
            session.watch("sample", name="odd")


def test_odd_pictures_over_http(serve):
    """Each damaged picture is a 400, whatever PIL raises at it; phone photos are seen upright."""
    rng = random.Random(15)
    picture = Image.effect_noise((24, 16), 50).convert("RGB")
    with Client(serve().address).session() as session:
        refusals = 0
        for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
            file = io.BytesIO()
            picture.save(file, kind)
            for _ in range(8):
                try:
                    session.see(mutated(file.getvalue(), rng))
                except ServerError as error:
                    assert re.search(r"the frame sent: .*\(HTTP 400\)", str(error)), error
                    refusals += 1
        assert refusals > 10
        exif = Image.Exif()
        exif[0x112] = 6
        photo = io.BytesIO()
        picture.save(photo, "JPEG", exif=exif)
        number = session.see(photo.getvalue())["number"]
        with session.client.open("GET", f"/live/{session.key}/frames/{number}") as response:
            assert Image.open(io.BytesIO(response.read())).size == (16, 24)


def test_our_own_mistake_is_a_500(serve, png, monkeypatch):
    def mistake(*args: object) -> None:
        raise AttributeError("a bug of ours")

    with Client(serve().address).session() as session:
        monkeypatch.setattr(content, "upright_rgb", mistake)
        with refused(500, "Internal Server Error"):
            session.see(png(1))


def test_limits_of_size_and_number(serve, clip, png):
    server = serve(max_sessions=1, max_upload_bytes=1000, max_image_bytes=500)
    with Client(server.address).session() as session:
        with refused(413, "more than 1,000 bytes"):
            session.upload(clip)
        with refused(413, "more than 500 bytes"):
            session.see(png(1))
        with refused(400, "the frame sent: is broken or not an image"):
            session.see(b"no picture")
        assert list(server.sessions.get(session.key).folder.iterdir()) == []
        with refused(429, "all 1 places are taken"), session.client.session():
            pass
    with Client(server.address).session() as session:
        with refused(400, "your video: is not a video"):
            session.client.call("PUT", f"/v1/sessions/{session.key}/video", b"\0" * 900)
        assert list(server.sessions.get(session.key).folder.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        ({"fps": -1}, 400, "fps must be a number > 0"),
        ({"policy": "newest"}, 400, "unknown policy 'newest'"),
        ({"capacities": [1, 1]}, 400, "has 3 levels"),
        ({"max_new_tokens": 0}, 400, "at least 1"),
        ({"fps": 99}, 400, "more than this server allows"),
        ({"fps": "often"}, 400, "body.fps: Input should be a valid number"),
        ({"fpss": 2}, 400, "body.fpss: Unexpected keyword argument"),
    ],
)
def test_settings_that_cannot_be(settings, status, message, serve):
    with refused(status, message), Client(serve().address).session(**settings):
        pass


def test_a_body_that_is_no_json_object(serve):
    for body in (b'{"fps": 2}', [1]):  # bytes go without a content type of JSON
        with refused(400, "body: expected a JSON object, sent with Content-Type: application/json"):
            Client(serve().address).call("POST", "/v1/sessions", body)


def test_a_name_with_a_typing_error_is_refused_everywhere(serve):
    with Client(serve().address).session() as session:
        wrong = {"control": {"action": "stop", "values": 1}, "questions": {"question": "Q", "max": 1}}
        for path, body in wrong.items():
            with refused(400, "body.(values|max): Unexpected keyword argument"):
                session.client.call("POST", f"/v1/sessions/{session.key}/{path}", body)


def test_a_client_says_that_no_server_answers():
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no server answers at {address}: "), Client(address).session():
            pass


def test_a_token_is_asked_for(serve):
    server = serve(token="open sesame")
    for token in (None, "wrong"):
        with refused(401, "this server wants its token"):
            Client(server.address, token=token).call("GET", "/v1/models")
    models = Client(server.address, token="open sesame").call("GET", "/v1/models")
    assert [model["id"] for model in models["data"]] == ["pocket"]


def test_another_host_name_is_refused(serve):
    """A page of somebody else whose name was made to point here cannot use the server."""
    connection = http.client.HTTPConnection(urlsplit(serve().address).netloc)
    connection.request("GET", "/v1/models", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 400
    connection.close()


def test_a_failure_in_the_middle_of_an_answer_is_told(serve, png, monkeypatch):
    server = serve()
    with Client(server.address).session() as session:
        session.see(png(1))

        def breaks(run):
            yield "half an "
            raise RuntimeError("out of memory")

        monkeypatch.setattr("videochat_online.streaming.session.stream_pieces", breaks)
        pieces = session.ask("What?")
        assert next(pieces) == "half an "
        with refused(200, "out of memory"):
            next(pieces)


@pytest.mark.parametrize("path", ["/v1/sessions/{}/questions", "/v1/chat/completions"])
def test_a_client_that_leaves_ends_its_answer(path, serve, png, monkeypatch, wait_until):
    server, left = serve(), threading.Event()

    def endless(run):
        try:
            while True:
                yield "and so on, "
                time.sleep(0.01)
        finally:
            left.set()

    monkeypatch.setattr("videochat_online.streaming.session.stream_pieces", endless)
    with Client(server.address).session() as session:
        session.see(png(1))
        chat = {"model": "pocket", "session": session.key, "messages": [{"role": "user", "content": "What?"}]}
        body = {"stream": True} | ({"question": "What?"} if "questions" in path else chat)
        response = session.client.open("POST", path.format(session.key), body)
        assert response.readline()
        assert not left.is_set()
        response.close()
        assert left.wait(60), "the model keeps talking to nobody"
        (moment,) = server.sessions.get(session.key).track.turns
        wait_until(lambda: moment.is_done)


def test_the_screen_is_one_new_picture_after_another(serve, wait_until):
    with Client(serve().address).session() as session:

        def picture(path: str) -> bytes:
            with session.client.open("GET", f"/live/{path}") as response:
                return response.read()

        with refused(404, "there is no picture yet"):
            picture(f"{session.key}/screen.jpg")
        session.watch("shapeworld", level=3)
        wait_until(lambda: session.state()["frames_received"] > 0)
        pictures: set[bytes] = set()

        def another() -> bool:
            pictures.add(picture(f"{session.key}/screen.jpg"))
            return len(pictures) > 3

        wait_until(another)
        assert all(data.startswith(b"\xff\xd8") for data in pictures)
        session.control("pause")  # a picture that was on its way may still come
        wait_until(lambda: picture(f"{session.key}/screen.jpg") == picture(f"{session.key}/screen.jpg"))
        with refused(404, "there is no session"):
            picture("nobody/screen.jpg")


def test_frames_as_coarse_as_the_memory_holds_them(serve, png):
    with Client(serve().address).session() as session:
        session.see(png(1), 0.0)
        with session.client.open("GET", f"/live/{session.key}/frames/0?cells=4") as response:
            assert Image.open(io.BytesIO(response.read())).size == (4, 4)
        with session.client.open("GET", f"/live/{session.key}/frames/0?cells=8&rows=5") as response:
            assert Image.open(io.BytesIO(response.read())).size == (8, 5)
        with refused(400, "query.cells: Input should be less than or equal to 512"):
            session.client.call("GET", f"/live/{session.key}/frames/0?cells=99999")
        with refused(404, "not kept any more"):
            session.client.call("GET", f"/live/{session.key}/frames/7")


def test_who_is_on_the_loopback_and_what_a_model_is_called(tmp_path):
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org")))
    assert shown_name(str(tmp_path)) == tmp_path.name and shown_name("org/model") == "org/model"


def test_the_description_is_read_without_internet(serve):
    """Every file of /docs is this server's."""
    client = Client(serve().address)

    def get(path: str) -> tuple[bytes, str]:
        with client.open("GET", path) as response:
            return response.read(), response.headers["Content-Type"]

    page, kind = get("/docs")
    assert kind.startswith("text/html") and b"://" not in page, "it names no other host"
    named = re.findall(r"""(?:src=|href=|url: )["']([^"']+)""", page.decode())
    assert sorted(named) == ["data:,", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "openapi.json"]
    assert b'"validatorUrl": null' in page
    for path, start in (("docs/swagger-ui-bundle.js", b"/*! For license"), ("docs/swagger-ui.css", b".swagger-ui")):
        data, kind = get(f"/{path}")
        assert gzip.decompress(data).startswith(start) and kind.startswith(("text/javascript", "text/css"))
    for path in ("/redoc", "/docs/LICENSE", "/docs/..%2fapi.py", "/docs/oauth2-redirect"):
        with refused(404, ""):
            client.call("GET", path)


@pytest.mark.parametrize("seed", [-5, 2**50])
def test_a_seed_that_is_none(seed, serve):
    with Client(serve().address).session() as session, refused(400, "a seed must be from 0"):
        session.watch("shapeworld", seed=seed)
