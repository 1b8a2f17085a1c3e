"""cgroup v2: one hierarchy; each controller is handed down level by level through cgroup.subtree_control.

1. A process starts inside (clone3 with CLONE_INTO_CGROUP): nobody is ever moved.
2. Freezing and emptying are over when cgroup.events says so; it is polled, not slept upon.
3. A killed cgroup is never used again: kernels kill what is cloned into it later.

On a hybrid host this drives a tree without controllers: freezing, killing and CPU time need none.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Collection, Mapping, Sequence

from attrs import evolve

from batchns.errors import HostError
from batchns.kernel.cgroups import blockio, cpusets, devices, files, members, parse, render, sample, squeeze
from batchns.kernel.cgroups.common import Common
from batchns.kernel.cgroups.interface import CgroupPlan, Limits, Squeezed
from batchns.model.result import LimitReading, Usage

CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
_USAGE = {"memory": ("memory.peak", "memory.events"), "io": ("io.stat",)}
_REFUSED = (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT)
_REMOVAL_SECONDS = 0.5
_LOOK_AGAIN_MS = 100  # should a notification ever be missed


class V2Driver:
    """`parent`: the cgroup below which batchns works, at or below `mount`; both absolute paths.

    `wanted`: the controllers to use (all, or on a hybrid host those that v1 does not hold). `locks`: see `Common`.
    """

    mode = "v2"

    def __init__(
        self,
        mount: str,
        parent: str,
        block: str,
        wanted: Collection[str] = CONTROLLERS,
        missing: Mapping[str, str] | None = None,
        *,
        locks: str,
    ) -> None:
        self._mount = mount
        self._common = Common(parent, locks)
        self._block = block
        self._wanted = tuple(wanted)
        self._host = render.Host(missing=missing or {})
        self._gathered = False
        self._stacked: frozenset[str] = frozenset()
        self.controllers: frozenset[str] = frozenset()
        self._kept = files.KeptOpen()

    def prepare(self) -> None:
        """See `Driver.prepare`. May be called again, after the host's disks or schedulers have changed."""
        self._common.hold()
        refused: dict[str, str] = {}
        for level in self._levels():
            refused |= self._delegate(level)
        self._gather(refused)
        offered = set(_words(f"{self._mount}/cgroup.controllers")) & set(self._wanted)
        if offered and not self.controllers:
            self.release()
            reasons = "; ".join(sorted(set(refused.values())))
            raise HostError(
                f"no cgroup controller can be used below {self._common.parent}: {reasons}",
                "set parent under [cgroup] in batchns.toml to a cgroup that has controllers and no processes",
            )

    def _levels(self) -> list[str]:
        """From the mount down to the common group: a controller reaches a cgroup only through all those above it."""
        below = self._common.path.removeprefix(self._mount).strip("/").split("/")
        return [self._mount] + ["/".join([self._mount, *below[: depth + 1]]) for depth in range(len(below))]

    def _delegate(self, level: str) -> dict[str, str]:
        """Enable the wanted controllers for the children of `level`; returns {controller: why not}."""
        refused = {}
        have, enabled = _words(f"{level}/cgroup.controllers"), _words(f"{level}/cgroup.subtree_control")
        for controller in self._wanted:
            if controller in have and controller not in enabled:
                try:
                    files.write(f"{level}/cgroup.subtree_control", f"+{controller}")
                except OSError as error:
                    if error.errno not in _REFUSED:
                        raise
                    refused[controller] = _why_refused(controller, level, error)
        return refused

    def _gather(self, refused: Mapping[str, str]) -> None:
        group = self._common.path
        prepared = files.read_if_there(f"{group}/cgroup.subtree_control")
        enabled = _words(f"{self._mount}/cgroup.controllers") if prepared is None else prepared.split()
        self.controllers = frozenset(self._wanted) & set(enabled)
        found = blockio.disks(self._block)
        no_programs = devices.why_no_program()
        self._stacked = frozenset(disk.device for disk in found if disk.stacked)
        self._host = evolve(
            self._host,
            cpus=(files.read_if_there(f"{group}/cpuset.cpus.effective") or "").strip(),
            mems=(files.read_if_there(f"{group}/cpuset.mems.effective") or "").strip(),
            bfq=blockio.uses_bfq(found),
            iocost=blockio.uses_iocost(files.read_if_there(f"{self._mount}/io.cost.qos") or ""),
            missing={**self._host.missing, **refused, **({"devices": no_programs} if no_programs else {})},
        )
        self._gathered = True

    def bound(self, pids: int) -> None:
        """See `Driver.bound`."""
        if "pids" in self.controllers:
            files.write(f"{self._common.path}/pids.max", str(pids))

    def release(self) -> None:
        """See `Driver.release`. Controllers stay enabled above: others may have come to rely on them."""
        self._kept.forget("")
        self._common.release()

    def plan(self, name: str, limits: Limits) -> CgroupPlan:
        """See `Driver.plan`."""
        if not self._gathered:
            self._gather({})
        directory = self._directory(name)
        writes, unavailable = render.v2(directory, self.controllers, limits, self._host)
        rules, no_rules = render.device_rules(directory, limits, self._host, program=True)
        return CgroupPlan(
            directories=(directory,),
            writes=tuple(writes),
            into=directory,
            unavailable=(*unavailable, *no_rules),
            final_reads=self._usage_files(name),
            devices=rules,
        )

    def readings(self, limits: Limits, plan: CgroupPlan, values: Mapping[str, str | int]) -> dict[str, LimitReading]:
        """See `Driver.readings`."""
        return render.readings(limits, plan, values)

    def _directory(self, name: str) -> str:
        return f"{self._common.path}/{name}"

    def _usage_files(self, name: str) -> tuple[str, ...]:
        present = [controller for controller in _USAGE if controller in self.controllers]
        names = ["cpu.stat", *(file for controller in present for file in _USAGE[controller])]
        return tuple(f"{self._directory(name)}/{file}" for file in names)

    def usage(self, texts: Mapping[str, str]) -> Usage:
        """See `Driver.usage`. memory.peak exists since Linux 5.19."""
        of = {path.rpartition("/")[2]: text for path, text in texts.items()}
        cpu = parse.keyed(of.get("cpu.stat", "")).get("usage_usec")
        io = parse.v2_io(of["io.stat"], stacked=self._stacked) if "io.stat" in of else None
        return Usage(
            cpu_seconds=None if cpu is None else cpu / 1e6,
            memory_peak_bytes=parse.number(of.get("memory.peak", "")),
            io_read_bytes=io[0] if io else None,
            io_write_bytes=io[1] if io else None,
            oom_kills=parse.keyed(of.get("memory.events", "")).get("oom_kill"),
        )

    def read_usage(self, name: str) -> Usage:
        """See `Driver.read_usage`."""
        if not self._gathered:
            self._gather({})
        texts = {path: self._kept.read(path) for path in self._usage_files(name)}
        found = {path: text for path, text in texts.items() if text is not None}
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no cgroup of this job", self._directory(name))
        return self.usage(found)

    def sample_files(self, name: str) -> tuple[str, ...]:
        """See `Driver.sample_files`."""
        if not self._gathered:
            self._gather({})
        return sample.v2_files(self._directory(name), self.controllers)

    def sample(self, paths: Sequence[str], texts: sample.Texts) -> sample.Sample:
        """See `Driver.sample`."""
        return sample.v2(paths, texts, self._stacked)

    def pids(self, name: str) -> list[int]:
        """See `Driver.pids`."""
        return members.pids((self._directory(name),))

    def freeze(self, name: str, timeout: float) -> bool:
        """See `Driver.freeze`.

        Raises:
            FileNotFoundError: there is no such job.
        """
        directory = self._directory(name)
        if _freeze(directory, 1, time.monotonic() + timeout):
            return True
        _freeze(directory, 0, time.monotonic() + timeout)
        return False

    def thaw(self, name: str, timeout: float) -> bool:
        """See `Driver.thaw`.

        Raises:
            FileNotFoundError: there is no such job.
        """
        return _freeze(self._directory(name), 0, time.monotonic() + timeout)

    def kill(self, name: str, timeout: float) -> bool:
        """See `Driver.kill`. cgroup.kill (Linux 5.14) reaches frozen processes, and forks under way."""
        deadline = time.monotonic() + timeout
        directory = self._directory(name)
        try:
            if _can_kill(directory):
                files.write(f"{directory}/cgroup.kill", "1")
                return _await(directory, "populated", 0, deadline)
            return _kill_by_hand(directory, deadline)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return True
            raise

    def is_frozen(self, name: str) -> bool:
        """Whether the kernel confirms it now.

        Raises:
            FileNotFoundError: there is no such job.
        """
        return parse.keyed(files.read(f"{self._directory(name)}/cgroup.events")).get("frozen") == 1

    def set_cpus(self, name: str, cpus: str, mems: str) -> LimitReading:
        """See `Driver.set_cpus`."""
        directory = self._having(name, "cpuset.cpus")
        if directory is None:
            return LimitReading(None, "", self._why_not("cpuset"))
        return LimitReading(cpusets.move(directory, cpus, mems), "cpuset.cpus")

    def squeeze(self, name: str, timeout: float) -> Squeezed:
        """See `Driver.squeeze`."""
        return self.reclaim(name, timeout) if self.is_frozen(name) else Squeezed(None, render.NOT_FROZEN)

    def reclaim(self, name: str, timeout: float) -> Squeezed:
        """`squeeze`, for a job that is known to be frozen."""
        directory = self._having(name, "memory.max")
        return Squeezed(None, self._why_not("memory")) if directory is None else squeeze.v2(directory, timeout)

    def unsqueeze(self, name: str, memory: int | None) -> None:
        """See `Driver.unsqueeze`."""
        directory = self._having(name, "memory.max")
        if directory is not None:
            squeeze.v2_undo(directory, memory)

    def jobs_cpu_seconds(self) -> float | None:
        """See `Driver.jobs_cpu_seconds`. cpu.stat needs no controller."""
        usec = parse.keyed(files.read_if_there(f"{self._common.path}/cpu.stat") or "").get("usage_usec")
        return None if usec is None else usec / 1e6

    def _having(self, name: str, file: str) -> str | None:
        """The job's directory; None where the kernel offers no `file` in it.

        Raises:
            FileNotFoundError: there is no such job.
        """
        directory = self._directory(name)
        if not os.path.isdir(directory):
            raise FileNotFoundError(errno.ENOENT, "no cgroup of this job", directory)
        return directory if os.path.exists(f"{directory}/{file}") else None

    def _why_not(self, controller: str) -> str:
        return self._host.missing.get(controller, f"this host has no {controller} cgroup controller")

    def remove(self, name: str) -> None:
        """See `Driver.remove`."""
        directory = self._directory(name)
        self._kept.forget(directory)
        if not files.remove_tree(directory, _REMOVAL_SECONDS):
            raise OSError(errno.EBUSY, "a process is still inside", directory)

    def names(self) -> list[str]:
        """See `Driver.names`."""
        return sorted(self._common.names())


