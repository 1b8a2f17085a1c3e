"""`batchns show` and `batchns why`: all of one job, and what it waits for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from batchns.cli import complete
from batchns.cli.connect import engine
from batchns.cli.jobs import detail_of, next_of
from batchns.cli.options import JSON, WHERE
from batchns.cli.output import print_json, print_lines
from batchns.cli.plain import (
    BOLD,
    STATE_COLOURS,
    Column,
    clean,
    joined,
    listing,
    paint,
    screen_width,
    wants_colour,
    width_of,
    wrap,
)
from batchns.cli.rows import exit_text, frozen_seconds, job_listing, queued_seconds, running_seconds
from batchns.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from batchns.wire.types import Happened, JobDetail, JobRow, Limit, Why

_LABEL = 11  # columns of a label and the blanks after it
_RATES = ("egress", "ingress")
_SIZES = ("memory", "scratch", "overlay", "memory_peak_bytes")
_FIRST = ("cpus", "cpu_shares", "memory", "pids", "egress", "ingress")
_LABELS = {"cpuset_cpus": "cpus"}
_LEFT_OUT = ("devices", "cpuset_mems")  # long, and nobody asked for it; --json has it


@click.command()
@click.argument("job", metavar="JOB", shell_complete=complete.jobs)
@JSON
@WHERE
def show(job: str, as_json: bool, socket: str | None) -> None:
    """Show all of one job: what it asked for, what is in force, what it used, what happened to it.

    JOB is an id (12, 12_3) or a name. Of an array its tasks are listed. With --json one object, or one for each task.

    Exits with 2 when there is no such job.
    """
    with engine(socket) as client:
        found = detail_of(client, job)
    if isinstance(found, list):
        if as_json:
            print_json(found)
        else:
            width, colour = screen_width(sys.stdout), wants_colour(sys.stdout)
            print_lines(job_listing(found, now=time.time(), width=width, colour=colour))
    elif as_json:
        print_json([found])
    else:
        print_lines(detail_lines(found, time.time(), screen_width(sys.stdout), colour=wants_colour(sys.stdout)))


@click.command()
@click.argument("job", metavar="JOB", shell_complete=complete.jobs)
@JSON
@WHERE
def why(job: str, as_json: bool, socket: str | None) -> None:
    """Say why a job does not run, and when it is expected to.

    JOB is an id (12, 12_3) or a name; of an array it is said of the task that is next.

    Exits with 2 when there is no such job.
    """
    with engine(socket) as client:
        found = client.why(next_of(client, job))
    if as_json:
        print_json([found])
    else:
        print_lines(why_lines(found, time.time(), screen_width(sys.stdout)))


def why_lines(found: Why, now: float, width: int) -> list[str]:
    lines = wrap(f"{found.id}: {clean(found.text) or clean(found.code)}", width)
    if found.behind and found.behind not in found.text:
        lines.append(f"  goes after job {clean(found.behind)}")
    if found.at is not None:
        lines.append(f"  {'its deadline is' if found.code == 'deadline' else 'it may begin'} {_when(found.at, now)}")
    if found.expected is not None:
        lines.append(f"  its turn is expected {_when(found.expected, now)}, if nothing more urgent comes")
    elif found.not_before is not None:
        until = f"before {moment(found.not_before, now)}" if found.not_before > now + 1 else "soon"
        lines.append(f"  its turn is not expected {until}: too many go first to look further ahead")
    return lines


def _when(at: float, now: float) -> str:
    wait = at - now
    return "now" if wait < 1 else f"in {format_duration(_rough(wait))} ({moment(at, now)})"


def _rough(seconds: float) -> float:
    """Nobody knows it to the second."""
    return float(round(seconds / 60) * 60 if seconds > 600 else round(seconds))


def moment(at: float, now: float) -> str:
    """Local time: "18:45:07" of today, else "2026-11-25 18:45:07"."""
    local = datetime.fromtimestamp(at)
    same_day = local.date() == datetime.fromtimestamp(now).date()
    return local.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S")


def detail_lines(detail: JobDetail, now: float, width: int, *, colour: bool = False) -> list[str]:
    row = detail.row
    lines = [_headline(row, now, colour)]
    # A reason is for reading, a path for copying: one is broken over lines, the other never.
    if row.reason and not lines[0].endswith(f", {row.reason}"):
        lines += wrap(clean(row.reason), width, "  ")
    lines += ["", *_facts(detail, now, width)]
    if limits := _limits(detail, width, colour):
        lines += ["", *limits]
    if usage := _usage(detail, now):
        lines += ["", *usage]
    if detail.happened:
        lines += ["", *_timeline(detail.happened, now, width, colour)]
    return lines


def _headline(row: JobRow, now: float, colour: bool) -> str:
    state = paint(row.state, STATE_COLOURS.get(row.state, ""), on=colour)
    name = paint(f"{clean(row.id)} {clean(row.name)}", BOLD, on=colour)
    ran = running_seconds(row, now)
    after = f" after {format_duration(ran)}" if row.ended is not None and row.started is not None else ""
    code = exit_text(row)
    ended = "" if code == "-" or row.ended is None else f", {'signal' if row.signal else 'exit code'} {code}"
    return f"{name}: {state}{after}{ended}"


def _facts(detail: JobDetail, now: float, width: int) -> list[str]:
    row, spec = detail.row, detail.spec
    ran = f"ran {format_duration(running_seconds(row, now))}"
    if row.time_limit is not None:
        ran += f" of {format_duration(row.time_limit)}"
    frozen = frozen_seconds(row, now)
    times = (
        f"queued {format_duration(queued_seconds(row, now))}",
        ran if row.started is not None else _longest(row),
        f"frozen {format_duration(frozen)}" if frozen else "",
    )
    facts = [
        ("user", f"{clean(row.user)}, queue {clean(row.queue)}, priority {row.priority}"),
        ("attempt", _attempts(row, spec)),
        ("array", clean(str(spec.get("array", "")))),
        ("time", joined(times)),
        ("command", _command(spec)),
        ("folder", clean(str(spec.get("cwd", "")))),
        ("env", clean(" ".join(f"{name}={value}" for name, value in _table(spec, "env").items()))),
        ("root", _root(_table(spec, "isolation"))),
        ("runs as", clean(str(_table(spec, "isolation").get("identity", "")))),
        ("profile", clean(str(_table(spec, "isolation").get("seccomp", "")))),
        ("binds", clean(", ".join(map(str, _table(spec, "isolation").get("binds", ()))))),
        ("network", _network(_table(spec, "network"))),
        ("preempt", _preempt(_table(spec, "preempt"))),
        ("begin", clean(str(spec.get("begin", "")))),
        ("deadline", clean(str(spec.get("deadline", "")))),
        ("warning", clean(str(spec.get("warn_signal", "")))),
        ("notify", clean(", ".join(map(str, spec.get("notify") or ())))),
        ("waits for", clean(", ".join(map(str, spec.get("dependency", ()) or ())))),
        ("job file", clean(detail.source)),
        ("stdout", clean(detail.stdout or "")),
        ("stderr", clean(detail.stderr or "")),
        ("process", str(detail.pid) if detail.pid else ""),
        ("cgroup", clean(detail.cgroup)),
    ]
    lines: list[str] = []
    for label, text in facts:
        if label in ("command", "user", "time", "env", "binds", "network", "waits for"):
            wrapped = wrap(text, width, " " * _LABEL)
            lines += [label.ljust(_LABEL) + wrapped[0].lstrip(), *wrapped[1:]] if wrapped else []
        elif text:
            lines.append(label.ljust(_LABEL) + text)
    return lines


def _table(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = spec.get(name)
    return found if isinstance(found, Mapping) else {}


def _network(table: Mapping[str, Any]) -> str:
    allowed = ", ".join(map(str, table.get("allow", ())))
    return clean(str(table.get("mode", ""))) + (f", reaches {clean(allowed)}" if allowed else "")


def _attempts(row: JobRow, spec: Mapping[str, Any]) -> str:
    retries = spec.get("max_retries")
    if not retries:
        return str(row.attempt) if row.attempt > 1 else ""
    after = f", the first after {spec['retry_delay']}" if "retry_delay" in spec else ""
    memory = f", memory times {spec['retry_memory']:g}" if "retry_memory" in spec else ""
    return clean(f"{row.attempt}, retried up to {retries} times{after}{memory}")


def _root(table: Mapping[str, Any]) -> str:
    overlay = f", {table['overlay']} may be written" if "overlay" in table else ""
    digest = f", {table['rootfs_digest']}" if "rootfs_digest" in table else ""
    return clean(f"{table['rootfs']}{overlay}{digest}") if "rootfs" in table else ""


def _preempt(table: Mapping[str, Any]) -> str:
    grace = f"{table['grace_time']} to end" if "grace_time" in table else ""
    return clean(", ".join(filter(None, (str(table.get("mode", "")), grace))))


def _longest(row: JobRow) -> str:
    return f"may run {format_duration(row.time_limit)}" if row.time_limit is not None else ""


def _command(spec: Mapping[str, Any]) -> str:
    import shlex

    if command := spec.get("command"):
        return clean(shlex.join(map(str, command)))
    script = str(spec.get("script") or "").strip().splitlines()
    if not script:
        return ""
    more = f" (and {len(script) - 1} more lines)" if len(script) > 1 else ""
    return clean(script[0]) + more


def _limits(detail: JobDetail, width: int, colour: bool) -> list[str]:
    """What was asked for beside what is in force; below it what is not, and why."""
    asked = _asked(detail)
    found = {_LABELS.get(name, name): limit for name, limit in detail.limits.items() if name not in _LEFT_OUT}
    order = [*_FIRST, *found, *asked]
    names = sorted({*asked, *found}, key=order.index)
    if not names:
        return []
    limits = [found.get(name) for name in names]
    columns = [
        Column(title="LIMIT", cells=[clean(name) for name in names]),
        Column(title="ASKED", cells=[asked.get(name, "-") for name in names], least=8),
        Column(title="IN FORCE", cells=[_in_force(*pair) for pair in zip(names, limits, strict=True)], least=12),
        Column(title="AS", cells=[clean(limit.source) if limit else "" for limit in limits], least=10),
    ]
    lines = listing(columns, width, colour=colour)
    for name, limit in zip(names, limits, strict=True):
        if limit is not None and limit.value is None and limit.why:
            reason, _, hint = clean(limit.why).partition(" - ")
            lines += wrap(f"{clean(name)} is not in force: {reason}", width)
            lines += [f"  {hint}"] if hint else []  # a command is for copying: it is never broken over two lines
    return lines


def _in_force(name: str, limit: Limit | None) -> str:
    if limit is None:
        return "-"
    if limit.value is None:
        return "no" if limit.why else "-"
    return amount(name, limit.value)


def _asked(detail: JobDetail) -> dict[str, str]:
    """What the job file says, by the limit's name."""
    found: dict[str, str] = {"cpus": f"{detail.row.cpus:g}"}
    if detail.row.memory is not None:
        found["memory"] = format_size(detail.row.memory)
    for table in ("resources", "network"):
        values = detail.spec.get(table)
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, (int, float, str)) and name not in ("cpus", "memory", "mode", "strict"):
                found[name] = amount(name, value)
    return found


