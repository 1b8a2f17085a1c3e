"""The rates of a job in the host's network: measured as TCP goodput between its cgroup and another machine."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import network_programs as programs
import pytest
from network_world import HOST, OUTSIDE, Place, World, open_world, slow_kernel, within

from batchns.kernel import bpf
from batchns.kernel.cgroups import files
from batchns.kernel.cgroups.detect import own_unified
from batchns.kernel.network import police
from batchns.kernel.network.types import Counters, NetworkPlan, Shapers

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(own_unified() is None, reason="a cgroup v2 tree is what the programs are attached to"),
]

MBIT = 1_000_000
RATES = [10, 20] if slow_kernel() else [10, 100]
PORT = 5001
RAMP, WINDOW = 1.5, 2.0


@pytest.fixture
def group() -> Iterator[str]:
    """A cgroup of the test's own."""
    path = Path(str(own_unified()), f"batchns-police-{os.getpid()}")
    path.mkdir()
    yield str(path)
    assert files.remove_tree(str(path), 5.0)


@pytest.fixture
def world(group: str) -> Iterator[World]:
    """Made after the cgroup: its places, which may be in there, end before that is removed."""
    with open_world() as world:
        world.outside.call(programs.listen, "tcp", PORT)
        yield world


def in_group(world: World, group: str) -> Place:
    """A process of the host's network, in the cgroup."""
    return world.place(files.write, f"{group}/cgroup.procs", "0")


def egress(world: World, job: Place, ramp: float = RAMP, window: float = WINDOW) -> float:
    world.outside.begin(programs.accept_and_measure, PORT, ramp, window)
    job.begin(programs.pour, OUTSIDE, PORT, ramp + window + 1)
    measured: float = world.outside.result()
    job.result()
    return measured


def ingress(world: World, job: Place) -> float:
    world.outside.begin(programs.accept_and_pour, PORT, RAMP + WINDOW + 1)
    measured: float = job.call(programs.connect_and_measure, OUTSIDE, PORT, RAMP, WINDOW)
    world.outside.result()
    return measured


def assert_between(low: float, high: float, asked: int, measure: Callable[[], float]) -> None:
    """Parts of the rate asked; two more tries, because the machine may have been busy."""
    seen = []
    for _ in range(3):
        seen.append(measure() / asked)
        if low <= seen[-1] <= high:
            return
    raise AssertionError(f"of the rate: {seen}")


@pytest.mark.parametrize("megabits", RATES)
def test_egress_is_the_asked_rate_within_6_percent(world: World, group: str, megabits: int) -> None:
    array = police.attach(group, NetworkPlan("host", egress=megabits * MBIT))
    assert police.rates(array, 1500) == Shapers(egress=megabits * MBIT, ingress=None)
    job = in_group(world, group)
    assert_between(0.94, 1.06, megabits * MBIT, lambda: egress(world, job))
    os.close(array)


@pytest.mark.parametrize("megabits", RATES)
def test_ingress_is_at_most_the_asked_rate_and_not_much_less(world: World, group: str, megabits: int) -> None:
    """There is no queue in front of it: what a sender makes of lost packets decides how near it comes."""
    array = police.attach(group, NetworkPlan("host", ingress=megabits * MBIT))
    assert police.rates(array, 1500) == Shapers(egress=None, ingress=megabits * MBIT)
    job = in_group(world, group)
    assert_between(0.75, 1.08, megabits * MBIT, lambda: ingress(world, job))
    os.close(array)