def _words(path: str) -> list[str]:
    return (files.read_if_there(path) or "").split()


def _why_refused(controller: str, level: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return f"{level} has processes of its own, so it cannot hand {controller} down"
    return f"{level} does not hand {controller} down: {os.strerror(error.errno or 0)}"


def _can_kill(directory: str) -> bool:
    """Whether the kernel has cgroup.kill (or there is no such cgroup any more)."""
    return os.path.exists(f"{directory}/cgroup.kill") or not os.path.exists(directory)


def _freeze(directory: str, value: int, deadline: float) -> bool:
    files.write(f"{directory}/cgroup.freeze", str(value))
    return _await(directory, "frozen", value, deadline)


def _await(directory: str, key: str, value: int, deadline: float) -> bool:
    """Wait until cgroup.events has `key` at `value`; False when `deadline` passes first. It is always read once."""
    descriptor = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLPRI)  # set by the kernel at each change after the last read
        while parse.keyed(os.pread(descriptor, 4096, 0).decode()).get(key) != value:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller.poll(min(left * 1000, _LOOK_AGAIN_MS))
        return True
    finally:
        os.close(descriptor)


def _kill_by_hand(directory: str, deadline: float) -> bool:
    """Before Linux 5.14: freeze so that nobody forks, SIGKILL (which v2 delivers to the frozen), until it is empty."""

    patience = 0.02  # grows: killing again is only for those that were forked in between
    while not _await(directory, "populated", 0, time.monotonic()):
        if time.monotonic() >= deadline:
            return False
        _freeze(directory, 1, min(deadline, time.monotonic() + 0.1))
        members.kill_all((directory,))
        _freeze(directory, 0, time.monotonic())
        _await(directory, "populated", 0, min(deadline, time.monotonic() + patience))
        patience *= 2
    return True
