"""A job's place on a node without root: its folder, its network, and what is left to fill in of its launch plan."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from batchns.errors import UserError
from batchns.kernel.network.types import NetworkPlan
from batchns.launch.plan import Mount, Plan, from_wire
from batchns.supervise.batch.wanted import Wanted

LINK = "bns0"  # in a network that the administrator's prolog has made
FIRST = "BATCHNS_NODE_FIRST"  # the name of a job's first node, for all of them
RATES = "/run/batchns-slurm"  # what it has put on that link, by job id
_RESOLV = "/etc/resolv.conf"
_TUN = "/dev/net/tun"
_PASTA = ("/usr/bin/pasta", "/bin/pasta", "/usr/local/bin/pasta")
_MQUEUE = "/proc/sys/fs/mqueue"
_PASSED_ON = (
    "SLURMD_NODENAME",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "GPU_DEVICE_ORDINAL",
)


class Way(NamedTuple):
    """A job's network, and what of it is not to be had, by field."""

    plan: NetworkPlan
    prepared: bool = False
    resolver: str = ""
    lacks: Mapping[str, str] = {}


@contextmanager
def folder(uid: int, job_id: str) -> Iterator[str]:
    """A folder of this job's on this node; those of jobs that were killed go on the way."""
    above = usual = f"/tmp/batchns-{uid}"
    with suppress(FileExistsError):
        os.mkdir(usual, 0o700)
    found = os.lstat(usual)
    if found.st_uid != uid or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        import tempfile

        above = tempfile.mkdtemp(prefix=f"batchns-{uid}-", dir="/tmp")  # whoever made the other may not stop this job
    for name in os.listdir(above):
        if name.startswith("slurm-"):
            _sweep(f"{above}/{name}")
    own = f"{above}/slurm-{job_id}-{os.getpid()}"
    new = f"{above}/new-{job_id}-{os.getpid()}"
    os.mkdir(new, 0o700)
    lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(new, own)  # locked before anybody looks whether it is
        yield own
    finally:
        _remove(own)
        os.close(lock)
        if above != usual:
            _remove(above)


def _sweep(left: str) -> None:
    """Remove a folder whose process is gone."""
    with suppress(OSError):
        lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)
        finally:
            os.close(lock)


def _remove(left: str) -> None:
    with suppress(OSError):
        for name in os.listdir(left):
            os.unlink(f"{left}/{name}")
        os.rmdir(left)


def seccomp_filter(name: str, profiles: Mapping[str, str], above: str) -> str:
    """The path of the compiled profile; the usual one is compiled once for each version of batchns and machine."""
    from batchns import __version__

    usual = name == "default" and name not in profiles
    kept = f"{os.path.dirname(above)}/seccomp-{__version__}-{os.uname().machine}.bpf"
    if usual and os.path.exists(kept):
        return kept
    from batchns.supervise.filters import write_filters

    path = write_filters([name], profiles, above)[name]
    if usual:
        os.replace(path, kept)
    return kept if usual else path


def way(spec: Wanted, above: str) -> Way:
    """In which network the job is."""
    if spec.mode == "host":
        return Way(NetworkPlan("host"), lacks=dict.fromkeys(spec.rates, "no rate is held in the node's network"))
    if spec.mode == "none":
        return Way(NetworkPlan("none"))
    if any(name == LINK for _, name in socket.if_nameindex()):
        return Way(NetworkPlan("host"), prepared=True, resolver=_servers(above, ipv6=False))
    why = "an ordinary user has no link to shape, and the cluster has no plug-in for it"
    no_rates = dict.fromkeys(spec.rates, why)
    program = next((path for path in _PASTA if os.access(path, os.X_OK)), None)
    if program is None or not os.access(_TUN, os.R_OK | os.W_OK):
        missing = "pasta is not installed" if program is None else f"pasta needs {_TUN}, and you may not open it"
        return Way(NetworkPlan("none"), lacks={"network": f"loopback only: {missing} on this node", **no_rates})
    from batchns.kernel.network import ipv6
    from batchns.kernel.probe_network import way_out

    found = way_out()
    if not found.program:
        return Way(NetworkPlan("none"), lacks={"network": f"loopback only: {found.why}", **no_rates})
    servers = _servers(above, ipv6=bool(ipv6.way_out()))
    return Way(NetworkPlan("pasta", program=found.program), resolver=servers, lacks=no_rates)


