"""The socket in the file system."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from batchns.daemon.http import Settings, serve
from batchns.daemon.http.listen import unix_listener
from batchns.errors import HostError

from .fake import FakeService, Running, running
from .raw import ask, eventually


def listen(path: Path, mode: int = 0o666) -> None:
    with unix_listener(path, mode):
        pass


def test_it_has_its_mode_whatever_the_umask_and_goes_with_the_daemon(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with unix_listener(tmp_path / "made" / "s", 0o666):
            assert stat.S_IMODE((tmp_path / "made" / "s").lstat().st_mode) == 0o666
    finally:
        os.umask(before)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["s.lock"]


def test_it_is_never_there_without_a_listener(tmp_path: Path) -> None:
    """While daemons come and go at that place, whoever finds a socket is heard, or refused because it has just gone."""
    path = tmp_path / "s"
    code = f"""
from pathlib import Path
from batchns.daemon.http.listen import unix_listener
while True:
    with unix_listener(Path({str(path)!r}), 0o666): pass
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert eventually(path.exists, 10)
        modes = set()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                modes.add(stat.S_IMODE(path.lstat().st_mode))
            except FileNotFoundError:
                continue
        assert modes == {0o666}
    finally:
        process.kill()
        process.wait()


def test_a_living_daemon_s_is_left_alone(server: Running, service: FakeService) -> None:
    with pytest.raises(HostError, match="another batchns daemon listens"):
        listen(server.socket)
    with pytest.raises(HostError, match="another batchns daemon listens"), running(service, server.socket.parent):
        pass
    assert ask(server.socket, "GET", "/v1/you").status == 200


def test_so_is_one_of_somebody_who_takes_no_lock(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen(0)
        with pytest.raises(HostError, match="another batchns daemon listens"):
            listen(tmp_path / "s")
        assert (tmp_path / "s").exists()


def test_a_killed_daemon_s_is_replaced(tmp_path: Path, service: FakeService) -> None:
    code = f"""
import time
from functools import partial
from pathlib import Path
from batchns.daemon.http.listen import unix_listener
with unix_listener(Path({str(tmp_path / "api.sock")!r}), 0o666):
    print("listening", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / "api.sock").is_socket()
    with running(service, tmp_path) as server:
        assert ask(server.socket, "GET", "/v1/you").status == 200


def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(HostError, match="is there and is no socket"):
        listen(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_another_s_socket_is_not_removed_at_the_end(tmp_path: Path) -> None:
    with unix_listener(tmp_path / "s", 0o666):
        (tmp_path / "s").unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "s"))
    assert (tmp_path / "s").is_socket()


def test_a_path_that_no_socket_can_have_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="too long for a socket - choose one of at most 107 bytes"):
        listen(tmp_path / ("x" * 200))
    with pytest.raises(HostError, match="needs a folder that it may write"):
        listen(Path("/proc/nix/s"))


def test_a_cancelled_server_is_gone_at_once(tmp_path: Path, service: FakeService) -> None:
    """Its streams, too."""
    path = tmp_path / "s"

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, service, Settings(socket=path)))
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some(1000)
            assert service.streams == 1
            begun = trio.current_time()
            nursery.cancel_scope.cancel()
        return trio.current_time() - begun

    assert trio.run(main) < 1
    assert service.streams == 0
    assert not path.exists()


def test_what_the_server_cannot_do_is_raised_where_it_is_started(server: Running, service: FakeService) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(HostError, match="another batchns daemon"):
                await nursery.start(partial(serve, service, Settings(socket=server.socket)))

    trio.run(main)
