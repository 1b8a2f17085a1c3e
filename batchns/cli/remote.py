"""`batchns run --remote -- COMMAND`: a job of the daemon, or of a cluster, that feels like a command on this terminal.

1. The job is the daemon's: it goes on when this terminal goes away, not when it is interrupted.
2. The first Ctrl-C asks it to end, the second kills it. The exit code is the command's own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from batchns.cli import exits
from batchns.cli.follow import follow, wait_for
from batchns.cli.output import print_json
from batchns.cli.plain import clean
from batchns.errors import BatchnsError
from batchns.model.signals import signal_number
from batchns.wire.engine import Engine, Refusal
from batchns.wire.types import ActRequest, CommandLine, JobRow, SubmitRequest

_LAST_WORDS = 5.0  # seconds in which more of what was written has to come, once the job is over


def run_remote(command: list[str], options: dict[str, Any], connect: Callable[[], Engine], *, as_json: bool) -> int:
    """Submit it, show what it writes, wait for its end. Returns the exit code.

    Raises:
        UserError: it is refused.
        HostError: no daemon, or it was away for too long.
    """
    line = CommandLine(options={**options, "command": command}, folder=os.getcwd())
    with connect() as client:
        job = client.submit(SubmitRequest(commands=(line,), key=os.urandom(16).hex())).jobs[0]
        readers = [_Reader(connect, job.id, stream, number) for stream, number in (("stdout", 1), ("stderr", 2))]
        interrupts = Interrupts(connect, (job.id,))
        with interrupts:
            for reader in readers:
                reader.start()
            told = _Waiting(client)
            row = wait_for(client, (job.id,), on_end=lambda row: None, on_change=told.changed)[job.id]
            whole = [reader.finish(interrupts) for reader in readers]
        if as_json:
            print_json([client.job(job.id)])
    if not all(whole):
        return exits.HOST
    if row.state not in ("COMPLETED", "CANCELLED") and row.reason:
        click.echo(f"batchns: {row.state}: {clean(row.reason)}", err=True)
    return exit_code(row, interrupts.first)


def exit_code(row: JobRow, interrupt: int = 0) -> int:
    """The command's own, 128+N for signal N; where it never ran 125, or 128+N where `interrupt` N has cancelled it."""
    if row.exit_code is not None:
        return row.exit_code
    if row.signal is not None:
        return exits.SIGNAL + signal_number(row.signal)
    return exits.SIGNAL + interrupt if interrupt else exits.HOST


class _Waiting:
    """Says why nothing happens yet, to somebody who sits in front of it."""

    def __init__(self, client: Engine) -> None:
        self._client = client
        self._said = ""

    def changed(self, row: JobRow) -> None:
        said = f"job {clean(row.id)} {clean(row.reason)}" if row.state in ("PENDING", "SUSPENDED") else ""
        if said and row.reason and row.reason != "is next" and said != self._said and sys.stderr.isatty():
            click.echo(f"batchns: {said}", err=True)
            self._said = said


class _Reader(threading.Thread):
    """Copies one of the job's streams to ours."""

    def __init__(self, connect: Callable[[], Engine], job_id: str, stream: str, descriptor: int) -> None:
        super().__init__(name=stream, daemon=True)
        self._connect, self._job_id, self._stream, self._descriptor = connect, job_id, stream, descriptor
        self._moved = 0.0  # when something came, or was taken off our hands
        self._writing = False

    def finish(self, interrupts: Interrupts) -> bool:
        """The job is over: wait for the rest, as long as some of it comes, and as long as whoever reads it takes.

        False: it is not complete, and that has been said.
        """
        begun, count = time.monotonic(), interrupts.count
        while self.is_alive():
            self.join(0.05)
            late = not self._writing and time.monotonic() - max(begun, self._moved) > _LAST_WORDS
            if self.is_alive() and (late or interrupts.count > count):
                self._tell("what comes last is missing")
                return False
        return True

    def run(self) -> None:
        try:
            for piece in follow(self._connect, self._job_id, self._stream):
                self._write(piece)
        except BrokenPipeError:
            pass
        except OSError as error:
            if error.errno not in exits.UNWRITABLE:
                raise
            self._tell(error.strerror)
        except Refusal as error:
            if error.code != "not_found":  # it has written nothing: it never ran
                self._tell(error)
        except BatchnsError as error:
            self._tell(error)

    def _tell(self, error: object) -> None:
        click.echo(f"batchns: {self._stream} is not shown: {error} (batchns logs {self._job_id})", err=True)

    def _write(self, data: bytes) -> None:
        self._writing = True
        while data:
            data = data[os.write(self._descriptor, data) :]
        self._moved, self._writing = time.monotonic(), False


class Interrupts:
    """While it is entered: SIGINT and SIGTERM cancel the jobs, and the second time kill them; SIGHUP does nothing.

    `jobs`: ids.
    """

    def __init__(self, connect: Callable[[], Engine], jobs: Sequence[str]) -> None:
        self._connect, self._jobs = connect, tuple(jobs)
        self._before: dict[int, Any] = {}
        self.first = 0  # the number of the first that came
        self.count = 0

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._heed) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heed(self, number: int, frame: Any) -> None:
        self.first = self.first or number
        self.count += 1
        # In a thread: the loop that was interrupted may be in the middle of a question of its own.
        threading.Thread(target=self._cancel, daemon=True).start()

    def _cancel(self) -> None:
        try:
            with self._connect() as client:
                client.act(ActRequest(verb="cancel", jobs=self._jobs))
        except BatchnsError as error:
            click.echo(f"batchns: {error}", err=True)
