"""The machine and its queues: `batchns node`, `queues`, `drain`, `resume`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from batchns.cli.connect import daemon
from batchns.cli.options import JSON, SOCKET
from batchns.cli.output import print_json, print_lines
from batchns.cli.plain import BOLD, Column, clean, count, hanging, joined, listing, paint, screen_width, wants_colour
from batchns.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from batchns.wire.types import NodeInfo, QueueRow

_YELLOW = "\x1b[33m"
_BAR = 20  # characters


@click.command()
@JSON
@SOCKET
def node(as_json: bool, socket: str | None) -> None:
    """Say what this machine has, what of it is free, and whether the daemon is well."""
    with daemon(socket) as client:
        found = client.node()
    if as_json:
        print_json([found])
    else:
        print_lines(node_lines(found, time.time(), screen_width(sys.stdout), colour=wants_colour(sys.stdout)))


@click.command()
@JSON
@SOCKET
def queues(as_json: bool, socket: str | None) -> None:
    """List the queues: who is in them, whom they make give way, what their limits are."""
    with daemon(socket) as client:
        found = client.queues().queues
    if as_json:
        print_json(found)
    else:
        print_lines(queue_lines(found, screen_width(sys.stdout), colour=wants_colour(sys.stdout)))


@click.command()
@click.argument("reason", nargs=-1, metavar="[REASON]")
@JSON
@SOCKET
def drain(reason: tuple[str, ...], as_json: bool, socket: str | None) -> None:
    """Start no more jobs: what runs goes on, what is submitted waits. For administrators.

    REASON is told to those who ask why their jobs wait. It ends with batchns resume.
    """
    with daemon(socket) as client:
        found = client.drain(" ".join(reason))
    if as_json:
        print_json([found])
    else:
        told = f": {clean(found.detail)}" if found.detail else ""
        click.echo(f"drained{told}; {count(found.running, 'job')} still running, {found.waiting:,} waiting")


@click.command()
@JSON
@SOCKET
def resume(as_json: bool, socket: str | None) -> None:
    """Start jobs again after batchns drain. For administrators."""
    with daemon(socket) as client:
        found = client.resume()
    if as_json:
        print_json([found])
    else:
        click.echo(f"open; {count(found.waiting, 'job')} waiting")


def node_lines(found: NodeInfo, now: float, width: int, *, colour: bool = False) -> list[str]:
    state = clean(found.state)
    told = f": {clean(found.detail)}" if found.detail else ""
    host = paint(clean(found.host), BOLD, on=colour)
    lines = [f"{host}: {paint(state, '' if state == 'open' else _YELLOW, on=colour)}{told}"]
    up = format_duration(max(0.0, now - found.started))
    lines += [
        f"  jobs     {found.running:,} running, {found.frozen:,} frozen, {found.waiting:,} waiting",
        f"  daemon   batchns {clean(found.version)}, process {found.pid}, up {up}, cgroup {clean(found.cgroup)}",
        "",
    ]
    names = list(found.total)
    used = [found.total[name] - found.free.get(name, 0.0) for name in names]
    columns = [
        Column(title="RESOURCE", cells=[clean(name) for name in names]),
        Column(title="", cells=[_bar(part, found.total[name]) for part, name in zip(used, names, strict=True)]),
        Column(title="USED", cells=[amount(n, part) for part, n in zip(used, names, strict=True)], right=True),
        Column(title="FREE", cells=[amount(name, found.free.get(name, 0.0)) for name in names], right=True),
        Column(title="TOTAL", cells=[amount(name, found.total[name]) for name in names], right=True),
        Column(title="", cells=[clean(found.cpus) if name == "cpus" else "" for name in names], least=4),
    ]
    lines += listing(columns, width, colour=colour)
    for trouble in found.troubles:
        wrapped = hanging(f"! {clean(trouble)}", width, 2)
        lines += ["", *(paint(line, _YELLOW, on=colour) for line in wrapped)]
    return lines


def _bar(part: float, total: float) -> str:
    full = round(_BAR * part / total) if total > 0 else 0
    return "#" * full + "." * (_BAR - full)


def amount(name: str, value: float) -> str:
    """Of a resource, in its unit."""
    if name in ("egress", "ingress"):
        return format_rate(int(value))
    if name in ("memory", "scratch"):
        return format_size(int(value))
    return f"{value:g}"


def queue_lines(found: tuple[QueueRow, ...], width: int, *, colour: bool = False) -> list[str]:
    ranked = sorted(found, key=lambda queue: -queue.priority)
    names = [clean(queue.name) + ("" if queue.open_to_you else " (not for you)") for queue in ranked]
    columns = [
        Column(title="QUEUE", cells=names, least=12),
        Column(title="PRIO", cells=[str(queue.priority) for queue in ranked], right=True),
        Column(title="RUNNING", cells=[f"{queue.running:,}" for queue in ranked], right=True),
        Column(title="FROZEN", cells=[f"{queue.frozen:,}" for queue in ranked], right=True),
        Column(title="WAITING", cells=[f"{queue.waiting:,}" for queue in ranked], right=True),
        Column(title="PREEMPTS", cells=[clean(", ".join(queue.preempts)) or "-" for queue in ranked], least=8),
        Column(title="GIVES WAY BY", cells=[clean(queue.preempt_mode) or "-" for queue in ranked]),
    ]
    lines = listing(columns, width, colour=colour)
    limits = [(queue, line) for queue in ranked for line in _limits(queue)]
    if limits:
        lines.append("")
        for queue, line in limits:
            lines += hanging(f"{clean(queue.name)}: {line}", width, 2)
    return lines


_SCOPES = {"per_job": "a job has", "per_user": "a user has", "total": "all together have"}


def _limits(queue: QueueRow) -> list[str]:
    lines = []
    for scope, bounds in queue.limits.items():
        if isinstance(bounds, Mapping) and (told := joined(map(_bound, bounds.items()))):
            lines.append(f"{_SCOPES.get(scope, clean(scope))} at most {told}")
    return lines


def _bound(item: tuple[str, Any]) -> str:
    name, value = item
    if value is None:
        return ""
    if not isinstance(value, int | float):
        return clean(f"{name} {value}")
    if name == "time_limit":
        return f"{format_duration(value)} of time"
    if name == "jobs":
        return f"{count(int(value), 'job')} at a time"
    if name == "cpus":
        return f"{value:g} CPUs"
    return f"{amount(name, value)} of {clean(name)}"
