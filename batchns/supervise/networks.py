"""What the networks of one run's jobs have in common, and one job's share of it.

1. What jobs may reach is settled before the first one starts: a device group for each `allow` there is.
2. A job gets the files that make its network usable: name servers, and the names of the jobs that it may reach.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import define, field, frozen

from batchns.core.job import Job
from batchns.kernel.network import resolver
from batchns.kernel.network.addresses import job_address6, network_plan
from batchns.kernel.network.types import Grant, NetworkPlan
from batchns.launch.build import Slot
from batchns.model.config import NetworkSettings
from batchns.model.job import JobSpec, Network, NetworkMode
from batchns.model.reach import HostPorts, Jobs

HOSTS = "/etc/hosts"
NO_LINK = "an ordinary user has no link to shape"


def grant_of(wanted: Network, user: int) -> Grant | None:
    """What a job of `user` (a uid) may reach beside the rest; None: nothing, as for most jobs."""
    if not wanted.allow:
        return None
    ports = {(item.protocol, item.first, item.last) for item in wanted.allow if isinstance(item, HostPorts)}
    ranges = {str(item) for item in wanted.allow if not isinstance(item, Jobs | HostPorts)}
    return Grant(user, Jobs() in wanted.allow, tuple(sorted(ports)), tuple(sorted(ranges)))


def grants_of(specs: Iterable[JobSpec], user: int) -> tuple[Grant, ...]:
    """Every different one of a run."""
    found = (grant_of(spec.network, user) for spec in specs)
    return tuple(dict.fromkeys(grant for grant in found if grant is not None))


@define(eq=False)
class Names:
    """The hosts(5) file of the jobs that reach each other: whoever has one of them mounted sees the names change."""

    path: str
    _own: str = ""  # what the host's file says
    _lines: dict[str, str] = field(factory=dict)  # by attempt

    @classmethod
    def create(cls, path: str, own: Path = Path(HOSTS)) -> Names:
        try:
            text = own.read_text(errors="replace")
        except FileNotFoundError:
            text = "127.0.0.1 localhost\n::1 localhost\n"
        names = cls(path, text if text.endswith("\n") else text + "\n")
        names._write()
        return names

    def add(self, attempt: str, job: Job, plan: NetworkPlan) -> None:
        """From now on the job's name is its address: a task's is NAME-INDEX, and all tasks together have NAME."""
        name = job.spec.name if job.index is None else f"{job.spec.name}-{job.index} {job.spec.name}"
        addresses = filter(None, (plan.job_address, plan.job_address6))
        self._lines[attempt] = "".join(f"{address} {name}\n" for address in addresses)
        self._write()

    def remove(self, attempt: str) -> None:
        """The job is over."""
        if self._lines.pop(attempt, None) is not None:
            self._write()

    def _write(self) -> None:
        """In place, and never shorter than before: a reader sees the old text or the new one, and nothing cut off."""
        text = (self._own + "".join(self._lines.values())).encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(descriptor, 0o644)  # whatever the umask: jobs are other users
            os.pwrite(descriptor, text.ljust(os.fstat(descriptor).st_size, b"\n"), 0)
        finally:
            os.close(descriptor)


@frozen(kw_only=True)
class Networks:
    """`groups`: the device group of each grant; `pool6`: "" for no IPv6; `user`: whose jobs they are.

    `resolver` is the path of the jobs' resolv.conf ("" for the root's own). `connected`: jobs can have links; else each
    has its loopback only, whatever it asks for (`unconnected` says why), or what `pasta`, a program's path, lets
    through.
    `host_resolver`: the host's own resolv.conf, for jobs in its network.
    `unlimited`: why those have no rates here, "" where they have.
    """

    settings: NetworkSettings = field(factory=NetworkSettings)
    user: int = 0
    pool6: str = ""
    groups: Mapping[Grant, int] = field(factory=dict)
    resolver: str = ""
    names: Names | None = None
    connected: bool = True
    pasta: str = ""
    unconnected: str = ""
    host_resolver: str = ""
    unlimited: str = ""

    def unavailable(self, job: Job) -> tuple[tuple[str, str], ...]:
        """(limit, why) of the rates that a job cannot have here."""
        own = job.spec.network.mode is not NetworkMode.HOST
        why = self.unlimited if not own else "" if self.connected else NO_LINK
        if not why:
            return ()
        rates = (("egress", job.bounds.egress), ("ingress", job.bounds.ingress))
        return tuple((limit, why) for limit, rate in rates if rate is not None)

    def plan(self, attempt: str, job: Job, slot: Slot) -> NetworkPlan:
        """The job's network; its name is known from here on, where it asks for other jobs."""
        wanted = job.spec.network
        if not self.connected:
            out = self.pasta and wanted.mode is NetworkMode.PRIVATE
            return NetworkPlan("pasta", program=self.pasta) if out else NetworkPlan("none")
        grant = grant_of(wanted, self.user)
        plan = network_plan(
            wanted.mode.value,
            attempt,
            slot.address,
            wanted.egress,
            wanted.ingress,
            self.settings.mtu,
            strict=job.bounds.strict and (wanted.egress or wanted.ingress) is not None,
            address6=job_address6(self.pool6, slot.number),
            group=self.groups[grant] if grant else 0,
            serves=bool(grant and grant.ports),
        )
        if grant and grant.jobs and self.names:
            self.names.add(attempt, job, plan)
        return plan

    def covers(self, wanted: Network) -> tuple[tuple[str, str], ...]:
        """(file inside, file of the host that takes its place) for a job."""
        if wanted.mode is NetworkMode.HOST and self.host_resolver:
            return ((resolver.HOSTS_OWN, self.host_resolver),)
        if wanted.mode is not NetworkMode.PRIVATE or not (self.connected or self.pasta):
            return ()
        servers = ((resolver.HOSTS_OWN, self.resolver),) if self.resolver else ()
        names = ((HOSTS, self.names.path),) if self.names and Jobs() in wanted.allow else ()
        return (*servers, *names)

    def over(self, attempt: str) -> None:
        """The job's address may be another job's from now on."""
        if self.names:
            self.names.remove(attempt)


def variables(plan: NetworkPlan) -> dict[str, str]:
    """batchns's own environment variables about the network."""
    if not plan.job_address:
        return {}
    six = {"BATCHNS_ADDRESS6": plan.job_address6} if plan.job_address6 else {}
    return {"BATCHNS_ADDRESS": plan.job_address, "BATCHNS_GATEWAY": plan.gateway, **six}
