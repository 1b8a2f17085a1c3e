"""Which profile or label a job is executed under, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve
from supervise_fakes import spec

from batchns.core import demand
from batchns.core.demand import resolve
from batchns.core.node import NodeCapacity
from batchns.errors import UserError
from batchns.kernel import lsm
from batchns.model.config import Config, IsolationSettings
from batchns.model.job import Isolation
from batchns.supervise.confinement import confinement, confinement_readings

SETTINGS = IsolationSettings(apparmor="all", apparmor_allow=("tight",), selinux_allow=("u:r:t",))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Isolation(), (("AppArmor", "all"),)),
        (Isolation(apparmor="tight"), (("AppArmor", "tight"),)),
        (Isolation(apparmor="all", selinux_label="u:r:t"), (("AppArmor", "all"), ("SELinux", "u:r:t"))),
    ],
)
def test_a_job_has_what_it_names_else_what_all_have(wanted: Isolation, found: object) -> None:
    assert confinement(wanted, SETTINGS) == found


def test_what_batchns_toml_has_no_longer_is_refused_at_the_launch() -> None:
    with pytest.raises(UserError, match=r"is not allowed by batchns.toml any more - choose from all"):
        confinement(Isolation(apparmor="old"), SETTINGS)


def test_a_job_is_refused_where_the_kernel_does_not_run_it(tmp_path: Path) -> None:
    one = evolve(spec(tmp_path, "one"), isolation=Isolation(apparmor="tight"))
    for confines, refused in ((frozenset(), True), (frozenset({lsm.APPARMOR}), False), (None, False)):
        capacity = NodeCapacity(cpus=(0,), memory=1 << 30, confines=confines)
        if refused:
            with pytest.raises(UserError, match="does not run AppArmor"):
                resolve(one, capacity, Config())
        else:
            resolve(one, capacity, Config())
    assert (demand.APPARMOR, demand.SELINUX) == (lsm.APPARMOR, lsm.SELINUX)


def test_what_could_not_be_read_back_is_told_as_it_was_asked_for() -> None:
    readings = confinement_readings((("AppArmor", "all"),), ())
    assert (readings["apparmor"].value, readings["apparmor"].why[:12]) == ("all", "as asked for")


def test_what_runs_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "module/apparmor/parameters").mkdir(parents=True)
    assert lsm.running(proc=str(tmp_path), sys=str(tmp_path)) == frozenset()
    (tmp_path / "module/apparmor/parameters/enabled").write_text("Y\n")
    (tmp_path / "filesystems").write_text("nodev\tselinuxfs\n\text4\n")
    assert lsm.running(proc=str(tmp_path), sys=str(tmp_path)) == {lsm.APPARMOR, lsm.SELINUX}
