"""The machine's side of the jobs' network: firewall rules and forwarding, shared by every batchns that runs.

1. Whoever runs jobs holds the firewall. The first hold installs it, the last one to leave removes it.
2. A hold is a locked file, so a process that is killed lets go of it; the next hold or leave tidies up after it.
3. What is changed on the host is written down in the run folder before it is changed, and changed back from there.

All holders on one machine (one network namespace) must share the run folder. Everything here blocks, for as long as
nft takes (10 to 30 ms): before the first job and after the last. docs/network.md has the rules and the reasons.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batchns.errors import HostError
from batchns.kernel.network import ipv6, rules
from batchns.kernel.network.addresses import PREFIX, check_pool, check_pool6, network, parse_routes
from batchns.kernel.network.types import Grant, Hold

# Not the caller's PATH: this runs as root.
_PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_CONF = Path("/proc/sys/net/ipv4/conf")
_GLOBAL_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_ROUTES = Path("/proc/self/net/route")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,15}")  # a name that needs no quoting anywhere
_LEAST_GROUP = 1 << 30  # device groups from here on, far from those that an administrator numbers by hand
_LOCK_SECONDS = 20.0
_NFT_SECONDS = 20.0


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
    ) -> None:
        """`nat`: jobs with addresses from `pool` reach the outside through the host's address, else they reach nothing.

        `pool6`: the same for IPv6, as far as the host has a way out. `outside`: what they reach there. `resolvers`:
        name servers that they may ask, wherever those are. `grants`: what some of them reach besides.

        Raises:
            HostError: the pool is none.
        """
        network(pool)
        self._folder = Path(run_folder) / "firewall"
        self._opened = self._folder / "forwarding.json"
        self._forwarding6 = ipv6.Forwarding(self._folder / "forwarding6.json")
        self._wanted = Hold(pool, nat, pool6, tuple(outside), tuple(resolvers))
        self._asked = tuple(grants)
        self._held: tuple[Path, int] | None = None

    @property
    def pool6(self) -> str:
        """The IPv6 pool, "" where this machine has no use for one. Not before the firewall is held."""
        return self._wanted.pool6 if self._held else ""

    @property
    def groups(self) -> dict[Grant, int]:
        """The device group of each grant. Known once the firewall is held."""
        return {grant: group for group, grant in self._wanted.grants}

    def __enter__(self) -> Self:
        self.hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def hold(self) -> None:
        """Install what is needed for this holder beside the others. Holding twice is holding once.

        Raises:
            HostError: not root, no nft, the kernel refuses the rules, or the pool is taken; nothing has changed.
        """
        if self._held:
            return
        with self._locked():
            check_pool(self._wanted.pool, parse_routes(_ROUTES.read_text()))
            others = self._live()
            self._wanted = self._settle(others)
            _check_compatible(self._wanted, others)
            self._held = self._take()
            try:
                self._apply([*others, self._wanted])
            except BaseException:
                self._drop()
                self._apply(others)
                raise

    def leave(self) -> None:
        """Let go; the last holder removes the rules and gives back forwarding. Leaving twice is leaving once.

        Raises:
            HostError: nft fails; forwarding has been given back by then.
        """
        if not self._held:
            return
        with self._locked():
            self._drop()
            self._apply(self._live())

    def _settle(self, others: list[Hold]) -> Hold:
        """What is wanted, as far as this machine has it, with device groups that nobody else uses.

        Raises:
            HostError: the IPv6 pool is taken.
        """
        pool6 = self._wanted.pool6 if self._wanted.nat and ipv6.way_out() else ""
        if pool6:
            check_pool6(pool6, ipv6.routes())
        taken = {group for hold in others for group, _ in hold.grants}
        groups: list[int] = []
        while len(groups) < len(self._asked):
            # Never one that a run which has just been killed may have had: its jobs may be dying still.
            group = _LEAST_GROUP + secrets.randbelow(_LEAST_GROUP)
            if group not in taken:
                taken.add(group)
                groups.append(group)
        return self._wanted._replace(pool6=pool6, grants=tuple(zip(groups, self._asked, strict=True)))

    # The holders: one file each, locked for as long as its process holds it.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all batchns of this machine, waiting at most `_LOCK_SECONDS`."""
        path = self._folder / "lock"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError as error:
            raise HostError(f"{error.filename}: permission denied", "run batchns as root") from error
        try:
            end = time.monotonic() + _LOCK_SECONDS
            while not _try_lock(descriptor):
                if time.monotonic() > end:
                    raise HostError(
                        f"{path}: locked for more than {_LOCK_SECONDS:.0f} s by another batchns",
                        f"see which process it is with: fuser {path}",
                    )
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def _take(self) -> tuple[Path, int]:
        descriptor, name = tempfile.mkstemp(prefix="holder-", dir=self._folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, json.dumps(self._wanted._asdict()).encode())
        return Path(name), descriptor

    def _drop(self) -> None:
        if self._held:
            path, descriptor = self._held
            self._held = None
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _live(self) -> list[Hold]:
        """The holders that are alive; what dead ones left is removed."""
        live = []
        for path in sorted(self._folder.glob("holder-*")):
            with path.open("rb") as file:
                if _try_lock(file.fileno()):
                    path.unlink()
                else:
                    live.append(_decode(json.load(file)))
        return live

    # The host: rules and forwarding, as the holders need them.

    def _apply(self, holds: list[Hold]) -> None:
        """Make rules and forwarding what `holds` need. Rules come before forwarding, and go after it."""
        if any(hold.nat for hold in holds):
            opened = {**_closed_uplinks(), **self._read_opened()}
            six = any(hold.pool6 for hold in holds)
            self._write_opened(opened)
            _load(rules.render(holds, opened, closed6=six and self._forwarding6.ours))
            for name in opened:
                _set_forwarding(name, "1")
            if six:
                self._forwarding6.switch_on()
            else:
                self._forwarding6.switch_off()
            return
        self._forwarding6.switch_off()
        for name, before in self._read_opened().items():
            # Someone has switched forwarding on for the whole machine meanwhile: it is theirs now.
            if _GLOBAL_FORWARDING.read_text().strip() == before:
                _set_forwarding(name, "0")
        self._opened.unlink(missing_ok=True)
        _load(rules.render(holds, ()) if holds else rules.REMOVE)

    def _read_opened(self) -> dict[str, str]:
        """The interfaces that forward because of batchns, with the global switch ("0", "1") as it was then."""
        try:
            return dict(json.loads(self._opened.read_text()))
        except FileNotFoundError:
            return {}

    def _write_opened(self, opened: dict[str, str]) -> None:
        fresh = self._opened.with_suffix(".new")
        fresh.write_text(json.dumps(opened))
        fresh.replace(self._opened)


