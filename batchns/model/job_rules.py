"""What the keys of a job demand of each other, and what its queue lets it ask for.

1. A rule sees the raw table and those of its values that were good, and yields what is wrong with its place.
2. A rule is silent where a key that it needs was bad: that has its own message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from batchns.errors import UserError
from batchns.model.config import Bound, Config, Queue
from batchns.model.job import Condition, NetworkMode
from batchns.model.kinds import Rule
from batchns.model.problems import Finding, Path
from batchns.model.times import After
from batchns.units import format_duration, format_rate, format_size, quote


def no_shell_line(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """A command of one string with blanks in it is a shell line; a path may hold blanks."""
    command = values.get("command")
    if command and (not command[0] or (len(command) == 1 and re.match("[^/ ]+ ", command[0]))):
        hint = "write one string per argument: [\"echo\", \"hello\"], or use script = '''...'''"
        yield ("command", 0), UserError(f"{quote(command[0])} is no program's name", hint)


def cpus_match_cpuset(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """A fraction beside a cpuset shares those CPUs; a whole number has to be theirs."""
    cpus, cpuset = values.get("cpus"), values.get("cpuset")
    if cpus is not None and cpuset is not None and cpus >= 1 and cpus != len(cpuset):
        what = f"cpus = {cpus:g}, but cpuset names {len(cpuset)}"
        yield ("cpus",), UserError(what, f"write cpus = {len(cpuset)}, or a fraction below 1 to share them")


def no_rate_without_network(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if values.get("mode") is NetworkMode.NONE:
        for key in ("egress", "ingress"):
            if key in values:
                yield (
                    (key,),
                    UserError('there is no rate to limit with mode = "none"', 'remove it, or write mode = "private"'),
                )


def overlay_on_a_rootfs(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if "overlay" in values and "rootfs" not in values:
        what = "the host's own root is always read-only"
        yield ("overlay",), UserError(what, 'write rootfs = "/srv/images/ml" besides, or remove it')


def digest_of_a_rootfs(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if "rootfs_digest" in values and "rootfs" not in values:
        what = "there is no image whose digest could be checked"
        yield ("rootfs_digest",), UserError(what, 'write rootfs = "/srv/images/ml.squashfs" besides, or remove it')


def nothing_to_allow(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Loopback only has no way to anything, the host's own network has every way already."""
    mode = values.get("mode", NetworkMode.PRIVATE)
    if mode is not NetworkMode.PRIVATE and "allow" in values:
        what = f'there is nothing to allow with mode = "{mode.value}"'
        yield ("allow",), UserError(what, 'remove it, or write mode = "private"')


def tasks_correspond(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """aftercorr goes from task to task: without an array there is none."""
    if "array" not in raw and any(edge.condition is Condition.AFTERCORR for edge in values.get("dependency", ())):
        what = "aftercorr waits for the task of the same index, and this job has no array"
        yield ("dependency",), UserError(what, 'write afterok, or array = "0-9" besides')


def begins_before_its_deadline(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Only two moments or two durations can be compared without a clock."""
    begin, deadline = values.get("begin"), values.get("deadline")
    if isinstance(begin, After) and isinstance(deadline, After):
        late = begin.seconds >= deadline.seconds
    else:
        late = isinstance(begin, float) and isinstance(deadline, float) and begin >= deadline
    if late:
        yield ("begin",), UserError("is not before the deadline", "write an earlier begin or a later deadline")


def retries_to_speak_of(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if values.get("max_retries", 0) or ("max_retries" in raw and "max_retries" not in values):
        return
    for key, nothing in (("retry_delay", 0.0), ("retry_memory", 1.0)):
        if values.get(key, nothing) != nothing:
            what = "there are no retries" + (" with max_retries = 0" if "max_retries" in values else "")
            yield (key,), UserError(what, "write max_retries = 2 besides, or remove it")


def warned_before_a_limit(config: Config) -> Rule:
    """The time limit is the job's own, or what the job gets that does not ask."""

    def rule(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
        warn = values.get("warn_signal")
        if warn is None or ("time_limit" in raw and "time_limit" not in values):
            return
        queue = _queue(config, raw, values)
        limit = values.get("time_limit", config.defaults_of(queue).time_limit if queue else warn.before + 1)
        if limit is None:
            what = "there is no time limit to warn before"
            yield ("warn_signal",), UserError(what, 'write time_limit = "2h" besides')
        elif warn.before >= limit:
            what = f"{format_duration(warn.before)} before a time limit of {format_duration(limit)} is before it begins"
            yield ("warn_signal",), UserError(what, "write a shorter time behind @, or a longer time_limit")

    return rule


def within_its_queue(config: Config) -> Rule:
    """What the job asks for by itself; what it gets that does not ask is never more than its queue allows."""

    def rule(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
        name = _queue(config, raw, values)
        if name is None:
            return
        queue = config.queues[name]
        if values.get("priority", 0) > queue.max_priority:
            what = f"{values['priority']} is more than jobs of queue {quote(name)} may have"
            yield ("priority",), UserError(what, f"write at most {queue.max_priority}, or choose another queue")
        for path, key, asked in _asked(values):
            for whose, most in _bounds(queue, name, key):
                if asked > most:
                    show = SHOWN[key]
                    what = f"{show(asked)} is more than {whose}, {show(most)}"
                    yield path, UserError(what, f"write at most {show(most)}, or choose another queue")
                    break

    return rule


SHOWN: Mapping[str, Callable[[Any], str]] = {
    "time_limit": format_duration,
    "cpus": lambda cpus: f"{cpus:g}",
    "memory": format_size,
    "egress": format_rate,
    "ingress": format_rate,
    "pids": str,
    "scratch": format_size,
}


def _queue(config: Config, raw: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
    """The job's queue; None: what is written there is none."""
    name: str = values.get("queue", "normal")
    return None if ("queue" in raw and "queue" not in values) or name not in config.queues else name


def _asked(values: Mapping[str, Any]) -> Iterator[tuple[Path, str, float]]:
    """What a job asks for explicitly: its place, the name of its bound, and how much."""
    if "time_limit" in values:
        yield ("time_limit",), "time_limit", values["time_limit"]
    resources, network = values.get("resources"), values.get("network")
    if resources is not None:
        if resources.cpus is not None:
            yield ("resources", "cpus"), "cpus", resources.cpus
        elif resources.cpuset:
            yield ("resources", "cpuset"), "cpus", len(resources.cpuset)
        if resources.memory is not None:
            yield ("resources", "memory"), "memory", resources.memory
        for key in ("pids", "scratch"):
            if (asked := getattr(resources, key)) is not None:
                yield ("resources", key), key, asked
    for key in ("egress", "ingress") if network is not None else ():
        if (asked := getattr(network, key)) is not None:
            yield ("network", key), key, asked


def _bounds(queue: Queue, name: str, key: str) -> list[tuple[str, float]]:
    """The bounds that one job alone can be beyond, the narrowest first. Beyond any of them it would wait for ever."""
    bounds: tuple[tuple[str, Bound], ...] = (
        ("a job of queue {} may have", queue.per_job),
        ("one user may have in queue {}", queue.per_user),
        ("all jobs of queue {} may have together", queue.total),
    )
    known = [(whose.format(quote(name)), most) for whose, bound in bounds if (most := getattr(bound, key)) is not None]
    return sorted(known, key=lambda entry: entry[1])
