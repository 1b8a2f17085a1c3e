"""`batchns wait`: until jobs are over."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from batchns.cli import complete, exits
from batchns.cli.connect import engine
from batchns.cli.options import JSON, WHERE
from batchns.cli.output import print_json
from batchns.cli.plain import STATE_COLOURS, clean, count, paint, wants_colour
from batchns.cli.rows import by_state, counted, exit_text
from batchns.errors import UserError
from batchns.units import format_duration, parse_duration

if TYPE_CHECKING:
    from batchns.wire.engine import Engine
    from batchns.wire.types import JobRow

LINES = 10  # more ends than these are counted, and only what did not complete is named


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...", shell_complete=complete.jobs)
@click.option("--timeout", metavar="TIME", help='Give up after so long: "10m". The jobs go on.')
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code says it.")
@JSON
@WHERE
def wait(jobs: tuple[str, ...], timeout: str | None, quiet: bool, as_json: bool, socket: str | None) -> None:
    """Wait until jobs are over, and print a line for each at its end.

    JOB is an id (12, 12_3), a range (12_1-5, 12-15) or a name. An array is over when all its tasks are. A daemon that
    is started anew meanwhile is waited for.

    Exits with 0 when all have completed, with 1 when one has not, or when the time is over.
    """
    from batchns.cli.follow import TimeIsUp, within

    seconds = None if timeout is None else _seconds(timeout)
    with engine(socket) as client:
        try:
            with within(seconds):
                code = wait_and_tell(client, jobs, quiet=quiet, as_json=as_json)
        except TimeIsUp:
            click.echo(f"batchns: not all jobs were over within {timeout}; they go on", err=True)
            code = exits.NOT_DONE
    sys.exit(code)


def _seconds(timeout: str) -> float:
    try:
        return parse_duration(timeout)
    except UserError as error:
        raise UserError(f"--timeout: {error.what}", error.hint) from None


def wait_and_tell(client: Engine, jobs: Sequence[str], *, quiet: bool, as_json: bool) -> int:
    """Wait; print the ends as they come; returns the exit code."""
    from batchns.cli.follow import wait_for

    colour = wants_colour(sys.stdout)
    known: dict[str, JobRow] = {}
    told = 0

    def on_change(row: JobRow) -> None:
        known[row.id] = row

    def on_end(row: JobRow) -> None:
        nonlocal told
        if quiet:
            return
        if as_json:
            print_json([row])
        elif told < LINES or row.state != "COMPLETED":
            told += 1
            click.echo(ended_line(row, colour=colour))
        sys.stdout.flush()

    rows = wait_for(client, jobs, on_end, on_change)
    if not quiet and not as_json and len(rows) > 1:
        click.echo(summary(rows))
    return 0 if all(row.state == "COMPLETED" for row in rows.values()) else exits.NOT_DONE


def ended_line(row: JobRow, *, colour: bool) -> str:
    """As "12_3 train: FAILED after 3m12s: exit code 3"."""
    state = paint(row.state, STATE_COLOURS.get(row.state, ""), on=colour)
    ran = f" after {format_duration(row.running_seconds)}" if row.started is not None else ""
    why = clean(row.reason) or (f"exit code {exit_text(row)}" if row.state == "FAILED" else "")
    return f"{clean(row.id)} {clean(row.name)}: {state}{ran}" + (f": {why}" if why else "")


def summary(rows: Mapping[str, JobRow]) -> str:
    return f"{count(len(rows), 'job')}: {counted(by_state(rows.values()))}"