def problems() -> list[str]:
    """What keeps jobs in mode "private" from reaching the outside here, each "what - what to type". For doctor."""
    try:
        listed = json.loads(_nft("-j", "list", "chains"))
    except HostError as error:
        return [str(error)]
    found = []
    for entry in listed["nftables"]:
        chain = entry.get("chain", {})
        if chain.get("hook") != "forward" or chain.get("policy") != "drop" or chain["family"] not in ("ip", "inet"):
            continue
        # Rules about the jobs' interfaces in that table: the administrator has seen to it.
        if f'"{PREFIX}*"' not in _nft("list", "table", chain["family"], chain["table"]):
            found.append(_forward_drop(f"{chain['family']} {chain['table']}", chain["name"]))
    return found


def _forward_drop(table: str, chain: str) -> str:
    """A foreign chain that drops what it does not know, as Docker's does, and how to let the jobs pass."""
    what = f"the firewall chain '{table} {chain}' drops forwarded packets, those of jobs too"
    if (table, chain) == ("ip filter", "FORWARD"):
        commands = (
            f"iptables -I FORWARD -i {PREFIX}+ -j ACCEPT",
            f"iptables -I FORWARD -o {PREFIX}+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        )
    else:
        commands = (
            f"nft insert rule {table} {chain} iifname '\"{PREFIX}*\"' accept",
            f"nft insert rule {table} {chain} oifname '\"{PREFIX}*\"' ct state established,related accept",
        )
    return f"{what} - {'; '.join(commands)}"


def _decode(raw: dict[str, Any]) -> Hold:
    """The hold that JSON has made lists of. Of another version's, what is known here."""
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in raw.items() if name in Hold._fields
    }
    grants = tuple(
        (group, Grant(user, jobs, tuple((name, first, last) for name, first, last in ports), tuple(ranges)))
        for group, (user, jobs, ports, ranges) in known.pop("grants", ())
    )
    return Hold(**known, grants=grants)


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
        if not name.startswith(PREFIX)
        and _PLAIN_NAME.fullmatch(name)
        and (_CONF / name / "forwarding").read_text().strip() == "0"
    }


def _set_forwarding(name: str, value: str) -> None:
    with suppress(FileNotFoundError):  # the interface has gone
        (_CONF / name / "forwarding").write_text(value)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _load(script: str) -> None:
    """Run a script of nft commands as one transaction.

    Raises:
        HostError: as `_nft`.
    """
    _nft("-f", "-", script=script)


def _nft(*arguments: str, script: str = "") -> str:
    """What nft prints.

    Raises:
        HostError: there is no nft, it refuses, or it does not come to an end.
    """
    program = shutil.which("nft", path=_PROGRAMS)
    if program is None:
        raise HostError(
            'the program nft is not installed; jobs with network.mode = "private" need it', "apt-get install nftables"
        )
    try:
        done = subprocess.run(
            [program, *arguments],
            input=script,
            capture_output=True,
            text=True,
            env={"LC_ALL": "C"},
            timeout=_NFT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"nft: no answer within {_NFT_SECONDS:.0f} s", "see what holds it up: ps -C nft") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise HostError(
            f"nft: {said[0]}", "batchns must run as root, on a kernel with nf_tables, conntrack, NAT and fib"
        )
    return done.stdout