def _servers(above: str, *, ipv6: bool) -> str:
    """A resolv.conf of those of the node's name servers that a network of the job's own reaches."""
    from batchns.kernel.network import resolver

    path = f"{above}/resolv.conf"
    with open(path, "w") as file:  # noqa: PTH123
        file.write(resolver.text(resolver.find(()), ipv6=ipv6))
    return path


def plan(
    spec: Wanted,
    content: Mapping[str, Any],
    job_id: str,
    attempt: int,
    found: Way,
    above: str,
    environ: Mapping[str, str],
) -> Plan:
    """The launch plan. In the node's network, or a prepared one, /sys is the host's: a user mounts none of those.

    Raises:
        UserError: it was made for another user.
    """
    try:
        made = from_wire(json.dumps(content["plan"]).encode())
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError("it was submitted by a batchns of another version", "submit it again") from None
    owner = made.credentials.submitter
    if (owner.uid, owner.gid) != (os.geteuid(), os.getegid()):
        what = f"it was submitted as {owner.uid}:{owner.gid}, and runs as {os.geteuid()}:{os.getegid()}"
        raise UserError(what, "users have the same ids on all hosts of a cluster, and submit with their own group")
    alone = found.plan.mode != "host"
    own = [mount for one in made.mounts if (mount := _here(one, alone=alone, host_root=False))]
    if found.resolver:
        first = next((place for place, one in enumerate(own) if one.kind == "bind"), len(own))
        own.insert(first, Mount("cover", _RESOLV, found.resolver))
    common = tuple(mount for one in made.base.mounts if (mount := _here(one, alone=alone, host_root=True)))
    variables = _variables(spec, job_id, attempt, environ)
    env = {**dict(made.command.env), **{name: text for name, text in variables.items() if name not in spec.env}}
    return made._replace(
        attempt=f"s{environ['SLURM_JOB_ID']}"[-11:],
        base=made.base._replace(mounts=common, own_network=alone),
        network=found.plan,
        mounts=tuple(own),
        command=made.command._replace(env=tuple(sorted(env.items()))),
        seccomp=seccomp_filter(spec.seccomp, content["seccomp"], above),
        record=f"{above}/record-{attempt}",
    )


def _here(mount: Mount, *, alone: bool, host_root: bool) -> Mount | None:
    """The operation as it is on this node; None: there is nothing to do."""
    if mount.kind in ("readonly", "mask") and not os.path.exists(mount.target):
        return None
    if mount.kind == "mqueue" and not os.path.exists(_MQUEUE):
        return None
    if mount.kind == "sysfs" and not alone:
        return None if host_root else mount._replace(kind="bind", source="/sys")
    return mount


def _variables(spec: Wanted, job_id: str, attempt: int, environ: Mapping[str, str]) -> dict[str, str]:
    array, _, index = job_id.partition("_")
    slurms = {name: value for name, value in environ.items() if name.startswith("SLURM_") or name in _PASSED_ON}
    tasks = {"BATCHNS_ARRAY_JOB_ID": array, "BATCHNS_ARRAY_TASK_ID": index} if index else {}
    memory = spec.resources.get("memory")
    return {
        **slurms,
        "BATCHNS_JOB_ID": job_id,
        "BATCHNS_JOB_NAME": spec.name,
        "BATCHNS_ATTEMPT": str(attempt),
        "BATCHNS_NODE_COUNT": environ.get("SLURM_JOB_NUM_NODES", "1"),
        "BATCHNS_NODE_RANK": environ.get("SLURM_NODEID", "0"),
        FIRST: environ.get(FIRST) or environ.get("SLURMD_NODENAME", ""),
        "BATCHNS_CPUS": environ.get("SLURM_CPUS_PER_TASK", "1"),
        "BATCHNS_CPU_LIST": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        **({"BATCHNS_MEMORY_BYTES": str(memory)} if memory else {}),
        **tasks,
    }
