"""Device rules of a job: rendered to files or to a program, applied, read back.

1. Deny by default: what is not listed can be neither opened nor made, whatever node there is for it.
2. Rules come into force when the sandbox is built and before the command is there: the last step of the launcher's.
3. A program is loaded once for each set of rules; the cgroup keeps it when everybody else has let go.

Sources: the kernel's Documentation/admin-guide/cgroup-v1/devices.rst; bpf(2); cgroup-v2.rst, "Device controller".
The launcher imports this.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import lru_cache

from batchns.errors import StepError
from batchns.kernel import bpf
from batchns.kernel.cgroups import device_program, files
from batchns.kernel.cgroups.interface import Device, DevicePlan, Write

V1_LIST = "devices.list"
PROGRAM = "BPF_CGROUP_DEVICE"
ROOTS = "device rules are root's to set"
_PROGRAMS_KEPT = 64


def line(device: Device) -> str:
    """The rule for reading and writing, as v1's files have it: "c 136:* rw"."""
    return f"{device.kind} {device.major}:{'*' if device.minor is None else device.minor} rw"


def text(devices: Sequence[Device]) -> str:
    """All rules in one line."""
    return ", ".join(map(line, devices))


def v1(directory: str, devices: Sequence[Device]) -> DevicePlan:
    """Rules for the v1 controller: everything denied, then one rule in each write, as the kernel takes them."""
    allowed = (Write(f"{directory}/devices.allow", line(device), "devices") for device in devices)
    return DevicePlan(directory, (Write(f"{directory}/devices.deny", "a", "devices"), *allowed))


def v2(directory: str, devices: Sequence[Device]) -> DevicePlan:
    """Rules as a program."""
    return DevicePlan(directory, program=_program(tuple(devices)))


@lru_cache(maxsize=_PROGRAMS_KEPT)
def _program(devices: tuple[Device, ...]) -> str:
    """Jobs without units, most of them, have one and the same."""
    return bpf.assemble(device_program.program(devices)).hex()


def source(plan: DevicePlan) -> str:
    """Where the kernel keeps them: the path under which `Programs.apply` answers."""
    return f"{plan.directory}/{PROGRAM if plan.program else V1_LIST}"


def why_no_program() -> str:
    """Why this process cannot have device programs; "" where it can: one is loaded, and let go again."""
    try:
        os.close(_load(bpf.assemble(device_program.program(()))))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL):
            return "this kernel has no device programs for cgroups - use one with CONFIG_CGROUP_BPF"
        if error.errno in (errno.EPERM, errno.EACCES):
            return ROOTS
        raise
    return ""


class Programs:
    """The launcher's side. Keeps the programs that were used last."""

    def __init__(self) -> None:
        self._loaded: dict[str, int] = {}  # in order of use

    def apply(self, plan: DevicePlan) -> dict[str, str | int]:
        """Put the rules into force: {`source`: what the kernel says of them}; nothing where there are none.

        Raises:
            StepError: step "device rules", the path and errno of the first failure.
        """
        if not plan.directory:
            return {}
        try:
            said = self._attach(plan) if plan.program else write_rules(plan)
        except OSError as error:
            path = str(error.filename or plan.directory)
            raise StepError("device rules", path, error.errno or 0, _hint(plan, error)) from None
        return {source(plan): said}

    def _attach(self, plan: DevicePlan) -> str:
        program = self._loaded.pop(plan.program, -1)
        if program < 0:
            program = _load(bytes.fromhex(plan.program))
        self._loaded[plan.program] = program
        if len(self._loaded) > _PROGRAMS_KEPT:
            os.close(self._loaded.pop(next(iter(self._loaded))))
        cgroup = os.open(plan.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bpf.attach(program, cgroup, bpf.DEVICES)
            return str(bpf.count(cgroup, bpf.DEVICES))
        finally:
            os.close(cgroup)


def _load(code: bytes) -> int:
    return bpf.load(bpf.CGROUP_DEVICE, bpf.DEVICES, code, b"batchns_devices")


def write_rules(plan: DevicePlan) -> str:
    """Each file is opened once; each value is a write of its own, of which the kernel reads one rule and no more."""
    opened: dict[str, int] = {}
    try:
        for path, value, _, _ in plan.writes:
            if path not in opened:
                opened[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(opened[path], value.encode())
            except OSError as error:
                number = error.errno or 0
                raise OSError(number, f"write {value!r}: {os.strerror(number)}", path) from None
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    return files.read(f"{plan.directory}/{V1_LIST}")


def _hint(plan: DevicePlan, error: OSError) -> str:
    if error.errno != errno.EPERM:
        return ""
    if plan.program:
        return "a cgroup above has a device program that allows no other: set parent under [cgroup] in batchns.toml"
    above = os.path.dirname(plan.directory)
    return f"{error.strerror}: a cgroup above denies it - cat {above}/{V1_LIST}"
