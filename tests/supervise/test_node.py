"""The node as /proc, /sys and batchns.toml describe it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.errors import HostError
from batchns.model.config import Config, IsolationSettings, NetworkSettings, Node, Units
from batchns.supervise.node import cpu_list, format_cpu_list, read_node


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, str]:
    """Eight CPUs of which this process may use six, on two memory nodes; 16 GiB."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\nCpus_allowed:\tfc\nCpus_allowed_list:\t0-2,4-6\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemFree:  1 kB\n")
    for number, cpus in enumerate(("0-3\n", "4-7\n")):
        folder = tmp_path / f"sys/devices/system/node/node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus)
    return {"proc": str(tmp_path / "proc"), "sys": str(tmp_path / "sys")}


def test_what_the_process_may_use_is_handed_out(roots: dict[str, str]) -> None:
    node = read_node(Config(), **roots)
    assert node.cpus == (0, 1, 2, 4, 5, 6)
    assert dict(node.mems) == {0: 0, 1: 0, 2: 0, 4: 1, 5: 1, 6: 1}
    assert (node.memory, node.egress, node.ingress) == (16 << 30, None, None)


def test_the_configuration_hands_out_less(roots: dict[str, str]) -> None:
    config = Config(node=Node(cpus=(4, 5), memory=1 << 30, egress=10, ingress=20, resources={"gpus": 2}))
    node = read_node(config, **roots)
    assert (node.cpus, dict(node.mems), node.memory) == ((4, 5), {4: 1, 5: 1}, 1 << 30)
    assert (node.egress, node.ingress, dict(node.named)) == (10, 20, {"gpus": 2})


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_threads_of_a_core_are_known(roots: dict[str, str], name: str) -> None:
    """CPU 6 has no such file (a machine that tells nothing of it): it is a core of its own."""
    for cpu, siblings in {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2-3"}.items():
        folder = Path(roots["sys"], f"devices/system/cpu/cpu{cpu}/topology")
        folder.mkdir(parents=True)
        (folder / name).write_text(f"{siblings}\n")
    node = read_node(Config(), **roots)
    assert dict(node.cores) == {0: 0, 4: 0, 1: 1, 5: 1, 2: 2}
    assert node.by_core() == {0: ((0,), (1,), (2,)), 1: ((4,), (5,), (6,))}


def test_units_of_resources_with_device_nodes_are_told_apart(roots: dict[str, str]) -> None:
    resources = {"seats": 3, "gpus": Units(devices=(("/dev/a",), ("/dev/b",)))}
    node = read_node(Config(node=Node(resources=resources)), **roots)
    assert (dict(node.named), node.units) == ({"seats": 3, "gpus": 2}, {"gpus"})


def test_as_many_jobs_run_at_a_time_as_there_are_addresses_and_id_ranges(roots: dict[str, str]) -> None:
    assert read_node(Config(network=NetworkSettings(pool="10.9.0.0/29")), **roots).jobs == 6
    assert read_node(Config(isolation=IsolationSettings(id_ranges=3)), **roots).jobs == 3


def test_the_configuration_cannot_hand_out_more(roots: dict[str, str]) -> None:
    with pytest.raises(HostError, match="CPU 3 is not available to batchns - choose from 0-2,4-6"):
        read_node(Config(node=Node(cpus=(2, 3))), **roots)
    with pytest.raises(HostError, match="32GiB is more than this machine has - write at most 16GiB"):
        read_node(Config(node=Node(memory=32 << 30)), **roots)


def test_a_kernel_without_memory_nodes_has_one(roots: dict[str, str]) -> None:
    node = read_node(Config(), proc=roots["proc"], sys="/nonexistent")
    assert set(node.mems.values()) == {0}


def test_this_machine_can_be_read() -> None:
    node = read_node(Config())
    assert set(node.cpus) == os.sched_getaffinity(0)
    assert node.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@given(st.sets(st.integers(0, 300)))
def test_cpu_lists_are_read_as_they_are_written(numbers: set[int]) -> None:
    ascending = tuple(sorted(numbers))
    assert cpu_list(format_cpu_list(ascending)) == ascending


@pytest.mark.parametrize(("numbers", "text"), [((), ""), ((3,), "3"), ((0, 1, 2, 8), "0-2,8"), ((0, 2), "0,2")])
def test_cpu_lists_are_in_the_kernels_format(numbers: tuple[int, ...], text: str) -> None:
    assert format_cpu_list(numbers) == text
