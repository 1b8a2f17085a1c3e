"""`batchns ps`: a line for each job."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from batchns.cli import complete
from batchns.cli.connect import engine
from batchns.cli.options import JSON, WHERE
from batchns.cli.output import print_json, print_lines
from batchns.cli.plain import clean, screen_width, wants_colour
from batchns.cli.rows import FINAL, job_listing, no_such_jobs, states_of, unmatched
from batchns.errors import BatchnsError
from batchns.wire.engine import passes

if TYPE_CHECKING:
    from batchns.wire.engine import Engine
    from batchns.wire.types import JobRow

_CLEAR = "\x1b[H\x1b[J"
_PAUSE = 2  # seconds between two looks


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]", shell_complete=complete.jobs)
@click.option("-a", "--all", "ended", is_flag=True, help="Those that ended lately, too.")
@click.option(
    "--state",
    "state",
    metavar="STATE",
    multiple=True,
    shell_complete=complete.states,
    help="Only in this state: RUNNING, R, PD,R.",
)
@click.option("--user", metavar="USER", help="Only jobs of this user.")
@click.option("--queue", metavar="QUEUE", shell_complete=complete.queues, help="Only jobs of this queue.")
@click.option("-s", "--short", is_flag=True, help="States as Slurm shortens them: R, PD, S, CG.")
@click.option("-w", "--watch", is_flag=True, help="Show it anew every two seconds; Ctrl-C ends it.")
@JSON
@WHERE
def ps(
    jobs: tuple[str, ...],
    ended: bool,
    state: tuple[str, ...],
    user: str | None,
    queue: str | None,
    short: bool,
    watch: bool,
    as_json: bool,
    socket: str | None,
) -> None:
    """List jobs that are not over: all that you may see, or those that are named.

    JOB is an id (12, 12_3), a range (12_1-5, 12-15) or a name. TIME is how long it ran, all attempts together and
    without the time that it was frozen. A wider terminal shows more columns. PRIO is the job's priority, ON its CPUs.

    Exits with 2 when a JOB means none.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json do not mix - batchns ps --json, again and again, is for programs")
    states = states_of(state)
    # Asked for by its state, a job that is over is to be shown.
    ended = ended or bool(jobs) or any(one in FINAL for one in states)

    def ask(client: Engine) -> list[JobRow]:
        return list(client.jobs(jobs, states=states, user=user, queue=queue, ended=ended))

    with engine(socket) as client:
        rows = ask(client)
        while watch:
            sys.stdout.write(_CLEAR if sys.stdout.isatty() else "")
            _print(rows, short, jobs, filtered=bool(states or user or queue))
            sys.stdout.flush()
            time.sleep(_PAUSE)
            rows = _when_it_answers(lambda: ask(client))
    if as_json:
        print_json(rows)
    else:
        _print(rows, short, jobs, filtered=bool(states or user or queue))
    if jobs and not (states or user or queue) and (missing := unmatched(rows, jobs)):
        sys.stdout.flush()
        raise no_such_jobs(missing, hint="batchns show ID finds a job that ended long ago")


def _when_it_answers(ask: Callable[[], list[JobRow]]) -> list[JobRow]:
    """What it says; a daemon that is started anew is waited for, and that is said."""
    told = False
    while True:
        try:
            return ask()
        except BatchnsError as error:
            if not passes(error):
                raise
            if not told:
                click.echo(f"batchns: {error}", err=True)
                told = True
            time.sleep(_PAUSE)


def _print(rows: Sequence[JobRow], short: bool, jobs: Sequence[str], *, filtered: bool) -> None:
    if rows:
        width, colour = screen_width(sys.stdout), wants_colour(sys.stdout)
        print_lines(job_listing(rows, now=time.time(), width=width, colour=colour, short=short))
    elif not jobs:
        which = "no such jobs" if filtered else "no jobs"
        click.echo(clean(f"{which} (batchns ps --all shows those that ended lately, too)"), err=True)
