"""What batchns.toml says of a queue, and what a job gets that does not ask: keys, checks, sentences, defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.config import Bound, Defaults, Queue
from batchns.model.job import PreemptMode
from batchns.model.job_parts import CPUS_SCHEMA, MAX_PIDS
from batchns.model.job_rules import SHOWN
from batchns.model.job_table import NAME_KIND
from batchns.model.kinds import (
    Field,
    Kind,
    Table,
    boolean,
    choice,
    duration,
    integer,
    list_of,
    matching,
    number,
    rate,
    size,
)
from batchns.model.notify_table import QUEUE_NOTIFY
from batchns.model.problems import Finding, did_you_mean
from batchns.model.values import MAX_CPUS, check_cpus
from batchns.units import format_duration, format_size, quote

MAX_JOBS = 1_000_000


def user_or_group(what: str, example: str) -> Kind[str]:
    """A name of the user database: besides useradd's, those of domains, with @, \\ or blanks in them."""
    return matching(
        r"[A-Za-z0-9_][A-Za-z0-9_.@\\ -]{0,254}\$?",
        what=what,
        hint=f"write it as `id` prints it: {example}",
        example=example,
    )


def preempts_known_queues(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Looks at the raw tables, so that a mistake in one queue does not hide another's."""
    queues = raw.get("queues")
    if not isinstance(queues, dict):
        return
    known = {"normal", *queues}
    for name, queue in queues.items():
        listed = queue.get("preempts") if isinstance(queue, dict) else ()
        for index, other in enumerate(listed if isinstance(listed, list) else ()):
            place = ("queues", name, "preempts", index)
            if other == name:
                what = "a queue cannot preempt itself"
                yield place, UserError(what, 'remove it, or see preempt = "shorter" and time_slice in [schedule]')
            elif isinstance(other, str) and other not in known:
                near = did_you_mean(other, known)
                hint = f'did you mean "{near}"?' if near else f"there is {', '.join(sorted(known))}"
                yield place, UserError(f"there is no queue {quote(other)}", hint)


def _defaults_within_bounds(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """What a queue gives to those that do not ask, no job of it may ask for: one of the two is a mistake."""
    bound = values.get("per_job", Bound())
    for key in ("cpus", "memory", "time_limit", "pids", "scratch"):
        show = SHOWN[key]
        most, given = getattr(bound, key), values.get("defaults", {}).get(key)
        if most is not None and given is not None and given > most:
            what = f"{show(given)} is more than per_job.{key}, {show(most)}"
            yield ("defaults", key), UserError(what, f"write at most {show(most)}, or a larger per_job.{key}")


def _queue(**values: Any) -> Queue:
    if "yield" in values:  # a word of Python's own
        values["yields"] = values.pop("yield")
    return Queue(**values)


_BUILT_IN = Defaults()
_QUEUE = Queue()
_SCHEDULE = "as in [schedule]"

DEFAULTS: Table[Defaults] = Table(
    make=Defaults,
    fields={
        "cpus": Field(number(check_cpus, example="2", **CPUS_SCHEMA), "CPUs.", f"{_BUILT_IN.cpus:g}"),
        "memory": Field(size(1 << 20, example='"4GiB"'), "Memory.", "the node's memory per CPU, times the job's CPUs"),
        "pids": Field(integer(1, MAX_PIDS, example="512"), "Processes and threads.", str(_BUILT_IN.pids)),
        "scratch": Field(
            size(4096, example='"10GiB"'), "Size of the private /tmp.", f'"{format_size(_BUILT_IN.scratch)}"'
        ),
        "time_limit": Field(duration(example='"2h30m"'), "How long a job may run.", "no limit"),
        "grace_time": Field(
            duration(example='"10s"', zero=True),
            "Between SIGTERM and SIGKILL.",
            f'"{format_duration(_BUILT_IN.grace_time)}"',
        ),
    },
    where="defaults",
)
QUEUE_DEFAULTS: Table[dict[str, Any]] = Table(
    make=dict,
    fields={key: evolve(known, default="as in [defaults]") for key, known in DEFAULTS.fields.items()},
    where="queues.NAME.defaults",
)


def _at_least_a_share(value: float) -> float:
    if not 0 < value <= MAX_CPUS:
        raise UserError(f"{value:g} is out of range", f"write a number above 0, up to {MAX_CPUS}")
    return value


PER_JOB: Table[Bound] = Table(
    make=Bound,
    fields={
        "cpus": Field(number(check_cpus, example="8", **CPUS_SCHEMA), "CPUs.", "no bound"),
        "memory": Field(size(1 << 20, example='"16GiB"'), "Memory.", "no bound"),
        "egress": Field(rate(8000, example='"1gbit"'), "What it may send.", "no bound"),
        "ingress": Field(rate(8000, example='"1gbit"'), "What it may receive.", "no bound"),
        "time_limit": Field(
            duration(example='"2h30m"'), "The longest `time_limit`, and that of a job that has none.", "no bound"
        ),
        "pids": Field(integer(1, MAX_PIDS, example="8192"), "Processes and threads.", "no bound"),
        "scratch": Field(size(4096, example='"10GiB"'), "Size of the private /tmp.", "no bound"),
    },
    where="queues.NAME.per_job",
)
PER_USER: Table[Bound] = Table(
    make=Bound,
    fields={
        "jobs": Field(
            integer(1, MAX_JOBS, example="10"), "Jobs, running or frozen; each task of an array is one.", "no bound"
        ),
        "cpus": Field(
            number(_at_least_a_share, example="8", exclusiveMinimum=0, maximum=MAX_CPUS),
            "CPUs, fractions added up.",
            "no bound",
        ),
        "memory": Field(size(1 << 20, example='"16GiB"'), "Memory, that of frozen jobs too.", "no bound"),
        "egress": Field(rate(8000, example='"1gbit"'), "What they may send together.", "no bound"),
        "ingress": Field(rate(8000, example='"1gbit"'), "What they may receive together.", "no bound"),
    },
    where="queues.NAME.per_user",
)
TOTAL: Table[Bound] = evolve(PER_USER, where="queues.NAME.total")

QUEUE: Table[Queue] = Table(
    make=_queue,
    fields={
        "priority": Field(
            integer(0, 100, example="50"),
            "A job of a queue with a larger one always goes first.",
            str(_QUEUE.priority),
        ),
        "max_priority": Field(
            integer(0, 100, example="100"),
            "The largest `priority` that a job in it may have.",
            str(_QUEUE.max_priority),
        ),
        "users": Field(
            list_of(user_or_group("a user's name", '"alice"'), example='["alice"]'), "Who may use it.", "everyone"
        ),
        "groups": Field(
            list_of(user_or_group("a group's name", '"hpc"'), example='["hpc"]'),
            "Groups whose members may use it, besides `users`.",
            "everyone",
        ),
        "preempts": Field(
            list_of(NAME_KIND, example='["normal"]'),
            "Queues whose running jobs give way to a job of this one that has no room.",
            "[]",
        ),
        "preempt_mode": Field(
            choice(PreemptMode),
            "What giving way is for jobs of this queue that do not say: suspend, requeue, cancel, off.",
            f'"{_QUEUE.preempt_mode.value}"',
        ),
        "min_run": Field(
            duration(example='"5m"', zero=True), "How long its jobs run before they may be preempted.", _SCHEDULE
        ),
        "max_frozen": Field(
            duration(example='"1d"', zero=True),
            "How long each of its jobs may be frozen for others, in all.",
            _SCHEDULE,
        ),
        "yield": Field(
            boolean(), "Its jobs are frozen while others than batchns use the machine: see [neighbour].", "false"
        ),
        "defaults": Field(QUEUE_DEFAULTS, "What differs from [defaults] for jobs of this queue."),
        "notify": Field(QUEUE_NOTIFY, "What differs from [notify] for jobs of this queue."),
        "per_job": Field(PER_JOB, "The most that one job may ask for."),
        "per_user": Field(PER_USER, "The most that one user's jobs may have at a time."),
        "total": Field(TOTAL, "The most that all jobs of the queue may have at a time."),
    },
    where="queues.NAME",
    rules=(_defaults_within_bounds,),
)
