"""From limits to a plan and back, on fake hosts: what is written where, and what is said of the rest."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from cgroup_fakes import FakeHost
from hypothesis import given
from hypothesis import strategies as st

from batchns.errors import HostError
from batchns.kernel import bpf
from batchns.kernel.cgroups import device_program, devices, parse, render
from batchns.kernel.cgroups.interface import CgroupPlan, Device, DevicePlan, Limits, Write
from batchns.model.result import LimitReading

ALL = Limits(cpu_shares=2048, cpuset_cpus="1-2", cpuset_mems="0", memory=1 << 30, blkio_weight=500, pids=64)
V1 = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "freezer")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def pairs(plan: CgroupPlan, root: Path) -> dict[str, str]:
    return {write.path.removeprefix(f"{root}/"): write.value for write in plan.writes}


def test_v1_writes_each_limit_into_its_own_hierarchy(host: FakeHost) -> None:
    host.disk("sda", "mq-deadline [bfq]")
    for controller in V1:
        host.mount(controller, controller)
    driver = host.driver()
    plan = driver.plan("j1", ALL)
    assert driver.mode == "v1"
    assert pairs(plan, host.root) == {
        "cpu/batchns/j1/cpu.shares": "2048",
        "cpuset/batchns/j1/cpuset.cpus": "1-2",
        "cpuset/batchns/j1/cpuset.mems": "0",
        "memory/batchns/j1/memory.limit_in_bytes": str(1 << 30),
        "memory/batchns/j1/memory.memsw.limit_in_bytes": str(1 << 30),
        "memory/batchns/j1/memory.kmem.tcp.limit_in_bytes": str(1 << 30),
        "pids/batchns/j1/pids.max": "64",
        "blkio/batchns/j1/blkio.bfq.weight": "500",
    }
    assert [Path(path).parts[-3] for path in plan.directories] == list(V1)
    assert plan.joins == tuple(f"{directory}/tasks" for directory in plan.directories)
    assert (plan.into, plan.unavailable) == ("", ())


DEVICES = (Device("c", 1, 3), Device("c", 136), Device("b", 7, 5))


def test_v1_denies_all_devices_then_allows_each(host: FakeHost) -> None:
    for controller in (*V1, "devices"):
        host.mount(controller, controller)
    plan = host.driver().plan("j1", Limits(devices=DEVICES))
    folder = f"{host.root}/devices/batchns/j1"
    assert [(Path(write.path).name, write.value) for write in plan.devices.writes] == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 rw"),
        ("devices.allow", "c 136:* rw"),
        ("devices.allow", "b 7:5 rw"),
    ]
    assert (plan.devices.directory, plan.devices.program) == (folder, "")
    assert folder in plan.directories
    assert f"{folder}/tasks" in plan.joins
    assert not [write for write in plan.writes if write.limit == "devices"], "they come later than the rest"


@pytest.mark.parametrize("hybrid", [False, True])
def test_v2_has_a_program_where_v1_does_not_hold_devices(
    host: FakeHost, hybrid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "why_no_program", lambda: "")
    if hybrid:
        host.mount("cpu", "cpu")
    host.unified("unified" if hybrid else "")
    plan = host.driver().plan("j1", Limits(devices=DEVICES))
    assert plan.devices.directory == plan.into
    assert bytes.fromhex(plan.devices.program) == bpf.assemble(device_program.program(DEVICES))
    assert plan.unavailable == ()


def test_without_either_the_reason_is_in_the_plan(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(devices=DEVICES)
    host.mount("cpu", "cpu")
    driver = host.driver()
    assert driver.readings(limits, driver.plan("j1", limits), {})["devices"] == LimitReading(
        None, why="this host has no devices cgroup controller"
    )
    monkeypatch.setattr(devices, "why_no_program", lambda: "no BPF here")
    host.unified("unified")
    driver = host.driver()
    plan = driver.plan("j1", limits)
    assert (plan.devices, plan.unavailable) == (DevicePlan(), (("devices", "no BPF here"),))
    assert driver.readings(limits, plan, {})["devices"].why == "no BPF here"


def test_device_rules_are_read_as_the_kernel_holds_them() -> None:
    limits = Limits(devices=DEVICES[:1])
    old, new = CgroupPlan(devices=devices.v1("/d/j", DEVICES)), CgroupPlan(devices=devices.v2("/d/j", DEVICES))

    def said(plan: CgroupPlan, text: str) -> LimitReading:
        return render.readings(limits, plan, {devices.source(plan.devices): text})["devices"]

    assert said(old, "c 1:3 rw\nb 7:5 rw\n") == LimitReading("c 1:3 rw, b 7:5 rw", "devices.list")
    assert said(old, "a *:* rwm\n") == LimitReading(None, "devices.list", "the kernel says 'a *:* rwm'")
    assert said(new, "1") == LimitReading("c 1:3 rw", "BPF_CGROUP_DEVICE")
    assert said(new, "0").why == "the kernel shows no program in the job's cgroup"
    assert render.readings(limits, old, {})["devices"].why == "it was not written"


def test_the_memory_limit_is_written_before_the_one_with_swap(host: FakeHost) -> None:
    """The kernel refuses a memory limit above the one for memory and swap."""
    host.mount("memory", "memory")
    files = [Path(write.path).name for write in host.driver().plan("j1", Limits(memory=1)).writes]
    assert files[:2] == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]


def test_v1_makes_no_cpuset_for_a_job_that_asks_for_none(host: FakeHost) -> None:
    for controller in V1:
        host.mount(controller, controller)
    assert f"{host.root}/cpuset/batchns/j1" not in host.driver().plan("j1", Limits(pids=5)).directories


def test_mounted_together_is_one_directory_and_one_join(host: FakeHost) -> None:
    host.mount("cpu,cpuacct", "cpu,cpuacct")
    plan = host.driver().plan("j1", Limits(cpu_shares=10))
    assert plan.directories == (f"{host.root}/cpu,cpuacct/batchns/j1",)
    assert plan.joins == (f"{host.root}/cpu,cpuacct/batchns/j1/tasks",)
    together = f"{host.root}/cpu,cpuacct/batchns/j1"
    assert plan.final_reads == (f"{together}/cpuacct.usage", f"{together}/cpuacct.stat")


def test_a_cpuset_mounted_with_others_always_gets_cpus_and_nodes(host: FakeHost) -> None:
    """No process can join a v1 cpuset without them."""
    host.mount("all", "cpuset,cpu,cpuacct")
    plan = host.driver().plan("j1", Limits())
    assert pairs(plan, host.root) == {"all/batchns/j1/cpuset.cpus": "0-3", "all/batchns/j1/cpuset.mems": "0"}
    assert {write.limit for write in plan.writes} == {""}


def test_nodes_that_were_not_asked_for_are_the_parents(host: FakeHost) -> None:
    host.mount("cpuset", "cpuset")
    plan = host.driver().plan("j1", Limits(cpuset_cpus="3"))
    assert plan.writes == (
        Write(f"{host.root}/cpuset/batchns/j1/cpuset.cpus", "3", "cpuset_cpus"),
        Write(f"{host.root}/cpuset/batchns/j1/cpuset.mems", "0"),
    )


def test_v2_writes_all_limits_into_one_directory(host: FakeHost) -> None:
    host.disk("sda", "[bfq] none")
    host.unified()
    driver = host.driver()
    plan = driver.plan("j1", ALL)
    assert driver.mode == "v2"
    assert pairs(plan, host.root) == {
        "batchns/j1/cpu.weight": "200",
        "batchns/j1/cpuset.cpus": "1-2",
        "batchns/j1/cpuset.mems": "0",
        "batchns/j1/memory.max": str(1 << 30),
        "batchns/j1/memory.swap.max": "0",
        "batchns/j1/pids.max": "64",
        "batchns/j1/io.bfq.weight": "500",
    }
    assert plan.directories == (plan.into,) == (f"{host.root}/batchns/j1",)
    assert plan.joins == ()


def test_iocost_takes_the_weight_where_it_is_enabled(host: FakeHost) -> None:
    host.unified()
    (host.root / "io.cost.qos").write_text("8:0 enable=1 ctrl=auto rpct=0.00\n")
    plan = host.driver().plan("j1", Limits(blkio_weight=40))
    assert pairs(plan, host.root) == {"batchns/j1/io.weight": "40"}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_weight_that_no_disk_heeds_is_unavailable(version: str, host: FakeHost) -> None:
    host.disk("sda", "[none] bfq")
    if version == "v1":
        host.mount("blkio", "blkio")
    else:
        host.unified()
        (host.root / "io.cost.qos").write_text("8:0 enable=0 ctrl=auto\n")
    limits = Limits(blkio_weight=500)
    driver = host.driver()
    plan = driver.plan("j1", limits)
    assert plan.writes == ()
    reading = driver.readings(limits, plan, {})["blkio_weight"]
    assert reading.value is None
    assert reading.why.startswith("no block device uses the bfq scheduler - echo bfq > ")


def test_hybrid_limits_by_v1_and_freezes_by_v2(host: FakeHost) -> None:
    """No v1 freezer and no cpuacct: the v2 tree does both without a controller."""
    for controller in V1:
        host.mount(controller, controller)
    host.unified("unified", controllers="")
    driver = host.driver()
    plan = driver.plan("j1", Limits(cpu_shares=100, pids=9))
    assert driver.mode == "hybrid"
    assert [Path(path).parts[-3] for path in plan.directories] == ["unified", "cpu", "memory", "blkio", "pids"]
    assert plan.into == plan.directories[0]
    assert plan.joins == tuple(f"{path}/tasks" for path in plan.directories[1:])
    assert plan.final_reads[0] == f"{host.root}/unified/batchns/j1/cpu.stat"


def test_hybrid_uses_whichever_version_holds_a_controller(host: FakeHost) -> None:
    host.mount("cpu", "cpu")
    host.unified("unified", controllers="memory pids")
    plan = host.driver().plan("j1", Limits(cpu_shares=100, memory=4096, pids=9, blkio_weight=10))
    assert pairs(plan, host.root) == {
        "unified/batchns/j1/memory.max": "4096",
        "unified/batchns/j1/memory.swap.max": "0",
        "unified/batchns/j1/pids.max": "9",
        "cpu/batchns/j1/cpu.shares": "100",
    }
    assert [limit for limit, _ in plan.unavailable] == ["blkio_weight"]


def test_named_v1_hierarchies_do_not_make_a_host_hybrid(host: FakeHost) -> None:
    host.mount("systemd", "name=systemd")
    host.unified("unified")
    assert host.driver().mode == "v2"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_missing_controller_is_unavailable_by_name(version: str, host: FakeHost) -> None:
    if version == "v1":
        host.mount("cpu", "cpu")
    else:
        host.unified(controllers="cpu")
    driver = host.driver()
    limits = Limits(cpu_shares=512, memory=4096)
    plan = driver.plan("j1", limits)
    path = plan.writes[0].path
    readings = driver.readings(limits, plan, {path: "512\n"})
    assert readings["cpu_shares"] == LimitReading(512, Path(path).name)
    assert readings["memory"].value is None
    assert "no memory cgroup controller" in readings["memory"].why


def test_the_own_path_may_differ_for_each_controller(host: FakeHost) -> None:
    host.mount("cpu", "cpu")
    host.mount("memory", "memory", own="/pool/a")
    plan = host.driver().plan("j1", Limits())
    assert plan.directories == (f"{host.root}/cpu/batchns/j1", f"{host.root}/memory/pool/a/batchns/j1")


def test_in_a_container_paths_count_from_what_is_mounted(host: FakeHost) -> None:
    """A bind mount of a part of the hierarchy, and a mount point with a space."""
    host.mount("pids of mine", "pids", own="/box/me", root="/box")
    assert host.driver().plan("j1", Limits()).directories == (f"{host.root}/pids of mine/me/batchns/j1",)


def test_a_configured_parent_holds_for_every_hierarchy(host: FakeHost) -> None:
    for controller in ("cpu", "pids"):
        (host.mount(controller, controller) / "batch").mkdir()
    plan = host.driver("/batch").plan("j1", Limits())
    assert plan.directories == (f"{host.root}/cpu/batch/batchns/j1", f"{host.root}/pids/batch/batchns/j1")
    with pytest.raises(HostError, match=r"there is no cgroup .*/nowhere - mkdir"):
        host.driver("/nowhere")


def test_v2_leaves_a_cgroup_with_processes_for_the_root(host: FakeHost) -> None:
    """A cgroup that has processes cannot hand controllers down; the root can."""
    own = host.unified(own="/user.slice/session")
    assert host.driver().plan("j1", Limits()).into == f"{own}/batchns/j1"
    (own / "cgroup.procs").write_text("17\n")
    assert host.driver().plan("j1", Limits()).into == f"{host.root}/batchns/j1"


def test_v2_says_what_to_do_where_no_cgroup_can_be_used(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    own = host.unified(own="/user.slice/session")
    (own / "cgroup.procs").write_text("17\n")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HostError, match=r"session has processes of its own.* - run batchns as root, or set parent"):
        host.driver()


def test_a_host_without_cgroups_is_refused_with_a_hint(host: FakeHost) -> None:
    with pytest.raises(HostError, match=r"no cgroup hierarchy is mounted .* - mount -t cgroup2"):
        host.driver()


def test_a_reading_is_what_the_kernel_says(host: FakeHost) -> None:
    """Rounded to pages, refused, or without swap: each is told as it is."""
    host.mount("memory", "memory")
    driver = host.driver()
    limits = Limits(memory=5000)
    plan = driver.plan("j1", limits)
    limit, swap, tcp = (write.path for write in plan.writes)
    full = driver.readings(limits, plan, {limit: "4096\n", swap: "4096\n", tcp: "4096\n"})["memory"]
    assert full == LimitReading(4096, "memory.limit_in_bytes")
    partly = driver.readings(limits, plan, {limit: "4096\n", swap: errno.ENOENT, tcp: errno.ENOENT})["memory"]
    assert (partly.value, "swap is not counted" in partly.why) == (4096, True)
    partly = driver.readings(limits, plan, {limit: "4096\n", swap: "4096\n", tcp: errno.ENOENT})["memory"]
    assert (partly.value, "TCP sockets" in partly.why) == (4096, True)
    refused = driver.readings(limits, plan, {limit: errno.EBUSY, swap: errno.EBUSY})["memory"]
    assert (refused.value, refused.why) == (None, "the kernel refused 5000: Device or resource busy")
    unset = render.readings(limits, plan, {limit: "max\n", swap: "max\n"})["memory"]
    assert (unset.value, unset.why) == (None, "the kernel says 'max'")


@given(st.integers(41, 102400 // 4), st.integers(2, 4))
def test_ratios_of_shares_survive_as_weights(shares: int, factor: int) -> None:
    """Within the rounding of a weight to a whole number."""
    one, more = render.weight_of_shares(shares), render.weight_of_shares(shares * factor)
    assert abs(more - factor * one) <= (factor + 1) / 2 + 1


def test_shares_map_the_default_to_the_default_and_clamp_the_rest() -> None:
    assert [render.weight_of_shares(shares) for shares in (2, 1024, 3072, 102400, 262144)] == [
        1,
        100,
        300,
        10000,
        10000,
    ]


@given(st.sets(st.integers(0, 300)))
def test_a_cpu_list_is_read_as_the_kernel_writes_it(numbers: set[int]) -> None:
    assert parse.cpu_list(",".join(map(str, sorted(numbers))) + "\n") == numbers


def test_cpu_lists_have_ranges() -> None:
    assert parse.cpu_list("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11}


def test_usage_of_v1_is_parsed_from_the_kernels_texts(host: FakeHost) -> None:
    for controller in V1:
        host.mount(controller, controller)
    driver = host.driver()
    usage = driver.usage(
        {
            "/x/cpuacct.usage": "1533297713\n",
            "/x/memory.max_usage_in_bytes": "67108864\n",
            "/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "/x/blkio.throttle.io_service_bytes_recursive": "7:0 Read 4194304\n7:0 Write 2097152\n7:0 Sync 6291456\n"
            "7:0 Async 0\n7:0 Discard 0\n7:0 Total 6291456\n254:0 Read 4096\n254:0 Write 0\nTotal 6295552\n",
        }
    )
    assert (usage.cpu_seconds, usage.memory_peak_bytes, usage.oom_kills) == (1.533297713, 67108864, 2)
    assert (usage.io_read_bytes, usage.io_write_bytes) == (4198400, 2097152)


def test_usage_of_v2_is_parsed_from_the_kernels_texts(host: FakeHost) -> None:
    host.unified()
    driver = host.driver()
    usage = driver.usage(
        {
            "/x/cpu.stat": "usage_usec 300753\nuser_usec 60256\nsystem_usec 240497\nnr_periods 0\n",
            "/x/memory.peak": "67108864\n",
            "/x/memory.events": "low 0\nhigh 0\nmax 13\noom 1\noom_kill 1\noom_group_kill 0\n",
            "/x/io.stat": "98:0 rbytes=1048576 wbytes=4096 rios=8 wios=1 dbytes=0 dios=0\n7:0 \n",
        }
    )
    assert (usage.cpu_seconds, usage.memory_peak_bytes, usage.oom_kills) == (0.300753, 67108864, 1)
    assert (usage.io_read_bytes, usage.io_write_bytes) == (1048576, 4096)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_what_the_host_does_not_tell_is_none_and_not_zero(version: str, host: FakeHost) -> None:
    if version == "v1":
        host.mount("blkio", "blkio")
    else:
        host.unified()
    usage = host.driver().usage({"/x/blkio.throttle.io_service_bytes_recursive": "Total 0\n"})
    assert (usage.cpu_seconds, usage.memory_peak_bytes, usage.oom_kills) == (None, None, None)
    assert (usage.io_read_bytes, usage.io_write_bytes) == (None, None)


def test_stacked_devices_are_not_counted_twice() -> None:
    assert parse.v1_io("253:0 Read 10\n8:0 Read 10\nTotal 20\n", {"253:0"}) == (10, 0)
    assert parse.v2_io("253:0 rbytes=10 wbytes=1\n8:0 rbytes=10 wbytes=1\n", stacked={"253:0"}) == (10, 1)
