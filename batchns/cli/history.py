"""What is over: `batchns history` and `batchns usage`."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from batchns.cli import complete
from batchns.cli.connect import daemon, engine
from batchns.cli.options import JSON, SOCKET, WHERE, Whole, together
from batchns.cli.output import print_json, print_lines
from batchns.cli.plain import Column, clean, count, listing, screen_width, wants_colour, wrap
from batchns.cli.rows import FINAL, NEVER_RAN, exit_text, reason_of, state_column, states_of
from batchns.errors import UserError
from batchns.units import format_duration, format_size, parse_duration

if TYPE_CHECKING:
    from batchns.wire.types import JobRow, UsageRow

_DAY = 86400.0
_ADVICE_ROWS = 20  # advice for more would be read by nobody

_query = together(
    click.option("--since", metavar="WHEN", default="7d", show_default=True, help='"2h", "7d" ago, or a date.'),
    click.option("--until", metavar="WHEN", help="As --since: what ended before."),
    click.option("--name", metavar="NAME", multiple=True, help="Only jobs of this name."),
    click.option("--state", metavar="STATE", multiple=True, shell_complete=complete.states, help="Only these ends."),
    click.option("--queue", metavar="QUEUE", shell_complete=complete.queues, help="Only jobs of this queue."),
    click.option("--user", metavar="USER", help="Jobs of this user (administrators)."),
    click.option("--all-users", is_flag=True, help="Everybody's (administrators)."),
)


@click.command()
@_query
@click.option("-n", "--lines", metavar="N", type=Whole(1), help="At most so many; default: all.")
@JSON
@WHERE
def history(lines: int | None, as_json: bool, socket: str | None, **query: Any) -> None:
    """List your jobs that are over, the newest end first.

    WHEN is a time ago (90m, 2h, 7d) or a moment (2026-12-01, 2026-12-01T08:00), local time.
    """
    now = time.time()
    with engine(socket) as client:
        rows = list(itertools.islice(client.history(**_asked(query, now), page=min(lines or 1000, 1000)), lines))
    if as_json:
        print_json(rows)
    elif rows:
        print_lines(history_lines(rows, now, screen_width(sys.stdout), colour=wants_colour(sys.stdout)))
    else:
        click.echo(_none(query), err=True)


@click.command()
@_query
@JSON
@SOCKET
def usage(as_json: bool, socket: str | None, **query: Any) -> None:
    """Compare what your jobs asked for with what they used, and say what to ask for next time.

    One line for all jobs of a name. CPU is the part of their CPUs that they used; RUN the median, MOST the longest.

    WHEN is a time ago (90m, 2h, 7d) or a moment (2026-12-01, 2026-12-01T08:00), local time.
    """
    now = time.time()
    with daemon(socket) as client:
        answer = client.usage(**_asked(query, now))
    rows = answer.rows
    if as_json:
        print_json(rows)
    elif rows:
        print_lines(usage_lines(rows, screen_width(sys.stdout), colour=wants_colour(sys.stdout)))
    else:
        click.echo(_none(query), err=True)
    if answer.more:
        sys.stdout.flush()
        click.echo("there are more: this is of the latest ends only (--since, --name, --queue narrow it)", err=True)


def _asked(query: dict[str, Any], now: float) -> dict[str, Any]:
    since = moment_of("--since", query["since"], now)
    until = moment_of("--until", query["until"], now) if query["until"] else None
    if until is not None and until <= since:
        raise UserError(f"--until {clean(query['until'])} is not after --since {clean(query['since'])}", "swap them")
    states = states_of(query["state"])
    if lasting := [state for state in states if state not in FINAL]:
        raise UserError(f"--state: a job that is {lasting[0]} is not over", f"batchns ps --state {lasting[0]}")
    return {
        "user": "*" if query["all_users"] else query["user"],
        "since": since,
        "until": until,
        "names": query["name"],
        "states": states,
        "queue": query["queue"],
    }


def _none(query: dict[str, Any]) -> str:
    """That there is nothing, where it was looked for, and where there may be something."""
    since = clean(query["since"])
    when = f"since {since}" if "-" in since else f"in the last {since}"
    until = f", until {clean(query['until'])}" if query["until"] else ""
    narrow = any(query[name] for name in ("name", "state", "queue", "user"))
    return f"no {'such ' if narrow else ''}jobs ended {when}{until} (--since WHEN looks further back)"


def moment_of(option: str, text: str, now: float) -> float:
    """Seconds since the epoch, of "7d" (ago) or "2026-12-01" or "2026-12-01T08:00" (local time).

    Raises:
        UserError: it is neither.
    """
    from datetime import datetime

    try:
        return now - parse_duration(text)
    except UserError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        hint = "write a time ago (90m, 2h, 7d) or a moment (2026-12-01, 2026-12-01T08:00)"
        raise UserError(f"{option}: {clean(text)!r} is no time", hint) from None


def history_lines(rows: Sequence[JobRow], now: float, width: int, *, colour: bool = False) -> list[str]:
    columns = [
        Column(title="JOB", cells=[clean(row.id) for row in rows]),
        Column(title="NAME", cells=[clean(row.name) for row in rows], least=8),
        Column(title="USER", cells=[clean(row.user) for row in rows], least=6),
        state_column(rows),
        Column(title="EXIT", cells=[exit_text(row) for row in rows], right=True),
        Column(title="ENDED", cells=[_ended(row, now) for row in rows], right=True),
        Column(title="RUN", cells=[_ran(row) for row in rows], right=True),
        Column(title="CPUS", cells=[f"{row.cpus:g}" for row in rows], right=True, spare=True),
        Column(title="MEM", cells=[_size(row.memory) for row in rows], right=True, spare=True),
        Column(title="REASON", cells=[reason_of(row) for row in rows], least=10),
    ]
    if len({row.user for row in rows}) < 2:
        del columns[2]
    return listing(columns, width, colour=colour)


def _ended(row: JobRow, now: float) -> str:
    """As "18:45" within the last day, else "Nov 23 18:45"; with the year where it is not the current one."""
    if row.ended is None:
        return "-"
    then, today = time.localtime(row.ended), time.localtime(now)
    if now - row.ended < _DAY / 2 or then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%b %d %H:%M" if then.tm_year == today.tm_year else "%Y-%m-%d", then)


def _ran(row: JobRow) -> str:
    return NEVER_RAN if row.started is None else format_duration(row.running_seconds)


def usage_lines(rows: Sequence[UsageRow], width: int, *, colour: bool = False) -> list[str]:
    """A row for each name, then the advice."""
    columns = [
        Column(title="NAME", cells=[clean(row.name) for row in rows], least=8),
        Column(title="USER", cells=[clean(row.user) for row in rows], least=6),
        Column(title="JOBS", cells=[f"{row.jobs:,}" for row in rows], right=True),
        Column(title="DONE", cells=[_share(row.completed / max(row.jobs, 1)) for row in rows], right=True),
        Column(title="CPUS", cells=[f"{row.cpus:g}" for row in rows], right=True, spare=True),
        Column(title="CPU", cells=[_share(row.cpu_efficiency) for row in rows], right=True),
        Column(title="MEM", cells=[_size(row.memory) for row in rows], right=True),
        Column(title="PEAK", cells=[_size(row.memory_peak) for row in rows], right=True),
        Column(title="LIMIT", cells=[_time(row.time_limit) for row in rows], right=True, spare=True),
        Column(title="RUN", cells=[_time(row.running_seconds) for row in rows], right=True),
        Column(title="MOST", cells=[_time(row.longest_seconds) for row in rows], right=True),
    ]
    if len({row.user for row in rows}) < 2:
        del columns[1]
    lines = listing(columns, width, colour=colour)
    told = [row for row in rows if row.advice]
    for row in told[:_ADVICE_ROWS]:
        lines += ["", f"{clean(row.name)}:"]
        for advice in row.advice:
            lines += wrap(clean(advice), width, "  ")
    if len(told) > _ADVICE_ROWS:
        lines += ["", f"advice for {count(len(told) - _ADVICE_ROWS, 'more name')}: --name NAME"]
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _size(value: int | None) -> str:
    return "-" if value is None else format_size(value)


def _time(value: float | None) -> str:
    return "-" if value is None else format_duration(value)
