"""The machine's side of the jobs' network: firewall rules and forwarding, shared by every batchns that runs.

1. Whoever runs jobs holds the firewall. The first hold installs it, the last one to leave removes it.
2. A hold is a locked file, so a process that is killed lets go of it; the next hold or leave tidies up after it. One
   whose jobs outlive it keeps its hold meanwhile, and takes it again.
3. What is changed on the host is written down in the run folder before it is changed, and changed back from there.

All holders on one machine (one network namespace) must share the run folder. Everything here blocks, for as long as
nft takes (10 to 30 ms): before the first job and after the last, and where a job's `allow` is the first of its kind.
docs/network.md has the rules and the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Self

from batchns.errors import HostError
from batchns.kernel.network import groups, ipv6, nft, rules
from batchns.kernel.network.addresses import PREFIX, check_pool, check_pool6, network, parse_routes
from batchns.kernel.network.holders import Holders, Note
from batchns.kernel.network.types import Grant, Hold

_CONF = Path("/proc/sys/net/ipv4/conf")
_GLOBAL_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_ROUTES = Path("/proc/self/net/route")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,15}")  # a name that needs no quoting anywhere


class Firewall:
    """One holder's grip on the firewall. Also a context manager: `hold` on entering, `leave` on leaving."""

    def __init__(
        self,
        *,
        run_folder: str,
        pool: str,
        nat: bool,
        pool6: str = "",
        outside: Sequence[str] = Hold._field_defaults["outside"],
        resolvers: Sequence[str] = (),
        grants: Sequence[Grant] = (),
        kept: bool = False,
    ) -> None:
        """`nat`: jobs with addresses from `pool` reach the outside through the host's address, else they reach nothing.

        `pool6`: the same for IPv6, as far as the host has a way out. `outside`: what they reach there. `resolvers`:
        name servers that they may ask, wherever those are. `grants`: what some of them reach besides. `kept`: the hold
        outlives this process, until the next one takes it again, one leaves, or the machine boots.

        Raises:
            HostError: the pool is none.
        """
        network(pool)
        folder = Path(run_folder) / "firewall"
        self._opened = Note(folder / "forwarding.json")
        self._table = Note(folder / "table.json")
        self._forwarding6 = ipv6.Forwarding(folder / "forwarding6.json")
        self._wanted = Hold(pool, nat, pool6, tuple(outside), tuple(resolvers))
        self._asked = tuple(grants)
        self._groups: dict[Grant, int] = {}
        self._holders = Holders(folder, kept=kept)

    @property
    def held(self) -> bool:
        return self._holders.held

    @property
    def pool6(self) -> str:
        """The IPv6 pool, "" where this machine has no use for one. Not before the firewall is held."""
        return self._wanted.pool6 if self.held else ""

    @property
    def groups(self) -> Mapping[Grant, int]:
        """The device group of each grant that is in force."""
        return self._groups

    def __enter__(self) -> Self:
        self.hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def hold(self) -> None:
        """Install what is needed for this holder beside the others. Holding twice is holding once.

        What an earlier process has kept is taken over, with the groups of its grants. Where it had another pool, of
        which jobs are left, that stays in force for them.

        Raises:
            HostError: not root, no nft, the kernel refuses the rules, or the pool is taken; nothing has changed.
        """
        if self.held:
            return
        with self._holders.locked():
            check_pool(self._wanted.pool, parse_routes(_ROUTES.read_text()))
            self._holders.forget_aside(_has_jobs)
            earlier, others = self._holders.earlier(), self._holders.live()
            aside = earlier is not None and earlier.pool != self._wanted.pool and _has_jobs(earlier)
            before = [*others, *([earlier] if earlier else ())]
            beside = before if aside else others
            wanted = self._settle(None if aside else earlier, beside)
            _check_compatible(wanted, beside)
            if aside:
                self._holders.set_aside()
            self._holders.take(wanted)
            try:
                self._apply([*beside, wanted])
            except BaseException:
                if earlier is None:
                    self._holders.drop()
                else:
                    self._holders.take(earlier)
                    self._holders.let_go()
                self._apply(before)
                raise
            self._hold_this(wanted)

    def leave(self) -> None:
        """Let go; the last holder removes the rules and gives back forwarding. Leaving twice is leaving once.

        One that keeps lets go of what a process before it has kept, too, and of what one that was killed as it left
        has not got round to.

        Raises:
            HostError: nft fails; forwarding has been given back by then.
        """
        if not self.held and not self._holders.may_have_kept():
            return
        with self._holders.locked():
            self._holders.drop()
            self._holders.forget_aside(lambda hold: False)
            self._groups = {}
            self._apply(self._holders.live())

    def step_aside(self) -> None:
        """This process ends and its jobs do not: what is kept holds on for the next one."""
        self._holders.let_go()

    def grant(self, *grants: Grant) -> None:
        """What some jobs that come may reach; afterwards `groups` has them. Nothing but that is installed.

        Raises:
            HostError: as `hold`; nothing has changed.
        """
        with self._holders.locked():
            others = self._holders.live()
            fresh = [grant for grant in dict.fromkeys(grants) if grant not in self._groups]
            if fresh:
                self._change(groups.numbered(fresh, self._wanted.grants, _grants(others)), others)

    def revoke(self, *grants: Grant) -> None:
        """No job has these any more.

        Raises:
            HostError: as `grant`.
        """
        with self._holders.locked():
            left = tuple(entry for entry in self._wanted.grants if entry[1] not in grants)
            if left != self._wanted.grants:
                self._change(left, self._holders.live())

    def check(self) -> list[str]:
        """See that rules and forwarding are what they have to be, and put right what is not: what that was.

        Raises:
            HostError: as `hold`.
        """
        if not self.held:
            return []
        with self._holders.locked():
            lost = self._holders.lost()
            if lost:
                self._holders.take(self._wanted)
            holds = [*self._holders.live(), self._wanted]
            found = self._differences(holds)
            if found or lost or (any(hold.nat for hold in holds) and _closed_uplinks()):
                self._apply(holds)
            return found

    def _differences(self, holds: list[Hold]) -> list[str]:
        opened = self._read_opened() if any(hold.nat for hold in holds) else {}
        expected = rules.contents(rules.table(holds, opened, closed6=self._closed6(holds)))
        listed = rules.listed_contents(nft.listed(f"inet {rules.TABLE}"))
        found = []
        if not listed:
            found.append(f"the table inet {rules.TABLE} was removed: jobs had neither a way out nor guards")
        elif listed != expected:
            names = sorted(name for name in {*expected, *listed} if listed.get(name) != expected.get(name))
            found.append(f"the table inet {rules.TABLE} was changed: {', '.join(names)}")
        found += [f"forwarding was switched off on {name}" for name in opened if _forwarding(name) == "0"]
        if any(hold.pool6 for hold in holds) and not self._forwarding6.on:
            found.append("IPv6 forwarding was switched off")
        return found

    def _change(self, grants: tuple[tuple[int, Grant], ...], others: list[Hold]) -> None:
        """Make the grants of this hold these."""
        before, wanted = self._wanted, self._wanted._replace(grants=grants)
        self._holders.take(wanted)
        try:
            self._apply([*others, wanted], trust=True)
        except BaseException:
            self._holders.take(before)
            raise
        self._hold_this(wanted)

    def _hold_this(self, hold: Hold) -> None:
        self._wanted = hold
        self._groups = {grant: group for group, grant in hold.grants}

    def _settle(self, earlier: Hold | None, others: list[Hold]) -> Hold:
        """What is wanted, as far as this machine has it, with device groups that nobody else uses.

        Raises:
            HostError: the IPv6 pool is taken.
        """
        asked = self._wanted.pool6 if self._wanted.nat else ""
        if earlier and earlier.pool6 and asked == earlier.pool6:
            pool6 = asked  # jobs have addresses of it
        else:
            pool6 = asked if asked and ipv6.way_out() else ""
        if pool6:
            check_pool6(pool6, ipv6.routes())
        kept = earlier.grants if earlier else ()
        fresh = [grant for grant in dict.fromkeys(self._asked) if grant not in {grant for _, grant in kept}]
        return self._wanted._replace(pool6=pool6, grants=groups.numbered(fresh, kept, _grants(others)))

    # The host: rules and forwarding, as the holders need them.

    def _apply(self, holds: list[Hold], *, trust: bool = False) -> None:
        """Make rules and forwarding what `holds` need. Rules come before forwarding, and go after it.

        `trust`: the rules are as batchns has left them, or have to be seen to elsewhere.
        """
        if any(hold.nat for hold in holds):
            opened = {**_closed_uplinks(), **self._read_opened()}
            self._opened.write(opened)
            self._put(rules.table(holds, opened, closed6=self._closed6(holds)), trust=trust)
            for name in opened:
                _set_forwarding(name, "1")
            if any(hold.pool6 for hold in holds):
                self._forwarding6.switch_on()
            else:
                self._forwarding6.switch_off()
            return
        self._forwarding6.switch_off()
        for name, before in self._read_opened().items():
            # Someone has switched forwarding on for the whole machine meanwhile: it is theirs now.
            if _GLOBAL_FORWARDING.read_text().strip() == before:
                _set_forwarding(name, "0")
        self._opened.remove()
        if holds:
            self._put(rules.table(holds, ()), trust=trust)
        else:
            self._table.remove()
            nft.load(rules.REMOVE)

    def _put(self, wanted: rules.Table, *, trust: bool) -> None:
        """Make the table this: by what is different where it is known what it is, else anew."""
        version, *known = self._table.read() or (0,)
        self._table.remove()  # whoever is killed from here on leaves nobody in a wrong belief
        if version == rules.VERSION and (before := rules.Table(*known)):
            script = rules.difference(before, wanted)
            intact = trust or rules.listed_contents(nft.listed(f"inet {rules.TABLE}")) == rules.contents(before)
            if script is not None and intact and _loaded(script):
                self._table.write([rules.VERSION, *wanted])
                return
        nft.load(rules.render(wanted))
        self._table.write([rules.VERSION, *wanted])

    def _closed6(self, holds: list[Hold]) -> bool:
        return any(hold.nat and hold.pool6 for hold in holds) and self._forwarding6.ours

    def _read_opened(self) -> dict[str, str]:
        """The interfaces that forward because of batchns, with the global switch ("0", "1") as it was then."""
        return dict(self._opened.read() or {})


