"""Jobs under an SELinux label. On a kernel that runs SELinux and has no policy yet: it gets a small one, for good."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from batchns.errors import StepError
from batchns.kernel import lsm
from batchns.kernel.lsm import SELINUX
from batchns.model.submitter import Submitter

from .conftest import in_launcher, make_plan, run_plan
from .test_confined import ALICE, outcome, under, work
from .test_enter import enter

__all__ = ["work"]
pytestmark = pytest.mark.kernel

SYSTEM = Path("/sys/fs/selinux")
HOST, JOB = "u:r:host_t", "u:r:job_t"
# In the kernel's order: security/selinux/include/initial_sid_to_string.h.
SIDS = (
    "kernel security unlabeled fs file file_labels init any_socket port netif netmsg node igmp_packet icmp_socket "
    "tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net sysctl_net_unix sysctl_vm sysctl_dev kmod "
    "policy scmp_packet devnull"
)
CLASSES = {
    "process": "fork transition sigchld sigkill sigstop signull signal ptrace getsched setsched getsession getpgid "
    "setpgid getcap setcap share getattr setexec setfscreate noatsecure siginh setrlimit rlimitinh dyntransition "
    "setcurrent execmem execstack execheap setkeycreate setsockcreate getrlimit",
    "process2": "nnp_transition nosuid_transition",
    "file": "ioctl read write create getattr setattr lock append map unlink link rename execute open execute_no_trans "
    "entrypoint",
}
# A job may do with files what it likes, but for changing their modes. What is not listed (-U allow) is allowed.
RULES = """\
policycap nnp_nosuid_transition;
type host_t;
type job_t;
role r;
role r types { host_t job_t };
allow host_t { host_t job_t }:process *;
allow host_t host_t:process2 *;
allow host_t { host_t job_t }:file *;
allow job_t job_t:process *;
allow job_t host_t:process sigchld;
allow job_t { host_t job_t }:file ~setattr;
"""
NEEDED = "allow host_t job_t:process2 { nnp_transition nosuid_transition };\n"
LOOK = "touch made; chmod 600 made 2> /dev/null && echo changed; cat /proc/self/attr/current"


def load(folder: Path, more: str = "") -> None:
    lines = [f"class {name}" for name in CLASSES]
    lines += [f"sid {name}" for name in SIDS.split()]
    lines += [f"class {name} {{ {permissions} }}" for name, permissions in CLASSES.items()]
    lines += [RULES + more + "user u roles r;"]
    lines += [f"sid {name} {HOST}" for name in SIDS.split()]
    lines += [f"fs_use_trans tmpfs {HOST};"]
    (folder / "policy.conf").write_text("\n".join(lines) + "\n")
    made = folder / "policy"
    subprocess.run(["checkpolicy", "-U", "allow", "-o", made, folder / "policy.conf"], check=True, capture_output=True)
    with (SYSTEM / "load").open("wb", buffering=0) as file:
        file.write(made.read_bytes())
    (SYSTEM / "enforce").write_text("1")


@pytest.fixture(autouse=True)
def _loaded(tmp_path: Path) -> Iterator[None]:
    if SELINUX not in lsm.running() or not SYSTEM.joinpath("load").exists() or shutil.which("checkpolicy") is None:
        pytest.skip("SELinux does not run here")
    if lsm.held("self", SELINUX) not in ("kernel", HOST):
        pytest.skip("SELinux has a policy here")
    load(tmp_path, NEEDED)
    yield
    (SYSTEM / "enforce").write_text("0")


def refused(plan: object) -> StepError:
    async def refuse(launcher: object) -> StepError:
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        return caught.value

    return in_launcher(refuse)  # type: ignore[no-any-return]


@pytest.mark.parametrize("submitter", [ALICE, None])
def test_a_job_may_what_its_label_lets_it(work: Path, submitter: Submitter | None) -> None:
    who = {} if submitter is None else {"submitter": submitter}
    assert outcome(make_plan(work, script=LOOK, **who)) == ["changed", f"{HOST}\0"]
    (work / "made").unlink()
    assert outcome(make_plan(work, script=LOOK, change=partial(under, SELINUX, JOB), **who)) == [f"{JOB}\0"]
    assert (work / "made").exists()


def test_a_job_leaves_its_label_by_nothing_that_it_writes(work: Path) -> None:
    script = f"""\
for file in current exec fscreate sockcreate; do
  (printf '{HOST}' > /proc/self/attr/$file) 2> /dev/null && [ $file = current ] && echo left
done
(printf '{HOST}' > /proc/self/attr/exec; exec cat /proc/self/attr/current) 2> /dev/null
cat /proc/self/attr/current
"""
    said = outcome(make_plan(work, script=script, change=partial(under, SELINUX, JOB)))
    assert HOST not in "".join(said) and said[-1].rstrip("\0").endswith(JOB)


def test_a_process_that_enters_is_under_it_too_and_what_the_kernel_says_is_told(work: Path) -> None:
    plan = make_plan(work, script="sleep 100", change=partial(under, SELINUX, JOB))

    async def look(launcher):
        null = os.open("/dev/null", os.O_RDWR)
        started = await launcher.launch(plan, null, null, null)
        os.close(null)
        printed, _ = await enter(launcher, plan, "/bin/cat", "/proc/self/attr/current")
        await launcher.signal(plan.attempt, signal.SIGTERM)
        ended = await launcher.wait(plan.attempt)
        return started.confined, printed, ended.signal

    assert in_launcher(look) == ((JOB,), f"{JOB}\0", signal.SIGTERM)


def test_a_label_that_the_policy_does_not_have_fails_the_launch_by_its_name(work: Path) -> None:
    error = refused(make_plan(work, script="touch ran", change=partial(under, SELINUX, "u:r:nobody_t")))
    assert (error.step, error.path) == (SELINUX, "u:r:nobody_t")
    assert not (work / "ran").exists()


def test_a_policy_that_does_not_let_batchns_change_to_it_fails_the_launch(work: Path, tmp_path: Path) -> None:
    """no_new_privs and nosuid mounts need rules of their own: the job does not run with another label instead."""
    load(tmp_path)
    error = refused(make_plan(work, script="touch ran", change=partial(under, SELINUX, JOB)))
    assert (error.step, "nnp_transition" in error.hint, JOB in error.hint) == ("exec", True, True), error
    assert not (work / "ran").exists()
