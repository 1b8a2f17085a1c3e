"""One attempt of one job on its way from a placement to a launch plan.

What is acquired on the way (slot, open files) is on the attempt, and given back by whoever ends it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio
from attrs import asdict, define, field

from batchns.core.job import Job
from batchns.core.placement import Placement
from batchns.errors import HostError, UserError, host_error
from batchns.kernel.cgroups.interface import CgroupPlan, Driver, Limits
from batchns.launch import build
from batchns.launch.build import Slot
from batchns.launch.client import Started
from batchns.launch.plan import Plan, Version
from batchns.model.config import Config
from batchns.model.job import ScratchOn
from batchns.model.result import LimitReading
from batchns.supervise import networks, own, scratch, scratch_file
from batchns.supervise.confinement import Confined, confinement, confinement_readings
from batchns.supervise.devices import Granted, Units, granted
from batchns.supervise.images import Images
from batchns.supervise.limits import limits_of, missing, network_readings, overlay_readings, scratch_readings
from batchns.supervise.networks import Networks
from batchns.supervise.outputs import Outputs, close_all
from batchns.supervise.owner import OneOwner, Ownership
from batchns.supervise.ports import Runs
from batchns.units import quote


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
    confined: Confined = ()
    disk: str = ""  # path of the file that has its scratch, from before it is made
    sent: bool = False  # the launcher was, or may have been, asked for it by this process
    asked: bool = False  # an earlier process has, or may have, asked the launcher for it
    image: Version | None = None  # of its rootfs, once its digest has been checked
    files: tuple[str | None, str | None] = (None, None)  # of stdout and stderr, once they are open
    started: Started | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope)  # around whatever waits for the launcher
    checked: trio.Event = field(factory=trio.Event)  # its image has been; at once where nothing insists on one
    launched: trio.Event = field(factory=trio.Event)  # the command runs, or never will
    over: trio.Event = field(factory=trio.Event)
    turn: trio.Lock = field(factory=trio.Lock)  # whatever is done to its frozen cgroup is done one after the other
    dying: bool = False  # its cgroup is being killed at this moment
    moving: bool = False  # its CPUs are others than those that the kernel has for it: they are due before it runs
    squeezed: bool = False  # its memory is bounded to what it held: its own limit is due before it runs


def started_data(attempt: Attempt, limits: Mapping[str, LimitReading]) -> dict[str, Any]:
    """What a journal keeps of the attempt's start."""
    stdout, stderr = attempt.files
    return {
        "attempt": attempt.name,
        "pid": None if attempt.started is None else attempt.started.pid,
        "slot": None if attempt.slot is None else attempt.slot.number,
        "stdout": stdout,
        "stderr": stderr,
        "limits": {name: asdict(reading, recurse=False) for name, reading in limits.items()},
    }


