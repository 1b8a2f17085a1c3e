"""Named resources with device nodes: what batchns.toml names is looked at, and each job gets its units' nodes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchns.core.placement import Placement
from batchns.errors import HostError, UserError
from batchns.kernel.cgroups.interface import Device
from batchns.model import config
from batchns.model.config import Config
from batchns.model.job import JobSpec, Resources
from batchns.model.result import LimitReading
from batchns.supervise.devices import BASE, Granted, check_user, granted, read_units

# Nodes that every machine has, a container too, and that are links to none other.
NULL, ZERO, FULL, RANDOM = "/dev/null", "/dev/zero", "/dev/full", "/dev/random"
GPUS = config.Units(devices=((NULL,), (ZERO, FULL)), common=(RANDOM,), env="GPUS")


def of(**resources: int | config.Units) -> Config:
    return Config(node=config.Node(resources=resources))


def test_nodes_are_known_by_kind_and_numbers() -> None:
    (units,) = read_units(of(gpus=GPUS, seats=3)).values()
    assert units.nodes == (
        ((NULL, Device("c", 1, 3)),),
        ((ZERO, Device("c", 1, 5)), (FULL, Device("c", 1, 7))),
    )
    assert units.common == ((RANDOM, Device("c", 1, 8)),)


@pytest.mark.parametrize(
    ("path", "words"), [("/dev/nosuch", "No such file or directory"), ("/dev", "is not a device node")]
)
def test_what_is_no_device_node_is_an_error_at_start(path: str, words: str) -> None:
    with pytest.raises(HostError, match=rf"node.resources: {path}.*{words}.*ls -l /dev"):
        read_units(of(gpus=config.Units(devices=((NULL,), (path,)))))
    with pytest.raises(HostError, match=words):
        read_units(of(gpus=config.Units(devices=((NULL,),), common=(path,))))


def test_one_device_is_not_two_units_whatever_its_names(tmp_path: Path) -> None:
    """A link, or another resource."""
    link = tmp_path / "link"
    link.symlink_to(NULL)
    with pytest.raises(HostError, match="link is also unit 0 of gpus - each device belongs to one unit"):
        read_units(of(gpus=config.Units(devices=((NULL,), (str(link),)))))
    with pytest.raises(HostError, match="null is also unit 0 of gpus"):
        read_units(of(gpus=config.Units(devices=((NULL,),)), fpga=config.Units(devices=((NULL,),))))
    with pytest.raises(HostError, match=r"node.resources.fpga: /dev/null is also unit 0 of gpus - what is in common"):
        read_units(of(gpus=config.Units(devices=((NULL,),)), fpga=config.Units(devices=((ZERO,),), common=(NULL,))))


def test_a_job_gets_the_nodes_of_its_units_and_what_is_common() -> None:
    units = read_units(of(gpus=GPUS))
    first = granted(units, Placement((0,), (0,), (("gpus", (0,)),)))
    assert [path for path, _ in first.nodes] == [RANDOM, NULL]
    both = granted(units, Placement((0,), (0,), (("gpus", (0, 1)),)))
    assert [path for path, _ in both.nodes] == [RANDOM, NULL, ZERO, FULL]
    assert both.variables == {"BATCHNS_UNITS_GPUS": "0,1", "GPUS": "0,1"}
    assert both.readings == {"gpus": LimitReading("0,1", "batchns.toml")}


def test_a_job_without_units_gets_the_base_and_nothing_more() -> None:
    nothing = granted(read_units(of(gpus=GPUS)), Placement((0,), (0,)))
    assert nothing == Granted()
    assert (nothing.rules, nothing.readings) == (BASE, {})


def test_rules_name_each_device_once() -> None:
    units = {"x": read_units(of(gpus=GPUS))["gpus"], "y": read_units(of(gpus=GPUS))["gpus"]}
    rules = granted(units, Placement((0,), (0,), (("x", (1,)), ("y", (0,))))).rules
    assert len(set(rules)) == len(rules)
    assert set(BASE) <= set(rules)


def test_an_ordinary_users_job_cannot_have_devices() -> None:
    job = JobSpec(name="train", command=("true",), cwd="/", resources=Resources(named={"gpus": 1}))
    with pytest.raises(
        UserError, match="job train: gpus: its devices can be given to jobs by root only - sudo batchns"
    ):
        check_user(of(gpus=GPUS), [job])
    check_user(of(gpus=4), [job])
    check_user(of(gpus=GPUS), [JobSpec(name="none", command=("true",), cwd="/")])


def test_the_base_is_what_this_machine_has() -> None:
    """The numbers are the kernel's: those of the nodes in /dev."""
    here = {Device("c", os.major(found), os.minor(found)) for found in (os.stat(path).st_rdev for path in _NODES)}
    assert here == {device for device in BASE if device.minor is not None}


_NODES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx")
