"""cgroup v1: one hierarchy per controller, or a few controllers mounted together.

1. Only hierarchies that a job needs get a directory: each costs a mkdir, a join and an rmdir.
2. A process joins by writing "0" to `tasks` itself: that moves one thread and skips the lock that cgroup.procs takes.
3. A frozen v1 process ignores SIGKILL until it is thawed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence

from attrs import evolve

from batchns.errors import HostError
from batchns.kernel.cgroups import blockio, cpusets, files, members, parse, render, sample, squeeze
from batchns.kernel.cgroups.common import Common
from batchns.kernel.cgroups.interface import CgroupPlan, Limits, Squeezed
from batchns.model.result import LimitReading, Usage

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "io", "pids", "freezer", "devices")  # with v2's name for blkio
_ALWAYS = ("cpu", "cpuacct", "memory", "io", "pids", "freezer")
_USAGE = {
    "cpuacct": ("cpuacct.usage", "cpuacct.stat"),
    "memory": ("memory.max_usage_in_bytes", "memory.oom_control"),
    "io": ("blkio.throttle.io_service_bytes_recursive",),
}
_REMOVAL_SECONDS = 0.5
_NO_ACCOUNTING = (errno.EINVAL, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP, errno.ENOENT, errno.EACCES, errno.EPERM)


class V1Driver:
    """`parents`: controller to the absolute path of the cgroup below which batchns works.

    Controllers that are mounted together have the same path. `missing` says why other controllers are not there.
    `locks`: see `Common`.
    """

    mode = "v1"

    def __init__(
        self, parents: Mapping[str, str], block: str, missing: Mapping[str, str] | None = None, *, locks: str
    ) -> None:
        self.controllers = frozenset(parents)
        commons = {parent: Common(parent, locks) for parent in parents.values()}
        self._common = {name: commons[parents[name]] for name in CONTROLLERS if name in parents}
        self._groups = tuple(dict.fromkeys(common.path for common in self._common.values()))
        self._commons = tuple(commons.values())
        self._block = block
        self._host = render.Host(missing=missing or {})
        self._gathered = False
        self._stacked: frozenset[str] = frozenset()
        self._io_counted = False
        self._kept = files.KeptOpen()

    def prepare(self) -> None:
        """See `Driver.prepare`. May be called again, after the host's disks or schedulers have changed."""
        try:
            for common in self._commons:
                common.hold()
        except HostError:
            self.release()
            raise
        self._gather()
        if "cpuset" in self._common:
            self._copy_cpuset_down(self._common["cpuset"].path)
        if "memory" in self._common:
            self._count_sockets(self._common["memory"].path)
        self._io_counted = "io" in self._common and self._count_io(self._common["io"].path)

    def _gather(self) -> None:
        found = blockio.disks(self._block)
        self._stacked = frozenset(disk.device for disk in found if disk.stacked)
        self._host = evolve(self._host, bfq=blockio.uses_bfq(found))
        if "cpuset" in self._common:
            parent = self._common["cpuset"].parent
            self._host = evolve(
                self._host,
                cpus=(files.read_if_there(f"{parent}/cpuset.effective_cpus") or "").strip(),
                mems=(files.read_if_there(f"{parent}/cpuset.effective_mems") or "").strip(),
            )
        self._gathered = True

    def _copy_cpuset_down(self, group: str) -> None:
        for file, value in (("cpuset.cpus", self._host.cpus), ("cpuset.mems", self._host.mems)):
            if not files.read(f"{group}/{file}").strip():
                files.write(f"{group}/{file}", value)

    def _count_sockets(self, group: str) -> None:
        """Have the kernel count what TCP sockets hold, as long as there is this group: v1 does where a limit was set.

        Each job has one. Without this one the kernel would patch itself with the first of them, and after the last.
        """
        try:
            files.write(f"{group}/memory.kmem.tcp.limit_in_bytes", "-1")
        except OSError as error:
            if error.errno not in _NO_ACCOUNTING:
                raise

    def _count_io(self, group: str) -> bool:
        """Whether the kernel counts the jobs' I/O on every disk.

        Since Linux 6.10 v1 counts only on disks for which some cgroup has ever set a throttle, and shows a total of
        0 otherwise. Setting "no throttle" for a group of our own is enough, and limits nobody.
        """
        counted = True
        for disk in blockio.disks(self._block):
            try:
                files.write(f"{group}/blkio.throttle.read_bps_device", f"{disk.device} 0")
            except OSError as error:
                if error.errno not in _NO_ACCOUNTING:
                    raise
                counted = False
        return counted

    def bound(self, pids: int) -> None:
        """See `Driver.bound`."""
        if "pids" in self._common:
            files.write(f"{self._common['pids'].path}/pids.max", str(pids))

    def release(self) -> None:
        """See `Driver.release`."""
        self._kept.forget("")
        for common in self._commons:
            common.release()

    def plan(self, name: str, limits: Limits) -> CgroupPlan:
        """See `Driver.plan`."""
        if not self._gathered:
            self._gather()
        of = {controller: f"{common.path}/{name}" for controller, common in self._common.items()}
        writes, unavailable = render.v1(of, limits, self._host)
        rules, no_rules = render.device_rules(of.get("devices"), limits, self._host, program=False)
        written = {write.path.rpartition("/")[0] for write in (*writes, *rules.writes)}
        needed = {of[controller] for controller in _ALWAYS if controller in of} | written
        directories = tuple(path for path in self._directories(name) if path in needed)
        return CgroupPlan(
            directories=directories,
            writes=tuple(writes),
            joins=tuple(f"{directory}/tasks" for directory in directories),
            unavailable=(*unavailable, *no_rules),
            final_reads=self._usage_files(name),
            devices=rules,
        )

    def readings(self, limits: Limits, plan: CgroupPlan, values: Mapping[str, str | int]) -> dict[str, LimitReading]:
        """See `Driver.readings`."""
        return render.readings(limits, plan, values)

    def _directories(self, name: str) -> tuple[str, ...]:
        return tuple(f"{group}/{name}" for group in self._groups)

    def _usage_files(self, name: str) -> tuple[str, ...]:
        present = [controller for controller in _USAGE if controller in self._common]
        return tuple(f"{self._common[one].path}/{name}/{file}" for one in present for file in _USAGE[one])

    def usage(self, texts: Mapping[str, str]) -> Usage:
        """See `Driver.usage`."""
        of = {path.rpartition("/")[2]: text for path, text in texts.items()}
        cpu = parse.number(of.get("cpuacct.usage", ""))
        io = parse.v1_io(of.get("blkio.throttle.io_service_bytes_recursive", ""), self._stacked)
        if io is None and self._io_counted and "blkio.throttle.io_service_bytes_recursive" in of:
            io = (0, 0)  # counted, and there was none
        return Usage(
            cpu_seconds=None if cpu is None else cpu / 1e9,
            memory_peak_bytes=parse.number(of.get("memory.max_usage_in_bytes", "")),
            io_read_bytes=io[0] if io else None,
            io_write_bytes=io[1] if io else None,
            oom_kills=parse.keyed(of.get("memory.oom_control", "")).get("oom_kill"),
        )

    def read_usage(self, name: str) -> Usage:
        """See `Driver.read_usage`."""
        texts = {path: self._kept.read(path) for path in self._usage_files(name)}
        found = {path: text for path, text in texts.items() if text is not None}
        if not found and name not in self.names():
            raise FileNotFoundError(errno.ENOENT, "no cgroups of this job", name)
        return self.usage(found)

    def sample_files(self, name: str) -> tuple[str, ...]:
        """See `Driver.sample_files`."""
        return sample.v1_files({controller: f"{common.path}/{name}" for controller, common in self._common.items()})

    def sample(self, paths: Sequence[str], texts: sample.Texts) -> sample.Sample:
        """See `Driver.sample`."""
        return sample.v1(paths, texts, self._stacked, io_counted=self._io_counted)

    def pids(self, name: str) -> list[int]:
        """See `Driver.pids`."""
        return members.pids(self._directories(name))

    def freeze(self, name: str, timeout: float) -> bool:
        """See `Driver.freeze`.

        Raises:
            FileNotFoundError: there is no such job, or no freezer on this host.
        """
        if self._reach(name, "FROZEN", timeout):
            return True
        self._reach(name, "THAWED", timeout)
        return False

    def thaw(self, name: str, timeout: float) -> bool:
        """See `Driver.thaw`.

        Raises:
            FileNotFoundError: there is no such job, or no freezer on this host.
        """
        return self._reach(name, "THAWED", timeout)

    def _reach(self, name: str, state: str, timeout: float) -> bool:
        if "freezer" not in self._common:
            raise FileNotFoundError(errno.ENOENT, "this host has no freezer cgroup controller", name)
        path = f"{self._common['freezer'].path}/{name}/freezer.state"

        def reached() -> bool:
            # Written each time: a task that was forked, or stopped, while FREEZING may have missed the first one.
            files.write(path, state)
            return files.read(path).strip() == state

        return members.wait_until(reached, time.monotonic() + timeout)

    def kill(self, name: str, timeout: float) -> bool:
        """See `Driver.kill`: freeze, so that nobody forks; SIGKILL; thaw, so that it is heard; until nobody is left."""
        deadline = time.monotonic() + timeout
        directories = self._directories(name)

        def empty() -> bool:
            return not any(map(members.running, members.pids(directories)))

        patience = 0.02  # grows: whoever dies slowly must not be frozen again on the way, or nobody ever gets there
        while not empty():
            if time.monotonic() >= deadline:
                return False
            frozen = self._hold_still(name, deadline)
            self._forbid_forks(name)  # only now: a shell that cannot fork ends by itself, with a code of its own
            members.kill_all(directories)
            if frozen:
                self._let_go(name)
            members.wait_until(empty, min(time.monotonic() + patience, deadline))
            patience *= 2
        return True

    def _forbid_forks(self, name: str) -> None:
        """A help where there is no freezer, or where freezing was not confirmed: a fork storm stands still at once."""
        if "pids" in self._common:
            _write_if_there(f"{self._common['pids'].path}/{name}/pids.max", "0")

    def _hold_still(self, name: str, deadline: float) -> bool:
        if "freezer" not in self._common:
            return False
        try:
            self._reach(name, "FROZEN", min(0.1, max(deadline - time.monotonic(), 0.0)))
        except FileNotFoundError:
            return False
        return True  # even when not confirmed: some may be frozen and must be thawed

    def _let_go(self, name: str) -> None:
        _write_if_there(f"{self._common['freezer'].path}/{name}/freezer.state", "THAWED")

    def set_cpus(self, name: str, cpus: str, mems: str) -> LimitReading:
        """See `Driver.set_cpus`."""
        directory = self._own(name, "cpuset")
        if directory is None:
            return LimitReading(None, "", self._why_not("cpuset"))
        return LimitReading(cpusets.move(directory, cpus, mems), "cpuset.cpus")

    def squeeze(self, name: str, timeout: float) -> Squeezed:
        """See `Driver.squeeze`."""
        directory = self._own(name, "freezer")
        if directory is None or files.read(f"{directory}/freezer.state").strip() != "FROZEN":
            return Squeezed(None, render.NOT_FROZEN)
        return self.reclaim(name, timeout)

    def reclaim(self, name: str, timeout: float) -> Squeezed:
        """`squeeze`, for a job that is known to be frozen."""
        directory = self._own(name, "memory")
        return Squeezed(None, self._why_not("memory")) if directory is None else squeeze.v1(directory, timeout)

    def unsqueeze(self, name: str, memory: int | None) -> None:
        """See `Driver.unsqueeze`."""
        directory = self._own(name, "memory")
        if directory is not None:
            squeeze.v1_undo(directory, memory)

    def jobs_cpu_seconds(self) -> float | None:
        """See `Driver.jobs_cpu_seconds`."""
        if "cpuacct" not in self._common:
            return None
        text = files.read_if_there(f"{self._common['cpuacct'].path}/cpuacct.usage")
        return None if text is None else int(text) / 1e9

    def _own(self, name: str, controller: str) -> str | None:
        """The job's directory for `controller`; None where it has none.

        Raises:
            FileNotFoundError: there is no such job.
        """
        if not any(map(os.path.isdir, self._directories(name))):
            raise FileNotFoundError(errno.ENOENT, "no cgroup of this job", name)
        common = self._common.get(controller)
        directory = "" if common is None else f"{common.path}/{name}"
        return directory if os.path.isdir(directory) else None

    def _why_not(self, controller: str) -> str:
        if controller in self._common:
            return f"the job was launched without a {controller} cgroup"
        return self._host.missing.get(controller, f"this host has no {controller} cgroup controller")

    def remove(self, name: str) -> None:
        """See `Driver.remove`."""
        for directory in reversed(self._directories(name)):
            self._kept.forget(directory)
            if not files.remove_tree(directory, _REMOVAL_SECONDS):
                raise OSError(errno.EBUSY, "a process is still inside", directory)

    def names(self) -> list[str]:
        """See `Driver.names`."""
        return sorted(set().union(*(common.names() for common in self._commons)))


def _write_if_there(path: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.write(path, value)
