"""Valid jobs, and the job file that says the same: for round trips and for the schema's test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from ipaddress import IPv4Network, IPv6Network
from signal import SIGRTMAX, valid_signals
from typing import Any

from attrs import evolve
from hypothesis import strategies as st

from batchns.model.config import Config, NetworkSettings, Node, Queue
from batchns.model.job import (
    Array,
    Bind,
    Condition,
    Dependency,
    Identity,
    Isolation,
    JobSpec,
    Network,
    NetworkMode,
    Notice,
    Preempt,
    PreemptMode,
    Resources,
    WarnSignal,
)
from batchns.model.job_parts import cpu_list
from batchns.model.reach import HostPorts, Jobs, format_target
from batchns.model.signals import UNSTOPPABLE, signal_name

CONFIG = Config(
    node=Node(resources={"gpus": 8}),
    queues={"normal": Queue(), "urgent": Queue()},
    network=NetworkSettings(allow=(Jobs(), HostPorts("tcp", 1, 65535), HostPorts("udp", 1, 65535))),
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
PARTS = st.from_regex(r"[a-z0-9 é_-]{1,8}", fullmatch=True)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
BIND_PATHS = PATHS.map(lambda path: "/mnt" + path)
VARIABLES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True).filter(lambda v: not v.startswith("BATCHNS_"))
SECONDS = st.integers(1, 10**9).map(lambda milliseconds: float(Fraction(milliseconds, 1000)))
CPUSETS = st.sets(st.integers(0, 200), min_size=1, max_size=6).map(lambda cpus: tuple(sorted(cpus)))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


RESOURCES = st.builds(
    Resources,
    cpus=maybe(st.integers(1, 999).map(lambda n: n / 1000) | st.integers(1, 64).map(float)),
    cpuset=maybe(CPUSETS),
    cpu_shares=maybe(st.integers(2, 262144)),
    memory=maybe(st.integers(1 << 20, 1 << 50)),
    blkio_weight=maybe(st.integers(10, 1000)),
    pids=maybe(st.integers(1, 1 << 22)),
    scratch=maybe(st.integers(4096, 1 << 50)),
    named=st.dictionaries(st.just("gpus"), st.integers(0, 8)),
    strict=maybe(st.booleans()),
).map(lambda asked: evolve(asked, cpus=float(len(asked.cpuset))) if asked.cpuset and (asked.cpus or 0) >= 1 else asked)
RATES = maybe(st.integers(8000, 10**12))
ASKED = (
    Jobs(),
    HostPorts("tcp", 80, 80),
    HostPorts("udp", 53, 99),
    IPv4Network("10.1.0.0/16"),
    IPv6Network("fd00::/8"),
)
TARGETS = st.lists(st.sampled_from(ASKED), max_size=3).map(tuple)
NETWORKS = st.just(Network(mode=NetworkMode.NONE)) | st.builds(
    Network, mode=st.just(NetworkMode.PRIVATE), egress=RATES, ingress=RATES, allow=TARGETS
)
ISOLATIONS = st.builds(
    Isolation,
    binds=st.lists(st.builds(Bind, PATHS, BIND_PATHS, st.booleans()), max_size=3).map(tuple),
    identity=maybe(st.sampled_from(Identity)),
)
ARRAYS = st.builds(
    Array,
    st.sets(st.integers(0, 999_999), min_size=1, max_size=10).map(lambda indices: tuple(sorted(indices))),
    maybe(st.integers(1, 1000)),
)
EDGES = st.just(Dependency(Condition.SINGLETON, "")) | st.builds(
    Dependency, st.sampled_from(sorted(set(Condition) - {Condition.SINGLETON}, key=str)), NAMES
)
MOMENTS = st.integers(32_000_000_000, 7_000_000_000_000).map(lambda ms: float(Fraction(ms, 1000)))
WARNINGS = st.builds(WarnSignal, st.sampled_from(sorted({*valid_signals(), SIGRTMAX} - UNSTOPPABLE)).map(int), SECONDS)


def consistent(job: JobSpec) -> JobSpec:
    """The job without what its other keys rule out."""
    if not job.max_retries:
        job = evolve(job, retry_delay=0.0, retry_memory=1.0)
    if job.array is None:
        job = evolve(job, dependency=tuple(e for e in job.dependency if e.condition is not Condition.AFTERCORR))
    if job.begin is not None:  # one moment, or one duration
        job = evolve(job, begin_after=None)
    if job.deadline is not None:
        job = evolve(job, deadline_after=None)
    if (job.begin or 0) >= (job.deadline or 10**18) or (job.begin_after or 0) >= (job.deadline_after or 10**18):
        job = evolve(job, deadline=None, deadline_after=None)
    if job.warn is not None and job.warn.before >= (job.time_limit or 0):
        job = evolve(job, time_limit=float(int(job.warn.before) + 1))
    return job


JOBS = st.builds(
    JobSpec,
    name=NAMES,
    command=st.builds(
        lambda program, arguments: (program, *arguments),
        PATHS,
        st.lists(TEXT, max_size=3),
    ),
    cwd=PATHS,
    env=st.dictionaries(VARIABLES, TEXT, max_size=3),
    queue=st.sampled_from(["normal", "urgent"]),
    priority=st.integers(0, 100),
    time_limit=maybe(SECONDS),
    array=maybe(ARRAYS),
    dependency=st.lists(EDGES, max_size=3, unique=True).map(tuple),
    max_retries=st.integers(0, 100),
    retry_delay=st.just(0.0) | SECONDS,
    retry_memory=st.integers(100, 1600).map(lambda percent: percent / 100),
    begin=maybe(MOMENTS),
    begin_after=maybe(SECONDS),
    deadline=maybe(MOMENTS),
    deadline_after=maybe(SECONDS),
    hold=st.booleans(),
    warn=maybe(WARNINGS),
    stdout=maybe(PATHS.map(lambda path: path + "/%x-%j_%A.%a.%r%%")),
    stderr=maybe(PATHS),
    notify=maybe(st.lists(st.sampled_from(Notice), unique=True).map(tuple)),
    resources=RESOURCES,
    network=NETWORKS,
    isolation=ISOLATIONS,
    preempt=st.builds(Preempt, mode=maybe(st.sampled_from(PreemptMode)), grace_time=maybe(SECONDS)),
).map(consistent) | st.builds(JobSpec, name=NAMES, script=TEXT.map(lambda text: f"#!/bin/sh\n{text}"), cwd=PATHS)


def to_table(job: JobSpec) -> dict[str, Any]:
    """The job as its file would have it; what is None is left away."""

    def given(**values: Any) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value is not None}

    def written(value: float | int | None, unit: str, scale: int = 1) -> str | None:
        return None if value is None else f"{round(value * scale)}{unit}"

    def when(moment: float | None, after: float | None) -> str | None:
        if moment is None:
            return after and f"+{written(after, 'ms', 1000)}"
        zone = timezone(timedelta(minutes=30 * (round(moment) % 29 - 14)))  # any offset is the same moment
        return (
            (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=round(moment * 1000))).astimezone(zone).isoformat()
        )

    def named(edge: Dependency) -> str:
        return f"{edge.condition.value}:{edge.name}".removesuffix(":")

    asked = job.resources
    array = job.array and ",".join(map(str, job.array.indices)) + (
        f"%{job.array.throttle}" if job.array.throttle else ""
    )
    return given(
        name=job.name,
        command=None if job.command is None else list(job.command),
        script=job.script,
        cwd=job.cwd,
        env=dict(job.env),
        queue=job.queue,
        priority=job.priority,
        time_limit=written(job.time_limit, "ms", 1000),
        array=array,
        dependency=[named(edge) for edge in job.dependency],
        max_retries=job.max_retries,
        retry_delay=written(job.retry_delay, "ms", 1000),
        retry_memory=job.retry_memory,
        begin=when(job.begin, job.begin_after),
        deadline=when(job.deadline, job.deadline_after),
        hold=job.hold,
        warn_signal=job.warn and f"{signal_name(job.warn.signal)}@{written(job.warn.before, 'ms', 1000)}",
        stdout=job.stdout,
        stderr=job.stderr,
        notify=None if job.notify is None else [notice.value for notice in job.notify],
        resources=given(
            cpus=asked.cpus,
            cpuset=asked.cpuset and cpu_list(asked.cpuset),
            cpu_shares=asked.cpu_shares,
            memory=written(asked.memory, "B"),
            blkio_weight=asked.blkio_weight,
            pids=asked.pids,
            scratch=written(asked.scratch, "B"),
            strict=asked.strict,
            **asked.named,
        ),
        network=given(
            mode=job.network.mode.value,
            egress=written(job.network.egress, "bit"),
            ingress=written(job.network.ingress, "bit"),
            allow=[format_target(target) for target in job.network.allow] or None,
        ),
        isolation=given(
            binds=[f"{bind.source}:{bind.target}{':ro' if bind.read_only else ''}" for bind in job.isolation.binds],
            identity=job.isolation.identity and job.isolation.identity.value,
        ),
        preempt=given(
            mode=job.preempt.mode and job.preempt.mode.value, grace_time=written(job.preempt.grace_time, "ms", 1000)
        ),
    )
