"""Closing a live stream in any state, and servers that do not mean well, over real sockets of this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.media.live_servers import (
    MPEGTS,
    close_quickly,
    datagrams_to,
    http_server,
    tcp_server,
    watched,
)
from videochat_online.media.live_network import Timeouts
from videochat_online.media.source import MediaError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def say_nothing(client: socket.socket) -> None:
    client.recv(4096)
    client.recv(4096)  # until the other side has gone


def drip(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\nG")
    while True:
        client.sendall(b"\0")
        time.sleep(0.05)


def drip_headers(client: socket.socket) -> None:
    client.recv(4096)
    for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 10000:
        client.sendall(bytes([letter]))
        time.sleep(0.05)


BAD_SERVERS = {"says nothing": say_nothing, "drips": drip, "drips headers": drip_headers}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_closing_while_a_server_keeps_us_waiting(name, wait_until):
    begun = threading.Event()

    def talk(client: socket.socket) -> None:
        begun.set()
        BAD_SERVERS[name](client)

    with tcp_server(talk) as port, watched(f"http://127.0.0.1:{port}/live") as stream:
        assert begun.wait(20)
        close_quickly(stream)
        wait_until(lambda: stream.source._reader.has_ended, 2)
        assert stream.error is None


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_a_server_that_keeps_us_waiting_is_given_up(name, wait_until):
    timeouts = Timeouts(open=1.0, read=1.0)
    with tcp_server(BAD_SERVERS[name]) as port, watched(f"http://127.0.0.1:{port}/live", timeouts=timeouts) as stream:
        with pytest.raises(MediaError, match=r"no picture came for 1 s|cannot be read \("):
            stream.take(20)
        wait_until(lambda: stream.source._reader.has_ended, 2)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "https"])
def test_closing_while_a_server_does_not_answer_at_all(scheme, wait_until):
    begun = threading.Event()

    def talk(client: socket.socket) -> None:
        begun.set()
        say_nothing(client)

    with tcp_server(talk) as port, watched(f"{scheme}://127.0.0.1:{port}/live", timeouts=Timeouts()) as stream:
        assert begun.wait(20)
        close_quickly(stream)
        wait_until(lambda: stream.source._reader.has_ended, 2)


def test_a_web_page_and_a_playlist_that_names_a_file():
    answers = {
        "/page": ("text/html", b"<!DOCTYPE html><html><body>login</body></html>", "it is a web page"),
        "/quiet": ("application/octet-stream", b"\n<html lang=en>login, please</html>", "it is a web page"),
        "/list": ("audio/mpegurl", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "playlist that names file:"),
    }

    def answer(handler) -> None:
        kind, data, _ = answers[handler.path]
        handler.begin(kind, len(data))
        handler.wfile.write(data)

    with http_server(answer) as server:
        for path, (_, _, message) in answers.items():
            with watched(server.address + path) as stream, pytest.raises(MediaError, match=message):
                stream.take(20)


def test_a_login_is_sent_and_never_shown(tmp_path, write_clip):
    data = write_clip(tmp_path / "a.mkv", num_frames=5, fps=10).read_bytes()
    given = []

    def answer(handler) -> None:
        given.append(handler.headers.get("Authorization"))
        if given[-1] is None:
            handler.begin("text/plain", 0, 401, WWW_Authenticate='Basic realm="camera"')
            return
        handler.begin("video/webm", len(data))
        handler.wfile.write(data)

    with http_server(answer) as server:
        address = server.address.replace("//", "//admin:ge#h/eim@") + "/a.mkv?pwd=geheim2"
        for place in ("127.0.0.1", None):  # as for visitors, and on a command line
            given.clear()
            with watched(address, place=place) as stream:
                stream.wait_for_frame(20)
            assert given == [None, "Basic YWRtaW46Z2UjaC9laW0="]
        assert "geh" not in stream.source.name and "ge#h" not in stream._thread.name
        nobody = address.replace(server.address.rpartition(":")[2], "1")
        with watched(nobody) as stream, pytest.raises(MediaError) as caught:
            stream.take(20)
        assert "geh" not in str(caught.value) and "ge#h" not in str(caught.value)


def test_a_login_holds_for_all_of_its_server(tmp_path, write_clip):
    data = write_clip(tmp_path / "a.mkv", num_frames=5, fps=10).read_bytes()

    def answer(handler) -> None:
        if handler.path == "/camera/start":
            handler.begin("text/plain", 0, 302, Location="/live")
        elif not handler.headers.get("Authorization", "").startswith('Digest username="admin"'):
            handler.begin("text/plain", 0, 401, WWW_Authenticate='Digest realm="camera", nonce="abc", qop="auth"')
        else:
            handler.begin("video/webm", len(data))
            handler.wfile.write(data)

    with http_server(answer) as server:
        address = server.address + "/camera/start"
        with watched(address.replace("//", "//admin:ge#h/eim@")) as stream:
            stream.wait_for_frame(20)
        with watched(address) as stream, pytest.raises(MediaError, match="HTTP 401: Unauthorized"):
            stream.take(20)


def test_nothing_is_left_of_many_bad_streams(shared, wait_until):
    """Threads, files and sockets."""

    def count() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def answer(handler) -> None:
        if handler.path == "/cut":
            handler.begin("video/mp4", 100_000)
            handler.wfile.write((shared / "cases" / "media" / "base.mp4").read_bytes()[:3000])
        elif handler.path == "/html":
            handler.begin("text/html")
            handler.wfile.write(b"<html>")
        elif handler.path == "/silent":
            handler.begin()
            handler.connection.recv(1)

    with http_server(answer) as server, tcp_server(say_nothing) as port:
        addresses = [*(f"{server.address}/{path}" for path in ("cut", "html", "silent", "nothing"))]
        addresses += ["rtsp://127.0.0.1:9/a", f"http://127.0.0.1:{port}/a"]
        for number in range(220):
            if number == 20:
                wait_until(lambda: not any(t.name.startswith(("read", "live")) for t in threading.enumerate()))
                before = count()
            stream = watched(addresses[number % len(addresses)]).start()
            with contextlib.suppress(MediaError):
                stream.take(0.02 if number % 3 else 0)
            close_quickly(stream)
        wait_until(lambda: count()[0] <= before[0] + 1 and count()[1] <= before[1] + 2, 20)


def test_a_udp_port_can_be_watched_again_at_once(broadcast, free_port):
    address, quick = f"udp://127.0.0.1:{free_port}", Timeouts(open=2, read=1)
    with watched(address, timeouts=quick) as stream:  # nobody sends yet
        assert stream.take(0.3) is None
        close_quickly(stream)
    shown = broadcast()
    with datagrams_to(free_port) as send, watched(address, timeouts=quick) as stream:
        sender = threading.Thread(target=shown.send, args=("mpegts", send), kwargs={"options": MPEGTS, "last": 60})
        sender.start()
        stream.wait_for_frame(20)
        shown.is_over.set()
        sender.join(10)