def _loaded(script: str) -> bool:
    """Whether nft has taken it: not where the table is not what it was taken for."""
    try:
        if script:
            nft.load(script)
    except HostError:
        return False
    return True


def _grants(holds: Iterable[Hold]) -> dict[int, Grant]:
    return dict(entry for hold in holds for entry in hold.grants)


def _has_jobs(hold: Hold) -> bool:
    """There are links of jobs with addresses of its pool."""
    pool = network(hold.pool)
    return any(
        route.interface.startswith(PREFIX) and IPv4Address(route.destination.partition("/")[0]) in pool
        for route in parse_routes(_ROUTES.read_text())
    )


def _check_compatible(wanted: Hold, others: list[Hold]) -> None:
    """Two holders share a pool, or have nothing of it in common.

    Raises:
        HostError: they overlap otherwise.
    """
    for other in others:
        same = (wanted.pool, wanted.nat, wanted.outside) == (other.pool, other.nat, other.outside)
        if not same and network(wanted.pool).overlaps(network(other.pool)):
            raise HostError(
                f"network.pool = {wanted.pool!r} with nat = {str(wanted.nat).lower()}: another batchns is running with "
                f"pool = {other.pool!r} and nat = {str(other.nat).lower()}",
                "write the same pool, nat and outside, or a pool of its own, under [network] in batchns.toml",
            )
        if not (wanted.pool6 and other.pool6) or (same and wanted.pool6 == other.pool6):
            continue
        if IPv6Network(wanted.pool6).overlaps(IPv6Network(other.pool6)):
            raise HostError(
                f"network.pool6 = {wanted.pool6!r}: another batchns is running with other settings and "
                f"pool6 = {other.pool6!r}",
                "write the same pool, pool6 and outside, or networks of its own, under [network] in batchns.toml",
            )


def _closed_uplinks() -> dict[str, str]:
    """The interfaces with a route that do not forward yet, each with the global switch as it is now."""
    switch = _GLOBAL_FORWARDING.read_text().strip()
    names = {route.interface for route in parse_routes(_ROUTES.read_text())}
    return {
        name: switch
        for name in names
        if not name.startswith(PREFIX) and _PLAIN_NAME.fullmatch(name) and _forwarding(name) == "0"
    }


def _forwarding(name: str) -> str:
    """ "0" or "1"; "" where the interface has gone."""
    try:
        return (_CONF / name / "forwarding").read_text().strip()
    except FileNotFoundError:
        return ""


def _set_forwarding(name: str, value: str) -> None:
    with suppress(FileNotFoundError):  # the interface has gone
        (_CONF / name / "forwarding").write_text(value)
