"""Addresses of streams: what is one, and that no password in it is ever shown."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from videochat_online.media.addresses import Address, is_address, without_password, without_secrets
from videochat_online.media.live_network import NetworkStream

SHOWN = {
    "rtsp://me:secret@host:554/a?b=c": "rtsp://host:554/a?b=c",
    "udp://127.0.0.1:5000": "udp://127.0.0.1:5000",
    "rtsp://admin:geheim#123@host/x": "rtsp://host/x",
    "rtsp://admin:ge/heim@host:554/x": "rtsp://host:554/x",
    "rtsp://admin:ge?heim@host:554/x": "rtsp://host:554/x",
    "rtsp://admin:123/geheim@host/x": "rtsp://host/x",
    "rtsp://admin:p@geheim#1@host/x": "rtsp://host/x",
    "rtsp://admin:geheim@[::1]:554/x": "rtsp://[::1]:554/x",
    "rtsp://host/x?user=admin&pwd=geheim&b=1": "rtsp://host/x?user=***&pwd=***&b=1",
    "rtsp://host/x?user=admin&pwd=ge@heim": "rtsp://host/x?user=***&pwd=***",
    "http://host/x?Password=geheim;access_token=geheim&monkey=1": "http://host/x?Password=***;access_token=***&monkey=1",
    "rtsp://host:554/user=admin&password=geheim&channel=1": "rtsp://host:554/user=***&password=***&channel=1",
    "srt://host:9?passphrase=geheimgeheim": "srt://host:9?passphrase=***",
    "http://host/x?loginuse=geheim&loginpas=geheim": "http://host/x?loginuse=***&loginpas=***",
    "http://host/x?accessToken=geheim&token=geheim&key=geheim": "http://host/x?accessToken=***&token=***&key=***",
    "rtsp://host/x?pwd=1/geheim&b=1": "rtsp://host/x?pwd=***&b=1",
    "rtsp://host/x?pwd=1#geheim;2geheim 3?geheim": "rtsp://host/x?pwd=***",
    "rtsp:admin:geheim@host/x?pwd=geheim": "host/x?pwd=***",
}


@pytest.mark.parametrize("address", SHOWN)
def test_passwords_are_not_shown(address):
    assert without_password(address) == SHOWN[address]
    message = without_secrets(f"cannot open {address} ({Address.parse(address).url})", address)
    assert "geheim" not in message and "secret" not in message


@pytest.mark.parametrize("password", ["a#b", "a/b", "a?b", "a@b", "a:b", "a b", "%41%23"])
def test_any_password_opens_its_address(password):
    found = Address.parse(f"rtsp://me:{password}@host:554/a?b=c#d")
    assert found.user_and_password == ("me", "A#" if password == "%41%23" else password)
    assert found.place == "host:554/a?b=c#d"
    assert Address.parse(found.url).user_and_password == found.user_and_password
    assert urlsplit(found.url).hostname == "host" and urlsplit(found.url).port == 554


@pytest.mark.parametrize(
    "address", ["rtsp:me:geheim@host/x", "rtsp://me:geheim@host:port/x", "http://me:geheim@[::1/x", "udp://@239.0.0.1"]
)
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(ValueError, match="expected an address such as") as caught:
        NetworkStream(address)
    assert is_address(address) and "geheim" not in str(caught.value)


def test_a_path_may_hold_an_at_sign():
    assert Address.parse("http://host:80/@me/live").login is None
    assert Address.parse("udp://@239.0.0.1:5000").url == "udp://@239.0.0.1:5000"


def test_the_address_is_not_repeated_in_an_error():
    with pytest.raises(ValueError, match="expected an address") as caught:
        NetworkStream("ftp://me:geheim@host/a?pwd=geheim")
    assert "geheim" not in str(caught.value)
