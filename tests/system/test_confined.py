"""AppArmor profiles as a user and an administrator have them: allowed by batchns.toml, or not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchns.kernel import lsm

from .conftest import batchns

pytestmark = pytest.mark.kernel

NAME = "batchns-test-job"
RULES = f"profile {NAME} flags=(attach_disconnected) {{ file, signal (receive) peer=unconfined, deny /**/secret rw, }}"
RUN = ("run", "--config", "batchns.toml", "--json", "job.toml")


def job(folder: Path, settings: str, isolation: str = "") -> None:
    (folder / "batchns.toml").write_text(f"[isolation]\n{settings}\n")
    (folder / "secret").write_text("known\n")
    text = 'name = "look"\nscript = "cat secret; cat /proc/self/attr/current"\n[network]\nmode = "none"\n[isolation]\n'
    (folder / "job.toml").write_text(text + isolation + "\n")


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[None]:
    policy = Path("/sys/kernel/security/apparmor")
    if lsm.APPARMOR not in lsm.running() or not policy.exists() or shutil.which("apparmor_parser") is None:
        pytest.skip("AppArmor does not run here")
    (tmp_path / "rules").write_text(RULES)
    subprocess.run(["apparmor_parser", "-r", tmp_path / "rules"], check=True)
    yield
    subprocess.run(["apparmor_parser", "-R", tmp_path / "rules"], check=True)


@pytest.mark.parametrize(
    ("settings", "isolation"),
    [(f'apparmor = "{NAME}"', ""), (f'apparmor_allow = ["{NAME}"]', f'apparmor = "{NAME}"')],
)
def test_a_job_is_under_the_profile_and_its_result_says_so(folder, loaded, settings, isolation):
    job(folder, settings, isolation)
    ran = batchns(*RUN, cwd=folder)
    (output,), (errors,) = folder.glob("look-*.out"), folder.glob("look-*.err")
    assert output.read_text() == f"{NAME} (enforce)\n", ran.stderr
    assert "Permission denied" in errors.read_text()
    assert json.loads(ran.stdout)["limits"]["apparmor"] == {"value": f"{NAME} (enforce)", "source": "AppArmor"}


def test_a_profile_that_is_not_allowed_is_refused(folder):
    job(folder, f'apparmor_allow = ["{NAME}"]', f'apparmor = "{NAME[:-1]}"')
    ran = batchns(*RUN, cwd=folder)
    assert ran.code == 2
    assert f'the AppArmor profile "{NAME[:-1]}" is not allowed by batchns.toml - did you mean "{NAME}"?' in ran.stderr
    job(folder, "", 'apparmor = "unconfined"')
    ran = batchns(*RUN, cwd=folder)
    assert ran.code == 2
    assert "is not allowed by batchns.toml - remove it, or ask the administrator" in ran.stderr


def test_a_kernel_without_it_refuses_the_job_and_the_setting(folder):
    if lsm.SELINUX in lsm.running():
        pytest.skip("SELinux runs here")
    label = "system_u:system_r:container_t:s0"
    job(folder, f'selinux_allow = ["{label}"]', f'selinux_label = "{label}"')
    ran = batchns(*RUN, cwd=folder)
    assert ran.code == 2
    assert "this machine's kernel does not run SELinux" in ran.stderr
    assert not list(folder.glob("*.out"))
    job(folder, f'selinux_label = "{label}"')
    ran = batchns(*RUN, cwd=folder)
    assert ran.code == 125
    assert "in batchns.toml: this kernel does not run SELinux" in ran.stderr
