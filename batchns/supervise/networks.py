"""What jobs' networks have in common, and one job's share of it.

1. What a job may reach is settled before it starts: there is a device group for each `allow` of each user. A new one
   takes a moment, which only the first job that has it waits for.
2. A job gets the files that make its network usable: name servers, and the names of the jobs that it may reach.
3. Of what no job uses any more so much is kept, for the next one that does, as costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import trio
from attrs import define, field

from batchns.core.job import Job
from batchns.errors import HostError
from batchns.kernel.cgroups.interface import Driver, Limits
from batchns.kernel.network import police, resolver
from batchns.kernel.network.addresses import job_address6, network_plan
from batchns.kernel.network.firewall import Firewall
from batchns.kernel.network.resolver import Resolver
from batchns.kernel.network.types import Grant, NetworkPlan
from batchns.launch.build import Slot
from batchns.model.config import Config, NetworkSettings
from batchns.model.job import JobSpec, Network, NetworkMode
from batchns.model.reach import HostPorts, Jobs
from batchns.model.submitter import Submitter
from batchns.supervise.names import HOSTS, Names
from batchns.supervise.ports import Blocking, threads

NO_LINK = "an ordinary user has no link to shape"
MOST = 256  # grants; more only while they are used, or were lately
REST = 60.0  # seconds that a grant is kept for after its last job: a link may take a moment to vanish


class Reach(Protocol):
    """`kernel.network.firewall.Firewall`, whose documentation holds here."""

    @property
    def held(self) -> bool: ...

    @property
    def pool6(self) -> str: ...

    @property
    def groups(self) -> Mapping[Grant, int]: ...

    def hold(self) -> None: ...

    def leave(self) -> None: ...

    def grant(self, *grants: Grant) -> None: ...

    def revoke(self, *grants: Grant) -> None: ...

    def check(self) -> list[str]: ...

    def step_aside(self) -> None: ...


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


@define(kw_only=True, eq=False)
class Networks:
    """`firewall`: None where jobs have no links to guard; `names`: None where no job may reach another.

    `resolver`: the path of the jobs' resolv.conf ("" for the root's own), whose servers are those of `found`.
    `connected`: jobs can have links; else each has its loopback only, whatever it asks for (`unconnected` says why), or
    what `pasta`, a program's path, lets through. `host_resolver`: the host's own resolv.conf, for jobs in its network.
    `unlimited`: why those have no rates here, "" where they have. `clock`: seconds.
    """

    settings: NetworkSettings = field(factory=NetworkSettings)
    firewall: Reach | None = None
    names: Names | None = None
    resolver: str = ""
    found: Resolver | None = None
    connected: bool = True
    pasta: str = ""
    unconnected: str = ""
    host_resolver: str = ""
    unlimited: str = ""
    blocking: Blocking = field(factory=threads)
    clock: Callable[[], float] = time.monotonic
    _users: dict[str, tuple[int, Grant]] = field(init=False, factory=dict)  # by attempt: its user, what it was granted
    _last: dict[Grant, float] = field(init=False, factory=dict)  # when it was used last
    _since: float = field(init=False)
    _asked: dict[Grant, None] = field(init=False, factory=dict)
    _turn: trio.Lock = field(init=False, factory=trio.Lock)
    # All that jobs need is there. `firewall.held` is true a moment before that: its rules, and resolv.conf, come next.
    _held: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since = self.clock()
        self._held = self.firewall is not None and self.firewall.held

    async def ready_for(self, wanted: Network, uid: int) -> None:
        """See that a job of this user can have the network that it wants, to be called before its `plan`.

        Returns at once but for the first job that needs the firewall, and the first with a new `allow`.

        Raises:
            HostError: the firewall does not take it.
        """
        firewall = self.firewall
        if firewall is None or not self.connected or wanted.mode is not NetworkMode.PRIVATE:
            return
        grant = grant_of(wanted, uid)
        if not self._has(firewall, grant):
            if grant is not None:
                self._asked[grant] = None
            async with self._turn:
                while not self._has(firewall, grant):
                    await self._ask(firewall, grant)
        if grant is not None:
            self._last[grant] = self.clock()

    def _has(self, firewall: Reach, grant: Grant | None) -> bool:
        return self._held and (grant is None or grant in firewall.groups)

    async def _ask(self, firewall: Reach, grant: Grant | None) -> None:
        """For this one, and for what others wait for meanwhile."""
        asked = tuple({**self._asked, **({grant: None} if grant else {})})
        self._asked.clear()
        await self.blocking(partial(self._ready, firewall, asked, self._idle(firewall, len(asked))))
        for one in asked:
            self._last[one] = self.clock()

    async def hold(self, grants: Iterable[Grant] = ()) -> None:
        """Hold the firewall before any job needs it, with grants that will be needed.

        Raises:
            HostError: as `Firewall.hold`.
        """
        if self.firewall is not None:
            async with self._turn:
                await self.blocking(partial(self._ready, self.firewall, tuple(grants), ()))

    def _ready(self, firewall: Reach, asked: tuple[Grant, ...], idle: tuple[Grant, ...]) -> None:
        """In a thread."""
        if not self._held:
            firewall.hold()
            if self.resolver and self.found:
                text = resolver.text(self.found, ipv6=bool(firewall.pool6))
                resolver.write_in_place(self.resolver, text.encode())
            self._held = True
        if idle:
            firewall.revoke(*idle)
        if asked:
            firewall.grant(*asked)

    def _idle(self, firewall: Reach, more: int) -> tuple[Grant, ...]:
        """Grants to give back where there are too many with so many `more`: those without a job for some time."""
        if len(firewall.groups) + more <= MOST:
            return ()
        used = {grant for _, grant in self._users.values()}
        before = self.clock() - REST
        idle = tuple(
            grant for grant in firewall.groups if grant not in used and self._last.get(grant, self._since) < before
        )
        for grant in idle:
            self._last.pop(grant, None)
        return idle

    async def check(self) -> list[str]:
        """What of the firewall somebody has changed, and has been put right now.

        Raises:
            HostError: it cannot be.
        """
        if self.firewall is None or not self.firewall.held:
            return []
        async with self._turn:
            return await self.blocking(self.firewall.check)

    def leave(self) -> None:
        """No job has a network any more. Blocks.

        Raises:
            HostError: as `Firewall.leave`.
        """
        if self.firewall is not None:
            self.firewall.leave()

    def step_aside(self) -> None:
        """This process ends, its jobs do not."""
        if self.firewall is not None:
            self.firewall.step_aside()

    def unavailable(self, job: Job) -> tuple[tuple[str, str], ...]:
        """(limit, why) of the rates that a job cannot have here."""
        own = job.spec.network.mode is not NetworkMode.HOST
        why = self.unlimited if not own else "" if self.connected else NO_LINK
        if not why:
            return ()
        rates = (("egress", job.bounds.egress), ("ingress", job.bounds.ingress))
        return tuple((limit, why) for limit, rate in rates if rate is not None)

    def plan(self, attempt: str, job: Job, slot: Slot, submitter: Submitter) -> NetworkPlan:
        """The job's network; its name is known from here on, where it asks for other jobs.

        To be called once more for an attempt that this process has not launched and that runs.

        Raises:
            HostError: what it may reach is not in force: there was no `ready_for`.
        """
        wanted = job.spec.network
        if not self.connected:
            out = self.pasta and wanted.mode is NetworkMode.PRIVATE
            return NetworkPlan("pasta", program=self.pasta) if out else NetworkPlan("none")
        grant = grant_of(wanted, submitter.uid) if self.firewall and wanted.mode is NetworkMode.PRIVATE else None
        plan = network_plan(
            wanted.mode.value,
            attempt,
            slot.address,
            wanted.egress,
            wanted.ingress,
            self.settings.mtu,
            strict=job.bounds.strict and (wanted.egress or wanted.ingress) is not None,
            address6=job_address6(self.firewall.pool6 if self.firewall else "", slot.number),
            group=self._group(grant),
            serves=bool(grant and grant.ports),
        )
        if grant:
            self._users[attempt] = (submitter.uid, grant)
            if grant.jobs and self.names:
                self.names.add(submitter.uid, attempt, job, plan)
        return plan

    def _group(self, grant: Grant | None) -> int:
        if grant is None or self.firewall is None:
            return 0
        try:
            return self.firewall.groups[grant]
        except KeyError:
            raise HostError("what the job may reach has been given back meanwhile", "submit it again") from None

    def covers(self, wanted: Network, submitter: Submitter) -> tuple[tuple[str, str], ...]:
        """(file inside, file of the host that takes its place) for a job, once its network is planned."""
        if wanted.mode is NetworkMode.HOST and self.host_resolver:
            return ((resolver.HOSTS_OWN, self.host_resolver),)
        if wanted.mode is not NetworkMode.PRIVATE or not (self.connected or self.pasta):
            return ()
        servers = ((resolver.HOSTS_OWN, self.resolver),) if self.resolver else ()
        among = self.names and self.connected and Jobs() in wanted.allow
        names = ((HOSTS, self.names.path(submitter.uid)),) if self.names and among else ()
        return (*servers, *names)

    def over(self, attempt: str) -> None:
        """The job's address may be another job's from now on."""
        if attempt not in self._users:
            return
        uid, grant = self._users.pop(attempt)
        self._last[grant] = self.clock()
        if self.names:
            self.names.remove(uid, attempt)


class Places(Protocol):
    """Where the files of `supervise.runfolder.RunFolder` go."""

    @property
    def resolver_path(self) -> str: ...

    @property
    def host_resolver_path(self) -> str: ...

    @property
    def names_path(self) -> str: ...


def networks_of_root(
    config: Config, places: Places, driver: Driver, found: Resolver, *, kept: bool = False
) -> Networks:
    """What jobs' networks have in common where batchns is root. The firewall is not held yet.

    `found`: the name servers. `kept`: jobs outlive this process; files that they have mounted are written in place.

    Raises:
        HostError: the pool of addresses is none.
    """
    settings = config.network
    own = settings.host and resolver.copy(Path(places.host_resolver_path))
    return Networks(
        settings=settings,
        firewall=Firewall(
            run_folder=config.paths.run,
            pool=settings.pool,
            nat=settings.nat,
            pool6=settings.pool6,
            outside=[str(entry) for entry in settings.outside],
            resolvers=found.servers,
            kept=kept,
        ),
        names=Names(places.names_path),
        resolver=places.resolver_path,
        found=found,
        host_resolver=places.host_resolver_path if own else "",
        unlimited=_no_rates_in_the_hosts_network(driver) if settings.host else "",
    )


def _no_rates_in_the_hosts_network(driver: Driver) -> str:
    """Why a job there cannot be limited, "" where it can."""
    if not driver.plan("any", Limits()).into:
        return police.NO_TREE
    try:
        police.attempt()
    except OSError as error:
        return str(error.strerror)
    return ""


def variables(plan: NetworkPlan) -> dict[str, str]:
    """batchns's own environment variables about the network."""
    if not plan.job_address:
        return {}
    six = {"BATCHNS_ADDRESS6": plan.job_address6} if plan.job_address6 else {}
    return {"BATCHNS_ADDRESS": plan.job_address, "BATCHNS_GATEWAY": plan.gateway, **six}
