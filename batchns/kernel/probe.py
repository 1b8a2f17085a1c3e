"""What this machine offers to jobs, as facts: what was found, what it means, what to type.

1. What can be tried is tried (`batchns.kernel.trial`); only what cannot be is looked up.
2. A fact that is not `ok` says what jobs lose by it and how to get it.
3. Roots, folders and the user are arguments, so that tests and another root can be given.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence

from batchns.kernel import landlock, lsm, syscalls, trial
from batchns.kernel.facts import Fact, Place, Status, tried
from batchns.kernel.network.nft import problems
from batchns.kernel.probe_cgroups import block_weights, cgroups, device_rules, swap_accounting
from batchns.kernel.probe_network import a_users_network, name_servers, rates_in_the_hosts_network, way_out_by_ipv6


def probe(place: Place) -> list[Fact]:
    """Every fact, in the order in which a job would need them. Takes a fraction of a second."""
    links = [*network(), *other_firewalls(place, problems), name_servers(place), way_out_by_ipv6()]
    links += [rates_in_the_hosts_network()] if place.root else []
    return [
        who(place),
        kernel(os.uname().release),
        *(cgroups(place) if place.root else map(for_a_user, cgroups(place))),
        *namespaces(),
        *id_maps(place),
        *(links if place.root else [a_users_network()]),
        tried(
            "seccomp",
            trial.attempt(trial.seccomp),
            "system calls of jobs cannot be filtered",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
        second_lock(landlock.version()),
        profiles(lsm.running(proc=str(place.proc), sys=str(place.sys))),
        device_rules(place),
        block_weights(place),
        swap_accounting(place),
        pressure(place),
        capabilities((place.proc / "self/status").read_text()),
        *folders(place),
    ]


def usable(facts: Sequence[Fact]) -> bool:
    """Jobs with default settings can run here."""
    return not any(fact.needed and fact.status is Status.MISSING for fact in facts)


def who(place: Place) -> Fact:
    if place.root:
        return Fact(name="user", status=Status.OK, found="root", needed=True)
    return Fact(
        name="user",
        status=Status.LIMITED,
        found=f"uid {place.uid}",
        meaning="jobs run with this user's rights and without what only root can give them, as named below",
        hint="sudo batchns run --user $USER FILE",
        needed=True,
    )


def for_a_user(fact: Fact) -> Fact:
    """A user's jobs run without cgroups, too."""
    if fact.name != "cgroups" or fact.status is Status.OK:
        return fact
    return Fact(
        name=fact.name,
        status=Status.LIMITED,
        found="none is delegated to you",
        meaning="jobs run without limits of CPU, memory, I/O and processes, and their results say so",
        hint="systemd-run --user --scope -p Delegate=yes batchns run FILE",
    )


def kernel(release: str) -> Fact:
    """From 5.12 (mount_setattr with id maps) jobs run; from 6.1 on, batchns is tested."""
    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in release.split("-")[0].split(".")[:2])
    if numbers >= (6, 1):
        return Fact(name="kernel", status=Status.OK, found=release, needed=True)
    if numbers >= (5, 12):
        meaning = "batchns is tested from 6.1 on; on v2, killing a job is slower before 5.14"
        return Fact(
            name="kernel", status=Status.LIMITED, found=release, meaning=meaning, hint="use 6.1 or later", needed=True
        )
    meaning = "no id-mapped mounts: a job that root starts could not use its folder"
    return Fact(
        name="kernel", status=Status.MISSING, found=release, meaning=meaning, hint="use 6.1 or later", needed=True
    )


_NAMESPACES = (
    ("mount", syscalls.CLONE_NEWNS),
    ("net", syscalls.CLONE_NEWNET),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("uts", syscalls.CLONE_NEWUTS),
    ("cgroup", syscalls.CLONE_NEWCGROUP),
)


def namespaces() -> Iterator[Fact]:
    """All seven, entered for real."""
    refused: list[str] = []
    worked: list[str] = []
    for name, flag in _NAMESPACES:
        outcome = trial.attempt(_entering(flag))
        (worked if outcome.ok else refused).append(name if outcome.ok else f"{name}: {outcome.text}")
    outcome = trial.attempt(trial.private_proc)
    (worked if outcome.ok else refused).append("pid" if outcome.ok else f"pid with its own /proc: {outcome.text}")
    yield Fact(
        name="namespaces",
        status=Status.MISSING if refused else Status.OK,
        found="; ".join(refused) or " ".join(worked),
        meaning="jobs cannot be separated from the machine and each other" if refused else "",
        hint="use a kernel with CONFIG_NAMESPACES; in a container, start it privileged" if refused else "",
        needed=True,
    )
    yield tried(
        "user namespace",
        trial.attempt(trial.user_namespace),
        "a job's root would be the machine's root, so no job is started",
        "sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1",
    )


def _entering(flag: int) -> Callable[[], str]:
    return lambda: trial.enter(flag)


