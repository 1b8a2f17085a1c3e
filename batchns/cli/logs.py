"""`batchns logs`: what a job wrote, and goes on writing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial

import click

from batchns.cli import complete
from batchns.cli.connect import engine, make_engine
from batchns.cli.jobs import task_of
from batchns.cli.options import WHERE, Whole


@click.command()
@click.argument("job", metavar="JOB", shell_complete=complete.jobs)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job is over, across its attempts.")
@click.option("-n", "--lines", metavar="N", type=Whole(0), help="Only the last so many lines.")
@click.option("-e", "--stderr", is_flag=True, help="What it wrote to stderr; default: to stdout.")
@click.option("--attempt", metavar="N", type=Whole(1), help="Of this attempt; default: the last one.")
@WHERE
def logs(job: str, follow: bool, lines: int | None, stderr: bool, attempt: int | None, socket: str | None) -> None:
    """Print what a job wrote, as its owner may read it.

    JOB is an id (12, 12_3) or a name. What it prints is the job's own, byte for byte.

    Exits with 2 when there is no such job, or when it has no such output.
    """
    from batchns.cli.follow import follow as follow_on

    with engine(socket) as client:
        stream = "stderr" if stderr else "stdout"
        job_id = task_of(client, job)
        if follow:
            show(follow_on(partial(make_engine, socket), job_id, stream, attempt=attempt, tail=lines))
        else:
            with client.logs(job_id, stream, attempt=attempt, tail=lines) as pieces:
                show(pieces)


def show(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
