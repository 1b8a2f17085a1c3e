"""What is done to jobs: cancel, hold, release, freeze, thaw, requeue, prio."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from batchns.cli import complete, exits
from batchns.cli.connect import engine
from batchns.cli.options import JSON, WHERE, Whole, together
from batchns.cli.output import print_json
from batchns.cli.plain import clean, count

if TYPE_CHECKING:
    from batchns.wire.types import Acted

LINES = 10  # of what was done; more are counted

_jobs = click.argument("jobs", nargs=-1, required=True, metavar="JOB...", shell_complete=complete.jobs)
_user = click.option("--user", metavar="USER", help="Only jobs of this user (administrators).")
_common = together(_user, WHERE, JSON)

_WHICH = """

    JOB is an id (12, 12_3), a range (12_1-5, 12-15) or a name."""
_CODES = """

    Exits with 0 when it was done to all of them, with 1 when not to all, with 2 when JOB means none."""


def _acting(name: str, verb: str, done: str, text: str) -> Callable[..., Any]:
    """A command that does `verb` to jobs and has no options of its own. `done`: "cancelled"."""

    def act_on(jobs: tuple[str, ...], user: str | None, socket: str | None, as_json: bool) -> None:
        perform({"verb": verb, "jobs": jobs, "user": user}, done, socket=socket, as_json=as_json)

    act_on.__doc__ = text + _WHICH + _CODES
    return click.command(name)(_jobs(_common(act_on)))


hold = _acting("hold", "hold", "held", "Let waiting jobs wait until they are released.")
release = _acting("release", "release", "released", "Let held jobs compete again.")
freeze = _acting(
    "freeze",
    "freeze",
    "frozen",
    "Freeze running jobs: their CPUs are free for others, their time limit stands still; on a cluster "
    "they keep their CPUs, and Slurm's own limit goes on.",
)
thaw = _acting("thaw", "thaw", "thawed", "Let jobs go on that `batchns freeze` has frozen.")
requeue = _acting("requeue", "requeue", "requeued", "End running jobs and put them back into the queue.")


@click.command()
@_jobs
@click.option("--signal", metavar="SIGNAL", help="Send this signal to what runs, and do nothing else: USR1, INT, 9.")
@_common
def cancel(jobs: tuple[str, ...], signal: str | None, user: str | None, socket: str | None, as_json: bool) -> None:
    """Cancel jobs: what waits never starts, what runs is asked to end and killed after its grace time.

    Cancelled a second time it is killed at once. JOB is an id (12, 12_3), a range (12_1-5, 12-15) or a name.

    Exits with 0 when it was done to all of them, with 1 when not to all, with 2 when JOB means none.
    """
    request = {"verb": "signal" if signal else "cancel", "jobs": jobs, "user": user, "signal": signal}
    perform(request, "signalled" if signal else "cancelled", socket=socket, as_json=as_json)


@click.command()
@click.argument("priority", metavar="N", type=Whole(0, 100))
@_jobs
@_common
def prio(priority: int, jobs: tuple[str, ...], user: str | None, socket: str | None, as_json: bool) -> None:
    """Give jobs another priority: 0 to 100, larger goes first. Who started stays started.

    JOB is an id (12, 12_3), a range (12_1-5, 12-15) or a name.

    Exits with 0 when it was done to all of them, with 1 when not to all, with 2 when JOB means none.
    """
    request = {"verb": "priority", "jobs": jobs, "user": user, "priority": priority}
    perform(request, f"given priority {priority}", socket=socket, as_json=as_json)


def perform(request: dict[str, Any], done: str, *, socket: str | None, as_json: bool) -> None:
    """Ask for it, say what became of it, exit with 1 where something was not done."""
    with engine(socket) as client:
        from batchns.wire.types import ActRequest

        answer = client.act(ActRequest(**request)).jobs
    if as_json:
        print_json(answer)
    else:
        report(answer, done)
    if not answer or not all(one.done for one in answer):
        sys.exit(exits.NOT_DONE)


def report(answer: Sequence[Acted], done: str) -> None:
    """A line for each job; of many, how many of each. `done`: "cancelled", to which the daemon may add something."""
    did = [one for one in answer if one.done]
    if len(did) > LINES:
        for text, number in Counter(one.text for one in did).items():
            click.echo(f"{count(number, 'job')} {_added(done, text)}")
    else:
        for one in did:
            click.echo(f"{clean(one.id)} {_added(done, one.text)}")
    refused = [one for one in answer if not one.done]
    for one in refused[:LINES]:
        click.echo(f"{clean(one.id)} not {done}: {_told(one.text, one.hint)}", err=True)
    for (text, hint), number in Counter((one.text, one.hint) for one in refused[LINES:]).items():
        of_each = f"each {text.removeprefix('it ')}" if number > 1 and text.startswith("it ") else text
        click.echo(f"{count(number, 'more job')} not {done}: {_told(of_each, hint)}", err=True)


def _added(done: str, text: str) -> str:
    return f"{done}: {clean(text)}" if text else done


def _told(text: str, hint: str) -> str:
    return clean(f"{text} - {hint}" if hint else text)