def amount(name: str, value: object) -> str:
    """A value in the unit that its name has."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name in _RATES:
            return format_rate(int(value))
        if name in _SIZES or name.endswith("_bytes"):
            return format_size(int(value))
        if name.endswith("_seconds"):
            return format_duration(value)
        return f"{value:g}" if isinstance(value, float) else str(value)
    return clean(str(value))


def _usage(detail: JobDetail, now: float) -> list[str]:
    usage = detail.usage
    parts = []
    cpu, ran = usage.get("cpu_seconds"), running_seconds(detail.row, now)
    if cpu is not None:
        cpus = detail.row.cpus
        whole = ran > 0 and detail.row.attempt == 1  # it is of the last attempt, `ran` of all
        share = f" ({cpu / (ran * cpus):.0%} of {cpus:g} {'CPU' if cpus == 1 else 'CPUs'})" if whole else ""
        parts.append(f"CPU {format_duration(cpu)}{share}")
    peak = usage.get("memory_peak_bytes")
    if peak is not None:
        of = f" ({peak / detail.row.memory:.0%} of {format_size(detail.row.memory)})" if detail.row.memory else ""
        parts.append(f"memory {format_size(int(peak))}{of}")
    for label, first, second, words in (
        ("disk", "io_read_bytes", "io_write_bytes", ("read", "written")),
        ("network", "net_sent_bytes", "net_received_bytes", ("sent", "received")),
    ):
        pair = [(usage.get(name), word) for name, word in zip((first, second), words, strict=True)]
        told = [f"{format_size(int(value))} {word}" for value, word in pair if value is not None]
        if told:
            parts.append(f"{label} {joined(told)}")
    if usage.get("oom_kills"):
        parts.append(f"killed for memory {usage['oom_kills']} times")
    return [("used" if i == 0 else "").ljust(_LABEL) + part for i, part in enumerate(parts)]


def _timeline(happened: Iterable[Happened], now: float, width: int, colour: bool) -> list[str]:
    entries = list(happened)
    whole = any(len(moment(one.at, now)) > 8 for one in entries)
    times = [datetime.fromtimestamp(one.at).strftime("%Y-%m-%d %H:%M:%S" if whole else "%H:%M:%S") for one in entries]
    columns = [
        Column(title="WHEN", cells=times),
        Column(title="WHAT", cells=[clean(one.event) for one in entries]),
        Column(title="", cells=[clean(one.detail) for one in entries], least=10),
    ]
    return listing(columns, max(width, width_of(times[0]) + 30), colour=colour)
