"""On a terminal: keys go through raw, its size is told, and in the end it is as it was, whatever ended it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from batchns.cli.top import frame
from batchns.client.sync import Client

from .fake import NOW, Daemon, Running, many


class Terminal:
    """A terminal with `batchns` on it. `seen`: what was written to it."""

    def __init__(self, server: Running, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "batchns", *arguments],
            env={**os.environ, "BATCHNS_SOCKET": str(server.socket), "TERM": "xterm"},
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def until(self, text: bytes, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select((self.master,), (), (), max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} has not come: {self.seen!r}"
            self.seen += os.read(self.master, 65536)

    def end(self) -> int:
        """Its exit code; what it still writes is read meanwhile."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if select.select((self.master,), (), (), 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        while select.select((self.master,), (), (), 0)[0]:
            self.seen += os.read(self.master, 65536)
        return self.process.returncode

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def opened(server: Running) -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for one in terminals:
        one.close()


@pytest.fixture
def attached(server: Running, fake: Daemon, opened: list[Terminal]) -> Terminal:
    terminal = Terminal(server, "attach", "12")
    opened.append(terminal)
    terminal.type(b"x")
    terminal.until(b"x")
    deadline = time.monotonic() + 20
    while not terminal.raw:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return terminal


def test_the_shell_has_a_terminal_of_the_same_size_and_kind(attached: Terminal, fake: Daemon) -> None:
    assert fake.commands[0].terminal == (24, 80)
    assert fake.commands[0].command == ()
    assert fake.commands[0].env == {"TERM": "xterm"}


def test_keys_go_through_raw_ctrl_c_among_them(attached: Terminal, fake: Daemon) -> None:
    attached.type(b"\x03\x1a\x04")
    attached.until(b"\x03\x1a\x04")
    assert attached.process.poll() is None


def test_a_new_size_is_told(attached: Terminal, server: Running, fake: Daemon) -> None:
    attached.resize(50, 132)
    attached.process.send_signal(signal.SIGWINCH)  # the kernel does it where the terminal is the controlling one
    deadline = time.monotonic() + 20
    while fake.executions[0].size != (50, 132):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_terminal_is_as_before_when_the_shell_has_ended(attached: Terminal, server: Running, fake: Daemon) -> None:
    server.call(fake.executions[0].stop, 7)
    assert attached.end() == 7
    assert termios.tcgetattr(attached.slave) == attached.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_as_before_when_a_signal_ends_us(attached: Terminal, number: int) -> None:
    attached.process.send_signal(number)
    assert attached.end() == 128 + number
    assert termios.tcgetattr(attached.slave) == attached.before


def test_the_terminal_is_as_before_when_the_daemon_goes_away(attached: Terminal, server: Running) -> None:
    server.stop()
    assert attached.end() == 125
    assert termios.tcgetattr(attached.slave) == attached.before


class TestTop:
    def test_it_is_drawn_and_q_quits(self, server: Running, opened: list[Terminal]) -> None:
        terminal = Terminal(server, "top", "--interval", "0.2")
        opened.append(terminal)
        terminal.until(b"q quits")
        assert b"\x1b[?1049h" in terminal.seen
        assert b"train" in terminal.seen
        terminal.type(b"q")
        assert terminal.end() == 0
        assert terminal.seen.endswith(b"\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(terminal.slave) == terminal.before

    def test_it_shows_what_changes(self, server: Running, fake: Daemon, opened: list[Terminal]) -> None:
        terminal = Terminal(server, "top", "--interval", "0.1")
        opened.append(terminal)
        terminal.until(b"train")
        server.call(lambda: fake.known.clear())
        terminal.until(b"no jobs")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_terminal_is_as_before_when_a_signal_ends_it(
        self, server: Running, opened: list[Terminal], number: int
    ) -> None:
        terminal = Terminal(server, "top")
        opened.append(terminal)
        terminal.until(b"q quits")
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert terminal.seen.endswith(b"\x1b[?1049l")
        assert termios.tcgetattr(terminal.slave) == terminal.before

    def test_it_outlives_a_daemon_that_goes_away(self, server: Running, opened: list[Terminal]) -> None:
        terminal = Terminal(server, "top", "--interval", "0.1")
        opened.append(terminal)
        terminal.until(b"q quits")
        server.stop()
        terminal.until(b"no batchns daemon answers")
        terminal.type(b"q")
        assert terminal.end() == 0

    def test_no_more_lines_than_the_screen_has(self, server: Running, fake: Daemon) -> None:
        with Client(server.socket) as client:
            node = client.node()
        rows = many(100)
        for height in (1, 5, 12, 24, 50):
            assert len(frame(node, rows, NOW, 80, height)) <= height
        last = frame(node, rows, NOW, 80, 28)
        shown = sum("job-" in line for line in last)
        assert shown > 10
        assert last[-1] == f"{100 - shown} more: batchns ps  q quits"
