"""The plan is pure data: the same attempt gives the same plan, and it survives the wire unchanged."""

from __future__ import annotations

import json

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from batchns.errors import UserError
from batchns.kernel.cgroups.interface import CgroupPlan, Device, DevicePlan, Write
from batchns.kernel.network.types import NetworkPlan, Shapers
from batchns.launch import build, init
from batchns.launch.plan import (
    Base,
    Command,
    Credentials,
    IdMap,
    Ids,
    Mount,
    Owner,
    Plan,
    Rootfs,
    from_wire,
    of_launcher,
    to_init,
    to_wire,
)
from batchns.launch.sandbox import OPERATIONS, SCRIPT
from batchns.model.job import Bind, Isolation, JobSpec
from batchns.model.submitter import Submitter

text = st.text(max_size=20)
texts = st.lists(text, max_size=4).map(tuple)
number = st.integers(0, 2**40)
maps = st.lists(st.builds(IdMap, number, number, number), max_size=2).map(tuple)
numbers = st.lists(number, max_size=3).map(tuple)
plans = st.builds(
    Plan,
    text,
    text,
    text,
    st.builds(Base, st.lists(st.builds(Mount, text, text, text, texts), max_size=4).map(tuple), st.booleans()),
    st.builds(
        CgroupPlan,
        texts,
        st.lists(st.builds(Write, text, text, text, st.booleans()), max_size=3).map(tuple),
        texts,
        text,
        st.lists(st.tuples(text, text), max_size=3).map(tuple),
        texts,
        st.builds(DevicePlan, text, st.lists(st.builds(Write, text, text, text, st.booleans())).map(tuple), text),
    ),
    st.builds(NetworkPlan, text, text, text, text, text, text, text, st.none() | number, st.none() | number, number),
    st.none() | st.builds(Rootfs, text, number, st.booleans()),
    st.lists(st.builds(Mount, text, text, text, texts), max_size=4).map(tuple),
    st.builds(Ids, maps, maps),
    st.builds(Ids, maps, maps),
    st.builds(Credentials, number, number, numbers, number, st.builds(Owner, number, number, numbers), number),
    st.builds(
        Command,
        texts,
        st.lists(st.tuples(text, text), max_size=3).map(tuple),
        text,
        text,
        st.lists(st.tuples(number, number, number), max_size=3).map(tuple),
        number,
    ),
    text,
    text,
)


@given(plans)
def test_a_plan_survives_the_wire(plan):
    assert from_wire(to_wire(plan)) == plan


@given(plans)
def test_init_gets_what_it_needs_of_a_plan(plan):
    got = of_launcher(to_init(plan))
    needed = ("hostname", "network", "rootfs", "mounts", "credentials", "command", "seccomp")
    assert {name: getattr(got, name) for name in needed} == {name: getattr(plan, name) for name in needed}
    assert got.cgroup.joins == plan.cgroup.joins
    assert type(got.mounts) is tuple and {type(mount) for mount in got.mounts} <= {Mount}
    assert [type(getattr(got, name)) for name in needed] == [type(getattr(plan, name)) for name in needed]


@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e6)),
    st.none() | number,
    st.none() | number,
    st.lists(st.text(), max_size=2),
)
def test_what_init_tells_is_json(phases, egress, ingress, names):
    told = json.loads(init.ready(phases, Shapers(egress, ingress), names))
    assert told["shapers"] == {"egress": egress, "ingress": ingress}
    assert told["phases"] == pytest.approx(phases, abs=1e-6)
    assert told["confined"] == names


def attempt(**spec) -> build.Attempt:
    job = JobSpec(**{"name": "sweep", "cwd": "/data/run7", "command": ("true",), **spec})
    return build.Attempt(
        name="abcde-1",
        job_id="7",
        spec=job,
        slot=build.Slot(number=3, id_start=1_000_196_608, address="10.213.0.4"),
        cgroup=CgroupPlan(),
        network=NetworkPlan("none"),
        record="/run/x",
        scratch=1 << 30,
        usual_scratch=1 << 20,
        variables={"BATCHNS_JOB_ID": "7"},
        covers=(("/etc/resolv.conf", "/run/y"),),
    )


ALL = frozenset(build.MAY_MASK)


def test_the_same_attempt_gives_the_same_plan():
    assert build.build(attempt(), host_paths=ALL) == build.build(attempt(), host_paths=ALL)


def test_every_mount_is_an_operation_that_the_sandbox_knows():
    plan = build.build(evolve(attempt(), nodes=(("/dev/nvidia0", Device("c", 195, 0)),)), host_paths=ALL)
    on_disk = build.build(evolve(attempt(), disk="/srv/scratch/one.ext4"), host_paths=ALL)
    assert "resize" not in {mount.kind for mount in on_disk.mounts}
    assert {mount.kind for mount in (*plan.base.mounts, *plan.mounts, *on_disk.mounts)} == set(OPERATIONS)


