"""One attempt of one job on its way from a placement to a launch plan.

What is acquired on the way (slot, open files) is on the attempt, and given back by whoever ends it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import trio
from attrs import define, field, frozen

from batchns.core.job import Job
from batchns.core.placement import Placement
from batchns.errors import UserError
from batchns.kernel.cgroups.interface import CgroupPlan, Driver, Limits
from batchns.launch import build
from batchns.launch.build import Slot
from batchns.launch.client import Started
from batchns.launch.plan import Plan
from batchns.model.config import Config
from batchns.model.result import LimitReading
from batchns.model.submitter import ROOT, Submitter
from batchns.supervise import networks, own
from batchns.supervise.devices import Granted, Units, granted
from batchns.supervise.limits import limits_of, missing, network_readings, overlay_readings, scratch_readings
from batchns.supervise.networks import Networks
from batchns.supervise.outputs import Outputs, close_all
from batchns.supervise.ports import Runs


@define(eq=False)
class Attempt:
    """The supervisor's side of one attempt. Mutable: it collects what is acquired and learnt on the way."""

    job_id: str
    name: str
    placement: Placement
    ahead: str = ""  # the name of a later attempt
    slot: Slot | None = None
    limits: Limits = field(factory=Limits)
    devices: Granted = field(factory=Granted)
    cgroup: CgroupPlan = field(factory=CgroupPlan)
    files: tuple[str | None, str | None] = (None, None)  # of stdout and stderr, once they are open
    started: Started | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope)  # around whatever waits for the launcher
    launched: trio.Event = field(factory=trio.Event)  # the command runs, or never will
    over: trio.Event = field(factory=trio.Event)
    turn: trio.Lock = field(factory=trio.Lock)  # whatever is done to its frozen cgroup is done one after the other
    squeezed: bool = False  # its memory is bounded to what it held: its own limit is due before it runs


@frozen(kw_only=True)
class Preparer:
    """What every attempt's preparation needs. `attached`: stdin, stdout, stderr of all jobs instead of files."""

    config: Config
    driver: Driver
    runs: Runs
    outputs: Outputs
    host_paths: frozenset[str]
    networks: Networks
    submitter: Submitter = ROOT
    filters: Mapping[str, str] = field(factory=dict)  # compiled, by the profile's name; none without any
    units: Mapping[str, Units] = field(factory=dict)  # named resources that have device nodes
    root: bool = True  # batchns has root's rights
    own: tuple[str, ...] = ()  # real paths of batchns's own folders
    attached: tuple[int, int, int] | None = None

    def paths(self, job: Job) -> tuple[str | None, str | None]:
        """Where the attempt's stdout and stderr go; None when they are attached.

        Raises:
            UserError: the job's patterns are not known, or lead into a folder of batchns's own.
        """
        if self.attached:
            return None, None
        stdout, stderr = self.outputs.paths(job)
        own.check_output("stdout", stdout, self.own)
        own.check_output("stderr", stderr, self.own)
        return stdout, stderr

    @asynccontextmanager
    async def descriptors(self, stdout: str | None, stderr: str | None) -> AsyncIterator[tuple[int, int, int]]:
        """stdin, stdout and stderr for the launcher, of these `paths`; closed afterwards unless they are the caller's.

        Raises:
            UserError: an output file cannot be written, or must not be.
        """
        if self.attached is not None:
            yield self.attached
            return
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        opened = [null]
        try:
            opened += await self.outputs.open_all([("stdout", stdout or os.devnull), ("stderr", stderr or os.devnull)])
            yield null, opened[1], opened[2]
        finally:
            # In a thread that nobody waits for: a file system may want to answer a close, and may not.
            trio.lowlevel.start_thread_soon(partial(close_all, opened), _done)

    def plan(self, attempt: Attempt, job: Job) -> Plan:
        """The launch plan; the attempt has its slot and its cgroup plan from here on.

        Raises:
            UserError: the job insists on a limit that this host does not have, asks for what is not done here, or for
                a folder of batchns's own.
            HostError: no slot is left.
        """
        attempt.devices = granted(self.units, attempt.placement)
        attempt.limits = limits_of(job, attempt.placement, attempt.devices.rules)
        attempt.cgroup = self.driver.plan(attempt.name, attempt.limits)
        unavailable = (*attempt.cgroup.unavailable, *self.networks.unavailable(job))
        refusal = missing(unavailable, root=self.root) if job.bounds.strict else ""
        if refusal:
            raise UserError(refusal, "leave the limit or strict away, or see batchns doctor")
        attempt.slot = self.runs.acquire_slot()
        network = self.networks.plan(attempt.name, job, attempt.slot)
        details = build.Attempt(
            name=attempt.name,
            job_id=job.id,
            spec=job.spec,
            submitter=self.submitter,
            root=self.root,
            images=self.config.isolation.images,
            slot=attempt.slot,
            cgroup=attempt.cgroup,
            network=network,
            nodes=attempt.devices.nodes,
            covers=self.networks.covers(job.spec.network),
            record=self.runs.record_path(attempt.name),
            scratch=job.bounds.scratch,
            usual_scratch=self.config.defaults.scratch,
            seccomp=self.filters[job.spec.isolation.seccomp] if self.filters else "",
            ahead=attempt.ahead,
            variables={
                **attempt.devices.variables,
                **variables(job, attempt.placement),
                **networks.variables(network),
            },
        )
        plan = build.build(details, host_paths=self.host_paths)
        own.check_binds(plan, self.own)
        return plan

    def plan_in_another_slot(self, attempt: Attempt, job: Job) -> Plan:
        """As `plan`, for an attempt that has a slot which it cannot use at this moment."""
        unusable, attempt.slot = attempt.slot, None
        try:
            return self.plan(attempt, job)
        finally:
            if unusable is not None:
                self.runs.release_slot(unusable)

    def readings(self, attempt: Attempt, job: Job, started: Started) -> dict[str, LimitReading]:
        """Every limit of the attempt as the kernel holds it."""
        return {
            **attempt.devices.readings,
            **self.driver.readings(attempt.limits, attempt.cgroup, started.cgroup_values),
            **network_readings(job, started.shapers, self.networks, unshaped=started.unshaped),
            **scratch_readings(job, started.pid),
            **overlay_readings(job, started.pid),
        }

    def give_back(self, attempt: Attempt) -> None:
        """The attempt's slot is free for the next one."""
        self.networks.over(attempt.name)
        if attempt.slot is not None:
            self.runs.release_slot(attempt.slot)
            attempt.slot = None


def _done(outcome: object) -> None:
    pass


def variables(job: Job, placement: Placement) -> Mapping[str, str]:
    """batchns's own environment variables for the job."""
    array = {"BATCHNS_ARRAY_JOB_ID": job.array_id, "BATCHNS_ARRAY_TASK_ID": str(job.index)}
    return {
        "BATCHNS_JOB_ID": job.id,
        "BATCHNS_JOB_NAME": job.spec.name,
        "BATCHNS_ATTEMPT": str(job.attempt),
        "BATCHNS_CPUS": f"{job.demand.cpus:g}",
        "BATCHNS_CPU_LIST": ",".join(map(str, placement.cpus)),
        "BATCHNS_MEMORY_BYTES": str(job.demand.memory),
        **(array if job.index is not None else {}),
    }