@define(kw_only=True, eq=False)
class Preparer:
    """What every attempt's preparation needs. `attached`: stdin, stdout, stderr of all jobs instead of files."""

    config: Config
    driver: Driver
    runs: Runs
    outputs: Outputs
    images: Images
    host_paths: frozenset[str]
    networks: Networks
    owners: Ownership = field(factory=OneOwner)
    filters: Mapping[str, str] = field(factory=dict)  # compiled, by the profile's name; none without any
    units: Mapping[str, Units] = field(factory=dict)  # named resources that have device nodes
    root: bool = True  # batchns has root's rights
    own: tuple[str, ...] = ()  # real paths of batchns's own folders
    attached: tuple[int, int, int] | None = None

    async def check_image(self, attempt: Attempt, job: Job) -> None:
        """See that the job's root is the image that it insists on. That may take as long as to read it.

        Raises:
            UserError: it is another one.
        """
        wanted = job.spec.isolation
        if wanted.rootfs is not None and wanted.rootfs_digest is not None:
            submitter = self.owners.submitter(job)
            attempt.image = await self.images.check(wanted.rootfs, wanted.rootfs_digest, submitter)
        attempt.checked.set()

    async def make_scratch(self, attempt: Attempt, job: Job) -> None:
        """See that the job has its scratch on disk, if that is where it is to be.

        Raises:
            HostError: it cannot be made.
        """
        if job.spec.resources.scratch_on is ScratchOn.DISK:
            attempt.disk = scratch.path_of(self.config, attempt.name)
            await self.images.blocking(partial(scratch_file.make, attempt.disk, job.bounds.scratch))
            if attempt.over.is_set():  # given up meanwhile
                scratch_file.remove(attempt.disk)

    def paths(self, job: Job) -> tuple[str | None, str | None]:
        """Where the attempt's stdout and stderr go; None when they are attached.

        Raises:
            UserError: the job's patterns are not known, or lead into a folder of batchns's own.
        """
        if self.attached:
            return None, None
        stdout, stderr = self.outputs.paths(self.owners.key(job), job)
        own.check_output("stdout", stdout, self.own)
        own.check_output("stderr", stderr, self.own)
        return stdout, stderr

    @asynccontextmanager
    async def descriptors(
        self, job: Job, attempt: str, stdout: str | None, stderr: str | None
    ) -> AsyncIterator[tuple[int, int, int]]:
        """stdin, stdout and stderr for the launcher, of these `paths`; closed afterwards unless they are the caller's.

        Raises:
            UserError: an output file cannot be written, or must not be.
            HostError: there are no descriptors left.
        """
        if self.attached is not None:
            yield self.attached
            return
        try:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise host_error(error) from None
        opened = [null]
        try:
            opened += await self.outputs.open_all(
                self.owners.key(job),
                [("stdout", stdout or os.devnull), ("stderr", stderr or os.devnull)],
                self.owners.submitter(job),
                attempt=attempt,
            )
            yield null, opened[1], opened[2]
        finally:
            # In a thread that nobody waits for: a file system may want to answer a close, and may not.
            trio.lowlevel.start_thread_soon(partial(close_all, opened), _done)

    def plan(self, attempt: Attempt, job: Job) -> Plan:
        """The launch plan, after `network_ready`; the attempt has its slot and its cgroup plan from here on.

        Raises:
            UserError: the job insists on a limit that this host does not have, asks for what is not done here, or for
                a folder of batchns's own.
            HostError: no slot is left.
        """
        submitter = self.owners.submitter(job)
        attempt.devices = granted(self.units, attempt.placement)
        self._limit(attempt, job)
        unavailable = (*attempt.cgroup.unavailable, *self.networks.unavailable(job))
        refusal = missing(unavailable, root=self.root) if job.bounds.strict else ""
        if refusal:
            raise UserError(refusal, "leave the limit or strict away, or see batchns doctor")
        if attempt.slot is None:
            attempt.slot = self.runs.acquire_slot()
        attempt.confined = confinement(job.spec.isolation, self.config.isolation)
        network = self.networks.plan(attempt.name, job, attempt.slot, submitter)
        details = build.Attempt(
            name=attempt.name,
            job_id=job.id,
            spec=job.spec,
            submitter=submitter,
            root=self.root,
            images=self.config.isolation.images,
            landlock=self.config.isolation.landlock,
            confined=attempt.confined,
            image=attempt.image,
            slot=attempt.slot,
            cgroup=attempt.cgroup,
            network=network,
            nodes=attempt.devices.nodes,
            covers=self.networks.covers(job.spec.network, submitter),
            record=self.runs.record_path(attempt.name),
            scratch=job.bounds.scratch,
            usual_scratch=self.config.defaults.scratch,
            disk=attempt.disk,
            seccomp=self._filter(job),
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

    def _filter(self, job: Job) -> str:
        """Raises UserError: the profile was there when the job was submitted, and batchns.toml has it no longer."""
        if not self.filters:
            return ""
        name = job.spec.isolation.seccomp
        if name not in self.filters:
            raise UserError(
                f"isolation.seccomp = {quote(name)} is no profile of batchns.toml any more",
                f"choose from {', '.join(sorted(self.filters))}",
            )
        return self.filters[name]

    def _limit(self, attempt: Attempt, job: Job) -> None:
        attempt.limits = limits_of(job, attempt.placement, attempt.devices.rules)
        attempt.cgroup = self.driver.plan(attempt.name, attempt.limits)

    async def network_ready(self, job: Job) -> None:
        """See that the job can have its network.

        Raises:
            HostError: the firewall does not take what it may reach.
            UserError: its owner is no user any more.
        """
        await self.networks.ready_for(job.spec.network, self.owners.submitter(job).uid)

    def adopt(self, attempt: Attempt, job: Job) -> None:
        """An attempt that an earlier process launched is known here as if it had been planned here.

        What it has of devices that batchns.toml has no longer is not known.
        """
        with suppress(HostError):
            attempt.devices = granted(self.units, attempt.placement)
        with suppress(UserError):
            attempt.confined = confinement(job.spec.isolation, self.config.isolation)
        if job.spec.resources.scratch_on is ScratchOn.DISK:
            attempt.disk = scratch.path_of(self.config, attempt.name)  # gone, if an init has had it
        self._limit(attempt, job)
        with suppress(UserError, HostError):  # then nobody reaches it by its name
            if attempt.slot is not None:
                self.networks.plan(attempt.name, job, attempt.slot, self.owners.submitter(job))

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
            **confinement_readings(attempt.confined, started.confined),
        }

    def give_back(self, attempt: Attempt) -> None:
        """The attempt's slot is free for the next one."""
        if attempt.disk:
            with suppress(OSError):  # what is left is for the next start
                scratch_file.remove(attempt.disk)
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
