"""Which addresses a visitor may name."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.media.live_servers import http_server, tcp_server
from videochat_online.media.live import LiveStream
from videochat_online.media.source import MediaError
from videochat_online.serve.limits import Limits, NotAllowed, checked_place, is_public
from videochat_online.serve.sources import open_address, pinned_stream

PUBLIC, PRIVATE = Limits(allow_urls=True), Limits(allow_urls=True, allow_private_urls=True)


def test_nothing_is_opened_unless_the_operator_says_so():
    with pytest.raises(NotAllowed, match="--allow-urls"):
        open_address("rtsp://example.org/live", Limits())


@pytest.mark.parametrize(
    "place",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.9.9",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.5",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "::127.0.0.1",
        "::ffff:0:7f00:1",
        "::ffff:0:a00:1",
        "fec0::1",
        "2001:0:7f00:1::",
        "2001:0:5db8:d822:0:ffff:80ff:fffe",
        "2606:2800::5efe:a00:1",
        "2606:2800::200:5efe:a00:1",
        "5f00::1",
        "ff0e::1",
        "fe80::5efe:5db8:d822",
        "fc00::5efe:5db8:d822",
        "2001:db8::5efe:5db8:d822",
    ],
)
def test_private_places(place):
    assert not is_public(place)


@pytest.mark.parametrize("place", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_public_places(place):
    assert is_public(place)


def test_udp_is_refused_for_what_it_is():
    with pytest.raises(NotAllowed, match="udp opens a port of this server"):
        checked_place("udp://93.184.216.34:5000", PUBLIC)


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://127.0.0.1/live",
        "http://localhost:8000/a.mp4",
        "http://[::1]/a",
        "http://2130706433/",
        "http://0x7f.1/a",
        "rtsp://user:word@192.168.1.20:554/cam",
        "udp://@:5000",
        "udp://93.184.216.34:5000",
        "srt://93.184.216.34:5000",
        "rtsp://me:a#b@127.0.0.1/cam",
    ],
)
def test_private_addresses_are_refused(address):
    with pytest.raises((NotAllowed, ValueError)):
        checked_place(address, PUBLIC)
    if "@:" not in address:
        checked_place(address, PRIVATE)


def test_every_address_of_a_name_counts(monkeypatch):
    def lookup(host, *args, **kwargs):
        return [(2, 1, 6, "", (place, 0)) for place in ("93.184.216.34", "10.0.0.7")]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(NotAllowed, match="inside a private network"):
        checked_place("http://mixed.example/a.mp4", PUBLIC)


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "/etc/passwd", "", "rtsp://", "concat:a|b", "http:///x", "rtsp://a:b:c/d", "http://[::1/a"],
)
def test_what_is_no_address(address):
    with pytest.raises(ValueError, match="expected an address such as"):
        checked_place(address, PRIVATE)


@pytest.mark.parametrize("path", ["/moved.mp4", "/list.m3u8"])
def test_a_public_server_cannot_lead_inside(path):
    """Where private networks are closed, neither a redirect nor a playlist is followed."""
    body = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/inside.ts\n#EXT-X-ENDLIST\n"

    def answer(handler) -> None:
        if handler.path == "/list.m3u8":
            handler.begin("audio/mpegurl", len(body))
            handler.wfile.write(body)
        else:
            handler.begin("text/plain", 0, 302, Location="/inside.ts")

    with http_server(answer) as server:
        with LiveStream(pinned_stream(server.address + path, "127.0.0.1")) as stream, pytest.raises(MediaError):
            stream.take(60)
        assert server.asked and set(server.asked) == {path}


def test_an_rtsp_server_cannot_lead_inside():
    """FFmpeg follows a redirect of RTSP wherever it leads."""
    inside, asked = socket.create_server(("127.0.0.1", 0)), []
    answer = f"302 Moved\r\nCSeq: 1\r\nLocation: rtsp://127.0.0.1:{inside.getsockname()[1]}/live"

    def talk(client: socket.socket) -> None:
        while data := client.recv(4096):
            asked.append(data.split()[0])
            client.sendall(f"RTSP/1.0 {answer}\r\n\r\n".encode())

    with inside, tcp_server(talk) as port:
        stream = LiveStream(pinned_stream(f"rtsp://127.0.0.1:{port}/live", "127.0.0.1"))
        with stream, pytest.raises(MediaError, match="cannot be read"):
            stream.take(60)
        inside.settimeout(0.2)
        with pytest.raises(TimeoutError):
            inside.accept()
    assert asked, "the public server was asked"


def test_a_pinned_rtsp_stream_plays_through_the_relay(rtsp_server, free_port):
    rtsp_server(free_port)
    with LiveStream(pinned_stream(f"rtsp://nowhere.invalid:{free_port}/live", "127.0.0.1")) as stream:
        assert stream.wait_for_frame(60).image.shape == (120, 160, 3)
        started = time.monotonic()
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "address", ["ftp://me:geheim@host/a", "rtsp://me:geheim@host:port/a", "rtsp://me:geheim@[::1/a"]
)
def test_a_refusal_repeats_no_password(address):
    with pytest.raises(ValueError, match="expected an address such as") as caught:
        checked_place(address, PRIVATE)
    assert "geheim" not in str(caught.value)


def test_a_server_that_trickles_does_not_hold_a_session():
    """A byte now and then: enough for no time-out, never enough for a picture."""

    def answer(handler) -> None:
        handler.begin()
        while True:
            handler.wfile.write(b"\0")
            time.sleep(0.1)

    with http_server(answer) as server:
        with LiveStream(pinned_stream(server.address + "/a.mp4", "127.0.0.1")) as stream:
            assert stream.take(0.5) is None and not stream.is_over
            started = time.monotonic()
        assert time.monotonic() - started < 10 and stream.error is None


def test_the_place_that_was_looked_at_is_the_one_that_is_opened(clip):
    """The name in the address would lead nowhere: only the checked IP address is used."""
    mkv = clip.with_suffix(".mkv")
    remux(clip, mkv)

    def answer(handler) -> None:
        handler.begin("video/webm", mkv.stat().st_size)
        handler.wfile.write(mkv.read_bytes())

    with http_server(answer) as server:
        address = server.address.replace("127.0.0.1", "nowhere.invalid") + "/clip.mkv"
        with LiveStream(pinned_stream(address, "127.0.0.1")) as stream:
            assert stream.wait_for_frame(60).image.shape == (48, 64, 3)
    assert pinned_stream("rtsp://me:word@cam.example:8554/a?b", "2001:db8::5").address == (
        "rtsp://me:word@[2001:db8::5]:8554/a?b"
    )


def remux(source: Path, target: Path) -> None:
    """The same video in a container that can be read without seeking."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
