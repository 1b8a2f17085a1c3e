"""A launch that fails says at which step, on what path, with which errno, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
from errno import EACCES, ELOOP, ENOENT, EROFS
from pathlib import Path

import pytest

from batchns.errors import StepError
from batchns.kernel import userns
from batchns.launch.plan import IdMap, Ids, Mount
from batchns.model.job import Bind, Isolation

from .conftest import in_launcher, make_plan, run_plan

pytestmark = pytest.mark.kernel


def failure(folder, **spec) -> StepError:
    """The error of a launch, after the same launcher has shown that it still launches others."""
    plan = make_plan(folder, **{"command": ("true",), **spec})
    healthy = make_plan(folder, command=("true",))

    async def work(launcher):
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        assert (await run_plan(launcher, healthy)).exit_code == 0
        return caught.value

    before = snapshot()
    error = in_launcher(work)
    assert not os.path.exists(plan.record)
    assert snapshot() == before
    return error


def snapshot() -> tuple[object, ...]:
    """What a launch could leave on the host: mounts, links, our child processes."""
    mounts = Path("/proc/self/mountinfo").read_text()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return mounts, socket.if_nameindex(), children


@pytest.mark.parametrize(
    ("command", "errno"),
    [(("no-such-command",), ENOENT), (("/no/such",), ENOENT), (("/etc/passwd",), EACCES), (("/etc",), EACCES)],
)
def test_a_command_that_cannot_be_executed(folder, command, errno):
    error = failure(folder, command=command)
    assert (error.step, error.path, error.errno) == ("exec", command[0], errno)


def test_a_bind_whose_source_does_not_exist(folder):
    error = failure(folder, isolation=Isolation(binds=(Bind("/no/such/folder", "/tmp/x"),)))
    assert (error.step, error.path, error.errno) == ("mount bind", "/no/such/folder", ENOENT)
    assert "write a path that exists" in str(error)


def test_a_bind_whose_source_is_reached_through_a_symbolic_link(folder, tmp_path):
    (tmp_path / "link").symlink_to("/etc")
    error = failure(folder, isolation=Isolation(binds=(Bind(f"{tmp_path}/link/ssl", "/tmp/x"),)))
    assert (error.step, error.errno) == ("mount bind", ELOOP)
    assert "symbolic link" in str(error)


def test_a_bind_to_a_folder_that_the_root_does_not_have(folder, tmp_path):
    error = failure(folder, isolation=Isolation(binds=(Bind(str(tmp_path), "/no-such-target"),)))
    assert (error.step, error.path, error.errno) == ("mount bind", "/no-such-target", EROFS)
    assert "below /tmp" in str(error)


def test_a_working_folder_that_the_job_may_not_enter(folder):
    error = failure(folder, change=lambda plan: plan._replace(command=plan.command._replace(cwd="/root")))
    assert (error.step, error.path, error.errno) == ("cwd", "/root", EACCES)


def test_a_file_system_that_the_kernel_does_not_have(folder):
    broken = Mount("tmpfs", "/tmp", options=("no-such-option=1",))
    error = failure(folder, change=lambda plan: plan._replace(mounts=(broken,)))
    assert (error.step, error.path) == ("mount tmpfs", "/tmp")


def test_a_map_that_contains_host_root_is_refused(folder):
    """Neither by the function that writes maps, nor by a launcher that is handed such a plan."""
    with pytest.raises(PermissionError, match="host uid 0"):
        userns.map_ids(os.getpid(), (((0, 0, 1),), ((0, 0, 1),)))
    error = failure(folder, change=lambda plan: plan._replace(ids=Ids((IdMap(0, 0, 65536),), (IdMap(0, 0, 65536),))))
    assert "host uid 0" in str(error)


def test_a_join_of_a_cgroup_that_is_not_there(folder):
    path = "/sys/fs/cgroup/no-such-cgroup/tasks"
    error = failure(folder, change=lambda plan: plan._replace(cgroup=plan.cgroup._replace(joins=(path,))))
    assert (error.step, error.path, error.errno) == ("join cgroup", path, ENOENT)