def test_many_connections_share_one_rate(world: World, group: str) -> None:
    """Each paces itself to the whole rate; what all of them send is what is counted and dropped."""
    rate = 20 * MBIT
    array = police.attach(group, NetworkPlan("host", egress=rate))
    jobs = [in_group(world, group) for _ in range(3)]

    def together() -> float:
        for job in jobs:
            job.begin(programs.pour, OUTSIDE, PORT, 1.0 + RAMP + WINDOW)
        time.sleep(RAMP)
        before, start = police.counters(array).sent_bytes, time.monotonic()
        time.sleep(WINDOW)
        frames = (police.counters(array).sent_bytes - before) * 8 / (time.monotonic() - start)
        for job in jobs:
            job.result()
        return frames * 1448 / 1514

    world.outside.begin(programs.swallow, PORT, 20.0)
    assert_between(0.85, 1.1, rate, together)
    os.close(array)


def test_nobody_else_is_slowed(world: World, group: str) -> None:
    """The limited job pours on while a process beside it, in the same network, sends as fast as it likes."""
    array = police.attach(group, NetworkPlan("host", egress=2 * MBIT, ingress=2 * MBIT))
    job, other = in_group(world, group), world.place(os.getpid)
    job.begin(programs.flood, OUTSIDE, 9, 6.0)
    assert egress(world, other, 0.3, 1.0) > 2 * max(RATES) * MBIT
    job.result()
    os.close(array)


def test_what_is_over_the_rate_is_lost_without_an_error_to_the_sender(world: World, group: str) -> None:
    """As on a full link: a program that sends datagrams is not told EPERM."""
    array = police.attach(group, NetworkPlan("host", egress=2 * MBIT))
    job = in_group(world, group)
    sent = job.call(programs.flood, OUTSIDE, 9, 1.0)
    passed = police.counters(array).sent_bytes
    assert passed < 2 * MBIT / 8 * 1.6 < sent, "the bucket of 0.3 s and a second"
    os.close(array)


def test_what_stays_on_the_host_is_not_limited(world: World, group: str) -> None:
    array = police.attach(group, NetworkPlan("host", egress=MBIT, ingress=MBIT))
    service = world.place(programs.listen, "tcp", PORT)
    for address in ("127.0.0.1", HOST):
        service.begin(programs.accept_and_measure, PORT, 0.1, 0.5)
        job = in_group(world, group)
        job.begin(programs.pour, address, PORT, 1.0)
        assert service.result() > 20 * MBIT
        job.result()
    assert police.counters(array) == Counters(0, 0)
    os.close(array)


def test_nothing_is_left_when_the_cgroup_and_its_sockets_are_gone(world: World, group: str) -> None:
    """Whoever attached it may have been killed: nobody has to take anything away."""
    before = programs_of_ours()  # of others, should several test runs share the machine
    pid = os.fork()
    if pid == 0:
        police.attach(group, NetworkPlan("host", egress=MBIT, ingress=MBIT))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    made = programs_of_ours() - before
    assert len(made) == 3, "they outlive whoever attached them"
    os.rmdir(group)
    assert within(5.0, lambda: not made & programs_of_ours())
    os.mkdir(group)


def programs_of_ours() -> set[int]:
    """The ids of the BPF programs of this name that the kernel has. bpf(2), BPF_PROG_GET_NEXT_ID and the like."""
    libc = ctypes.CDLL(None, use_errno=True)
    found, last = set[int](), 0
    while True:
        buffer = ctypes.create_string_buffer(struct.pack("=II", last, 0), 128)
        if libc.syscall(bpf.NR_BPF, 11, buffer, 128) < 0:
            return found
        last = struct.unpack_from("=I", buffer, 4)[0]
        buffer = ctypes.create_string_buffer(struct.pack("=I", last), 128)
        program = libc.syscall(bpf.NR_BPF, 13, buffer, 128)
        if program < 0:
            continue  # gone meanwhile
        info = ctypes.create_string_buffer(256)
        attributes = struct.pack("=IIQ", program, len(info), ctypes.addressof(info))
        libc.syscall(bpf.NR_BPF, 15, ctypes.create_string_buffer(attributes, 128), 128)
        os.close(program)
        if info.raw[64:80].rstrip(b"\0") == police.NAME:
            found.add(last)
