"""`batchns top`: machine and jobs, live. q quits; where there is no terminal, one frame.

1. What is shown is made by pure functions from what the daemon said last.
2. The terminal is put right at the end, whatever ended it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from batchns.cli.connect import daemon
from batchns.cli.node import node_lines
from batchns.cli.options import JSON, SOCKET
from batchns.cli.output import print_json, print_lines
from batchns.cli.plain import DIM, fit, paint, screen_width, wants_colour
from batchns.cli.rows import job_listing
from batchns.errors import BatchnsError
from batchns.wire.engine import passes

if TYPE_CHECKING:
    from batchns.client.sync import Client
    from batchns.wire.types import JobRow, NodeInfo

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen, no cursor: xterm's, and everybody's
_HOME, _TO_LINE_END, _TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"
# Those that do something come first, then those that could.
_RANK = {
    state: number
    for number, state in enumerate(("RUNNING", "COMPLETING", "STARTING", "SUSPENDING", "SUSPENDED", "PENDING"))
}
_MARGIN = 2  # lines below the jobs: a gap and the keys


@click.command()
@click.option("--user", metavar="USER", help="Only jobs of this user.")
@click.option("--queue", metavar="QUEUE", help="Only jobs of this queue.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Between two looks.",
)
@JSON
@SOCKET
def top(user: str | None, queue: str | None, interval: float, as_json: bool, socket: str | None) -> None:
    """Watch the machine and its jobs. q quits, space looks at once; without a terminal it is printed once.

    With --json once, too: the machine on one line, then each job on one.
    """
    with daemon(socket) as client:
        if as_json:
            node, rows = _look(client, user, queue)
            print_json([node, *rows])
            return
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            node, rows = _look(client, user, queue)
            print_lines(frame(node, rows, time.time(), screen_width(sys.stdout), None))
            return
        with _screen():
            _live(client, user, queue, interval)


def _look(client: Client, user: str | None, queue: str | None) -> tuple[NodeInfo, list[JobRow]]:
    return client.node(), list(client.jobs(user=user, queue=queue))


def _live(client: Client, user: str | None, queue: str | None, interval: float) -> None:
    colour = wants_colour(sys.stdout)
    lines: list[str] = []
    while True:
        size = os.get_terminal_size(sys.stdout.fileno())
        try:
            node, rows = _look(client, user, queue)
        except BatchnsError as error:
            if not passes(error):
                raise
            shown = [paint(fit(f"batchns: {error}", size.columns), DIM, on=colour), *lines]
        else:
            shown = lines = frame(node, rows, time.time(), size.columns, size.lines, colour=colour)
        _draw(shown[: size.lines])
        if _key(interval) in ("q", "Q", "\x03", "\x1b"):
            return


def _draw(lines: Sequence[str]) -> None:
    """Over what was there, so that nothing flickers; the last line without a line break, which would scroll."""
    text = f"{_TO_LINE_END}\n".join(lines)
    sys.stdout.write(f"{_HOME}{text}{_TO_LINE_END}{_TO_SCREEN_END}")
    sys.stdout.flush()


def _key(seconds: float) -> str:
    """What was typed within so many seconds, "" for nothing; an end of input is a q."""
    ready, _, _ = select.select((sys.stdin.fileno(),), (), (), seconds)
    if not ready:
        return ""
    return os.read(sys.stdin.fileno(), 64).decode("latin-1")[:1] or "q"


@contextmanager
def _screen() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)  # Ctrl-C still interrupts
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def frame(
    node: NodeInfo, rows: Sequence[JobRow], now: float, width: int, height: int | None, *, colour: bool = False
) -> list[str]:
    """At most `height` lines: the node, the jobs for which there is room, how many there is none for."""
    lines = [*node_lines(node, now, width, colour=colour), ""]
    ordered = sorted(rows, key=lambda row: _RANK.get(row.state, len(_RANK)))  # stable: else as the daemon has them
    room = len(ordered) if height is None else max(0, height - len(lines) - 1 - _MARGIN)
    if ordered:
        lines += job_listing(ordered[:room], now=now, width=width, colour=colour) if room else []
    else:
        lines.append(paint("no jobs", DIM, on=colour))
    if height is None:
        return lines
    more = f"{len(ordered) - room:,} more: batchns ps  " if len(ordered) > room else ""
    lines = lines[: height - 1]
    return [*lines, paint(fit(f"{more}q quits", width), DIM, on=colour)]