def test_a_job_with_the_usual_scratch_has_nothing_to_resize():
    usual = evolve(attempt(), scratch=1 << 20)
    assert [m.kind for m in build.build(usual, host_paths=ALL).mounts] == ["cover", "bind"]
    assert [m.target for m in build.build(attempt(), host_paths=ALL).mounts[:2]] == ["/tmp", "/var/tmp"]


def test_nodes_come_before_anything_that_could_hide_them():
    nodes = (("/dev/nvidia0", Device("c", 195, 0)), ("/dev/dri/card0", Device("c", 226, 0)))
    mounts = build.build(evolve(attempt(), nodes=nodes), host_paths=ALL).mounts
    assert mounts[0] == Mount("nodes", "/dev", options=("nvidia0 c 195 0", "dri/card0 c 226 0"))


def test_only_what_the_host_has_is_masked():
    plan = build.build(attempt(), host_paths=frozenset({"/proc/kcore"}))
    hidden = [mount.target for mount in plan.base.mounts if mount.kind in ("mask", "readonly")]
    assert hidden == ["/proc/kcore"]


def test_the_working_folder_comes_after_what_it_lies_in_and_is_id_mapped():
    plan = build.build(attempt(cwd="/tmp/deep/run"), host_paths=ALL)
    assert plan.mounts[-1] == Mount("bind", "/tmp/deep/run", "/tmp/deep/run", ("idmap",))


def test_a_bind_that_holds_the_working_folder_replaces_it():
    binds = (Bind("/data", "/data", read_only=True),)
    plan = build.build(attempt(isolation=Isolation(binds=binds)), host_paths=ALL)
    assert [m for m in plan.mounts if m.kind == "bind"] == [Mount("bind", "/data", "/data", ("idmap", "ro"))]


def test_binds_are_mounted_from_the_outside_in():
    binds = (Bind("/a", "/srv/x/y"), Bind("/b", "/srv/x"))
    plan = build.build(attempt(isolation=Isolation(binds=binds)), host_paths=ALL)
    assert [m.target for m in plan.mounts if m.kind == "bind"][-2:] in (
        ["/srv/x", "/srv/x/y"],
        ["/data/run7", "/srv/x/y"],
    )


@pytest.mark.parametrize("cwd", ["/", "/proc", "/sys/kernel", "/dev/shm"])
def test_a_working_folder_of_the_system_is_never_bound_writable(cwd):
    plan = build.build(attempt(cwd=cwd), host_paths=ALL)
    assert not [m for m in plan.mounts if m.kind == "bind"]


@pytest.mark.parametrize("target", ["/", "/proc", "/sys", "/dev", "/run"])
def test_a_bind_over_what_the_sandbox_provides_is_refused(target):
    with pytest.raises(UserError, match="nothing can be bound"):
        build.build(attempt(isolation=Isolation(binds=(Bind("/data", target),))), host_paths=ALL)


def test_a_script_without_an_interpreter_line_runs_by_the_shell():
    plan = build.build(attempt(command=None, script="echo hi"), host_paths=ALL)
    assert plan.command.argv == ("/bin/sh", SCRIPT)
    plan = build.build(attempt(command=None, script="#!/usr/bin/python3\n"), host_paths=ALL)
    assert plan.command.argv == (SCRIPT,)


def test_ids_of_the_job_are_its_slots():
    plan = build.build(attempt(), host_paths=ALL)
    whole = (IdMap(0, 1_000_196_608, 65536),)
    assert plan.ids == plan.shift == Ids(whole, whole)
    assert plan.credentials.init != plan.credentials.uid


def test_a_root_of_the_jobs_own_is_not_prepared_ahead_and_only_a_listed_image_is_one():
    spec = evolve(attempt().spec, isolation=Isolation(rootfs="/srv/images/x.sqfs", overlay=1 << 20))
    for images, listed in ((), False), (("/srv/images",), True), (("/srv/ima",), False):
        user = Submitter(name="ada", uid=1000, gid=1000, groups=(1000,))
        plan = build.build(evolve(attempt(), spec=spec, images=images, submitter=user), host_paths=ALL)
        assert plan.rootfs == Rootfs("/srv/images/x.sqfs", 1 << 20, listed)
        assert plan.base == Base(host_root=False)
    host = build.build(attempt(), host_paths=ALL)
    assert host.rootfs is None
    assert set(host.base.mounts) <= set(plan.mounts)
