"""Device nodes of named resources: what they are on this machine, and which of them a job has.

1. A path of batchns.toml is looked at once, at start: what is no device node is an error there, not in some job.
2. No device is two units: a job that has one has it alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from attrs import field, frozen

from batchns.core.placement import Placement
from batchns.errors import HostError, UserError
from batchns.kernel.cgroups.interface import Device
from batchns.launch.sandbox import DEVICES
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.result import LimitReading

_UNIX98_PTY_SLAVES = 136  # Documentation/admin-guide/devices.txt
# What every job may open: the nodes of its /dev, and pseudo terminals.
BASE = (
    *(Device("c", major, minor) for _, major, minor in DEVICES),
    Device("c", 5, 2),
    Device("c", _UNIX98_PTY_SLAVES),
)
Node = tuple[str, Device]


@frozen
class Units:
    """One named resource: the nodes of each unit, those of every job that has one, and the variable for the numbers."""

    nodes: tuple[tuple[Node, ...], ...]
    common: tuple[Node, ...] = ()
    env: str | None = None


@frozen
class Granted:
    """What one job has of the node's devices, as it was placed."""

    nodes: tuple[Node, ...] = ()
    units: tuple[tuple[str, tuple[int, ...]], ...] = ()
    variables: Mapping[str, str] = field(factory=dict)

    @property
    def rules(self) -> tuple[Device, ...]:
        """Every device that the job may open."""
        return (*BASE, *dict.fromkeys(device for _, device in self.nodes if device not in BASE))

    @property
    def readings(self) -> dict[str, LimitReading]:
        """For the result: which units it had, by the resource's name."""
        return {name: LimitReading(_numbers(units), "batchns.toml") for name, units in self.units}


def read_units(config: Config) -> dict[str, Units]:
    """The resources of batchns.toml that have device nodes, by name, as this machine has them.

    Raises:
        HostError: a path is not there, or no device node, or the same device is in two units.
    """
    found = {
        name: Units(
            tuple(tuple(map(_node, unit)) for unit in wanted.devices), tuple(map(_node, wanted.common)), wanted.env
        )
        for name, wanted in config.node.units.items()
    }
    owners: dict[Device, str] = {}
    for name, units in found.items():
        for number, nodes in enumerate(units.nodes):
            for path, device in nodes:
                owner = owners.setdefault(device, f"unit {number} of {name}")
                if owner != f"unit {number} of {name}":
                    raise HostError(f"node.resources.{name}: {path} is also {owner}", "each device belongs to one unit")
    for name, units in found.items():
        for path, device in units.common:
            if device in owners:
                hint = "what is in common goes to every job: leave it away there"
                raise HostError(f"node.resources.{name}: {path} is also {owners[device]}", hint)
    return found


def _node(path: str) -> Node:
    hint = "write the path of a device node that is there: ls -l /dev"
    try:
        found = os.stat(path)
    except OSError as error:
        raise HostError(f"node.resources: {path}: {os.strerror(error.errno or 0)}", hint) from None
    if not stat.S_ISCHR(found.st_mode) and not stat.S_ISBLK(found.st_mode):
        raise HostError(f"node.resources: {path} is not a device node", hint)
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b"
    return path, Device(kind, os.major(found.st_rdev), os.minor(found.st_rdev))


def check_user(config: Config, specs: Iterable[JobSpec]) -> None:
    """Nobody but root makes device nodes.

    Raises:
        UserError: a job asks for a resource that has some.
    """
    for spec in specs:
        for name, count in spec.resources.named.items():
            if count and name in config.node.units:
                raise UserError(
                    f"job {spec.name}: {name}: its devices can be given to jobs by root only",
                    "sudo batchns run --user $USER FILE",
                )


def granted(units: Mapping[str, Units], placement: Placement) -> Granted:
    """The devices of a job that is placed there.

    Raises:
        HostError: batchns.toml has them no longer.
    """
    nodes: dict[str, Device] = {}
    variables: dict[str, str] = {}
    for name, numbers in placement.units:
        of = units.get(name)
        if of is None or any(number >= len(of.nodes) for number in numbers):
            raise HostError(f"{name}: unit {_numbers(numbers)} is not in batchns.toml any more", "submit the job again")
        for node in (*of.common, *(node for number in numbers for node in of.nodes[number])):
            nodes[node[0]] = node[1]
        variables[f"BATCHNS_UNITS_{name.upper()}"] = _numbers(numbers)
        if of.env is not None:
            variables[of.env] = _numbers(numbers)
    return Granted(tuple(nodes.items()), placement.units, variables)


def _numbers(units: Iterable[int]) -> str:
    return ",".join(map(str, units))
