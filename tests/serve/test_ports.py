"""Before the model is loaded: a port that cannot be opened is one clear error; how memory is held is settled."""

from __future__ import annotations

import errno
import os
import platform
import socket
import subprocess
import sys

import pytest

from videochat_online.cli import main
from videochat_online.serve.commands import bound_sockets, listen, port_of


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    monkeypatch.setattr("videochat_online.serve.commands.load_from_flags", lambda options: pytest.fail("too late"))


def failed(capsys, *arguments: str) -> str:
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    said = capsys.readouterr().err
    assert "is ready" not in said and "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("command", ["serve", "demo"])
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_busy_port(command, family, host, capsys):
    try:
        other = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"{host} is not there")
    with other:
        port = other.getsockname()[1]
        said = failed(capsys, command, "--host", host, "--port", str(port))
    assert f"port {port} of {host} cannot be opened: Address already in use" in said


@pytest.mark.parametrize("command", ["serve", "demo"])
@pytest.mark.parametrize("port", ["99999", "-1", "http", "", "8e3", "٣"])
def test_no_port(command, port, capsys):
    assert "argument --port: expected a port from 0 to 65535" in failed(capsys, command, f"--port={port}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", ""], "--host is empty"),
        (["--host", "nowhere.invalid"], "--host nowhere.invalid: there is no such address"),
        (["--host", "192.0.2.7", "--port", "0"], "port 0 of 192.0.2.7 cannot be opened: Cannot assign"),
        (["--host", "x" * 300], "there is no such address"),
        (["--token", ""], "argument --token: it is empty"),
        (["--served-as", "a*b"], "expected a name such as demo.example.org"),
        (["--max-sessions", "0"], "max_sessions must be an integer >= 1"),
    ],
)
def test_other_wrong_places(arguments, message, capsys):
    assert message in failed(capsys, "serve", *arguments)


def test_a_port_of_the_system(monkeypatch, capsys):
    def refuse(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("socket.socket.bind", refuse)
    assert "port 80 of 127.0.0.1 cannot be opened: Permission denied" in failed(capsys, "serve", "--port", "80")


def test_two_that_bind_at_the_same_moment():
    with bound_sockets("127.0.0.1", 0) as first, bound_sockets("127.0.0.1", port_of(first)) as second:
        listen(first, "127.0.0.1")
        with pytest.raises(OSError, match=f"port {port_of(first)} of 127.0.0.1 cannot be opened"):
            listen(second, "127.0.0.1")


def test_every_address_of_a_name_has_the_same_port(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "192.0.2.7", "127.0.0.2")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: found)
    with bound_sockets("name", 0) as sockets:
        assert [one.getsockname() for one in sockets] == [(h, port_of(sockets)) for h in ("127.0.0.1", "127.0.0.2")]


MANY_THREADS = """
import ctypes, threading
from videochat_online.serve.commands import _keep_memory_whole
_keep_memory_whole()
begun, end, libc = threading.Barrier(13), threading.Barrier(13), ctypes.CDLL(None)
threads = [threading.Thread(target=lambda: (bytearray(1000), begun.wait(), end.wait())) for _ in range(12)]
[thread.start() for thread in threads]
begun.wait()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
end.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no arenas")
@pytest.mark.parametrize(("said", "most"), [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)])
def test_freed_memory_lies_in_two_arenas_or_as_many_as_the_operator_says(said: dict[str, str], most: int):
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"} | said
    done = subprocess.run([sys.executable, "-c", MANY_THREADS], env=environment, capture_output=True, check=True)
    assert done.stdout.count(b"<heap nr=") == most