def id_maps(place: Place) -> Iterator[Fact]:
    """Id-mapped mounts of a tmpfs and of the file system that `place.folder` is on."""
    if not place.root:
        yield Fact(
            name="id-mapped mounts",
            status=Status.LIMITED,
            found="for root only",
            meaning="jobs of an ordinary user run with that user's id and need none",
        )
        return
    meaning = "a job that root starts could not read and write its own folder"
    yield tried(
        "id maps on tmpfs",
        trial.attempt(trial.idmapped_tmpfs),
        "job folders on tmpfs cannot be used",
        "use Linux 6.3 or later",
        needed=False,
    )
    kind = _file_system(place)
    outcome = trial.attempt(lambda: trial.idmapped_folder(str(place.folder)))
    fact = tried(f"id maps on {kind}", outcome, meaning, "keep job files on ext4, xfs, btrfs or f2fs")
    yield fact


def _file_system(place: Place) -> str:
    device = place.folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in (place.proc / "self/mountinfo").read_text().splitlines():
        fields, _, after = line.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return after.split(" ")[0]
    return "this folder"


def network() -> Iterator[Fact]:
    """Links, shapers and firewall rules, each made in a network namespace that goes away again."""
    meaning = 'only jobs with network mode "none" can run'
    yield tried("veth", trial.attempt(trial.veth), meaning, "modprobe veth")
    yield tried(
        "shaper (tbf)",
        trial.attempt(trial.shaper),
        "egress and ingress have no effect",
        "modprobe sch_tbf",
        needed=False,
    )
    if shutil.which("nft") is None:
        yield Fact(
            name="nftables",
            status=Status.MISSING,
            found="no nft program",
            meaning=meaning,
            hint="apt-get install nftables",
            needed=True,
        )
        return
    yield tried("nftables", trial.attempt(trial.nftables), meaning, "modprobe -a nf_tables nft_chain_nat nft_masq")


def other_firewalls(place: Place, find: Callable[[], list[str]]) -> Iterator[Fact]:
    """Rules of others that would drop what jobs send. `find` names them; only root may look."""
    if not place.root or shutil.which("nft") is None:
        return
    for problem in find():
        found, _, hint = problem.partition(" - ")
        yield Fact(
            name="firewalls",
            status=Status.LIMITED,
            found=found,
            meaning='jobs with network mode "private" do not reach the outside',
            hint=hint,
        )


def second_lock(version: int) -> Fact:
    """Of Landlock's version, 0 for none."""
    if version >= landlock.LEAST:
        return Fact(name="Landlock", status=Status.OK, found=f"version {version}")
    return Fact(
        name="Landlock",
        status=Status.LIMITED,
        found=f"version {version}" if version else "none",
        meaning="what a job may write is said by its mounts alone, not a second time",
        hint="Linux 5.19 or later with CONFIG_SECURITY_LANDLOCK, and landlock among those of lsm= at boot",
    )


def profiles(running: frozenset[str]) -> Fact:
    """Of AppArmor and SELinux, as of `lsm.running`."""
    if running:
        return Fact(name="profiles", status=Status.OK, found=" ".join(sorted(running)))
    return Fact(
        name="profiles",
        status=Status.LIMITED,
        found="neither AppArmor nor SELinux runs",
        meaning="isolation.apparmor and isolation.selinux_label are refused",
        hint="boot with apparmor or selinux among those of lsm=",
    )


def pressure(place: Place) -> Fact:
    path = place.proc / "pressure/memory"
    try:
        path.read_text()
    except OSError as error:  # ENOENT: not built in; EOPNOTSUPP: built in and switched off
        return Fact(
            name="pressure (PSI)",
            status=Status.LIMITED,
            found=os.strerror(error.errno or 0),
            meaning="it is not seen how long jobs stall for CPU, memory and I/O",
            hint="boot with psi=1",
        )
    return Fact(name="pressure (PSI)", status=Status.OK, found=str(path.parent))


_CAP_SYS_RESOURCE = 24  # include/uapi/linux/capability.h


def capabilities(status: str) -> Fact:
    """From the text of /proc/self/status: is there the capability to raise resource limits and the OOM score?"""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    if int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1:
        return Fact(name="CAP_SYS_RESOURCE", status=Status.OK, found="held")
    return Fact(
        name="CAP_SYS_RESOURCE",
        status=Status.LIMITED,
        found="not held",
        meaning="resource limits of jobs can be lowered only, which is all that jobs need",
    )


_LOW_SPACE = 1 << 30


def folders(place: Place) -> Iterator[Fact]:
    """The state and run folders: writable (or to be made), and with room."""
    for name, path in (("state folder", place.state), ("run folder", place.run)):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            hint = "run as root, or name another folder in batchns.toml"
            yield Fact(
                name=name,
                status=Status.MISSING,
                found=f"{there}: not writable",
                meaning="records of jobs cannot be kept",
                hint=hint,
                needed=True,
            )
            continue
        space = os.statvfs(there)
        free = space.f_bavail * space.f_frsize
        state = path if there == path else f"{path} (will be made)"
        if free < _LOW_SPACE and name == "state folder":
            yield Fact(
                name=name,
                status=Status.LIMITED,
                found=f"{state}: {free >> 20} MiB free",
                meaning="it may fill up",
                hint=f"make room on {there}",
            )
        else:
            yield Fact(name=name, status=Status.OK, found=str(state), needed=True)
