"""A process in a running job, on this terminal: `batchns exec` and `batchns attach`.

1. Whatever happens, the terminal is as it was when we leave.
2. One thread: select on both sides, and no waiting but there; a signal only writes a byte to a pipe.
3. Where the process does not read its stdin, no signal may get through: the second one is for us.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from batchns.cli import complete, exits
from batchns.cli.connect import daemon
from batchns.cli.jobs import task_of
from batchns.cli.options import SOCKET, WithCommand, command_of

if TYPE_CHECKING:
    from batchns.client.sync import Execution

_KILLED = exits.SIGNAL + signal.SIGKILL  # with its job
_PIECE = 1 << 16
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@click.command("exec", cls=WithCommand, options_metavar="[OPTIONS]")
@click.argument("job", metavar="JOB -- COMMAND [ARG...]", shell_complete=complete.jobs)
@click.option("-t", "--tty", "terminal", is_flag=True, help="With a terminal of its own, as batchns attach has.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, help="Set an environment variable.")
@click.option("--cwd", metavar="FOLDER", default="", help="Working folder; default: the job's.")
@SOCKET
@click.pass_context
def exec_(ctx: click.Context, /, job: str, terminal: bool, env: tuple[str, ...], cwd: str, socket: str | None) -> None:
    """Run a command inside a running job: in its namespaces, within its limits, as restricted as the job is.

    JOB is an id (12, 12_3) or a name. stdin, stdout and stderr are those of batchns.

    Exits with the command's own code, with 128+N when signal N ended it, with 137 when it was killed with its job,
    with 127 when there is no such command in the job, with 126 when it cannot be executed.
    """
    command = command_of(ctx)
    if not command:
        raise click.UsageError("no command - write batchns exec JOB -- COMMAND ARG..., or batchns attach JOB")
    sys.exit(_perform(job, command, terminal=terminal, env=_pairs(env), cwd=cwd, socket=socket))


@click.command()
@click.argument("job", metavar="JOB", shell_complete=complete.jobs)
@SOCKET
def attach(job: str, socket: str | None) -> None:
    """Open a shell inside a running job, on this terminal.

    JOB is an id (12, 12_3) or a name. The shell has the job's namespaces and limits; what it uses counts as the job's.

    Exits with the shell's own code, with 127 or 126 when the job has none that can be executed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("this is no terminal - write batchns exec JOB -- COMMAND")
    sys.exit(_perform(job, (), terminal=True, env={}, cwd="", socket=socket))


def _pairs(items: Sequence[str]) -> dict[str, str]:
    for item in items:
        if "=" not in item:
            raise click.UsageError(f"--env: {item!r} has no = - write NAME=VALUE")
    return dict(item.split("=", 1) for item in items)


def _perform(
    job: str, command: Sequence[str], *, terminal: bool, env: dict[str, str], cwd: str, socket: str | None
) -> int:
    on_terminal = terminal and sys.stdin.isatty()
    if on_terminal and "TERM" in os.environ:
        env = {"TERM": os.environ["TERM"], **env}
    size = terminal_size() if on_terminal else (24, 80) if terminal else None
    with (
        daemon(socket) as client,
        client.execute(task_of(client, job), command, env=env, cwd=cwd, terminal=size) as process,
        raw_terminal(sys.stdin.fileno()) if on_terminal else nullcontext(),
    ):
        code, number = pump(process, on_terminal=on_terminal)
    if code is not None:
        return code
    return exits.SIGNAL + number if number is not None else _KILLED


def terminal_size() -> tuple[int, int]:
    """Rows and columns."""
    found = os.get_terminal_size(sys.stdin.fileno())
    return max(found.lines, 1), max(found.columns, 1)


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Each key goes through as it is typed; as before at the end of the block, however that comes. termios(3)."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        # What was typed ahead belongs to the shell that comes next.
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def pump(process: Execution, *, on_terminal: bool) -> tuple[int | None, int | None]:
    """stdin to the process, its output to stdout and stderr, signals and the terminal's size, until it has ended."""
    # From a raw terminal they come as keys. What is sent to us there raises, so that the terminal is put right.
    passed_on = () if on_terminal else _PASSED_ON
    ending = (signal.SIGTERM, signal.SIGHUP) if on_terminal else ()
    with _signals((signal.SIGWINCH, *passed_on), ending) as wake:
        stdin = sys.stdin.fileno()
        connection, open_ = process.fileno(), True
        stuck = False  # a signal waits behind stdin that is not read
        while True:
            stuck = stuck and process.unsent
            typing = (stdin,) if open_ and not process.unsent else ()
            sending = (connection,) if process.unsent else ()
            ready, writable, _ = select.select((connection, wake, *typing), sending, ())
            if writable:
                process.flush()
            if wake in ready:
                for number in os.read(wake, 64):
                    if number != signal.SIGWINCH:
                        if stuck and process.unsent:
                            sys.exit(exits.SIGNAL + number)
                        stuck = process.unsent
                        process.signal(number, wait=False)
                    elif on_terminal:
                        process.resize(*terminal_size(), wait=False)
            if stdin in ready:
                data = _typed(stdin)
                process.write(data, wait=False)
                open_ = bool(data)
            if connection in ready:
                piece = process.read()
                if piece is None:
                    return process.wait()
                stream, output = piece
                _write_all(2 if stream == "stderr" else 1, output)


def _typed(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _PIECE)
    except OSError:  # a terminal that has hung up
        return b""


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select((), (descriptor,), ())


@contextmanager
def _signals(numbers: Sequence[int], ending: Sequence[int]) -> Iterator[int]:
    """A descriptor from which the numbers of these signals can be read. Those of `ending` raise `SystemExit`."""

    def end(number: int, frame: Any) -> None:
        sys.exit(exits.SIGNAL + number)

    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    before |= {number: signal.signal(number, end) for number in ending}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
