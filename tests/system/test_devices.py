"""Named resources with device nodes, as a job file asks for them. Idle loop devices stand for the units."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from .conftest import batchns
from .test_run_files import job, run_jobs

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

UNITS = ("/dev/loop5", "/dev/loop6", "/dev/loop7")
SETTINGS = '[node]\nresources = {{ fpga = {{ devices = ["{}", "{}"], common = ["{}"], env = "FPGAS" }}, seats = 9 }}\n'
LOOK = """\
touch $BATCHNS_JOB_NAME.here
until ls *.here | grep -c . | grep -q {count}; do sleep 0.02; done
ls /dev | grep loop
for node in /dev/loop5 /dev/loop6 /dev/loop7; do (exec 3<>$node) 2>/dev/null && echo opens $node; done
echo $BATCHNS_UNITS_FPGA $FPGAS
"""


@pytest.fixture
def settings(folder) -> Path:
    if not all(Path(node).exists() and stat.S_ISBLK(os.stat(node).st_mode) for node in UNITS):
        pytest.skip("this machine has no loop devices")
    path = folder / "batchns.toml"
    path.write_text(SETTINGS.format(*UNITS))
    return path


def asks(number: int) -> str:
    return f"[job.resources]\nfpga = {number}\ncpus = 0.3"


def test_jobs_at_a_time_have_different_units_and_open_their_own_only(folder, settings):
    jobs = [job(name, LOOK.format(count=2), tables=asks(1)) for name in ("a", "b")]
    ran = run_jobs(folder, *jobs, options=("--config", str(settings)))
    told = [Path(ran.jobs[name]["stdout"]).read_text() for name in ("a", "b")]
    common = "opens /dev/loop7\n"
    assert told == [
        f"loop5\nloop7\nopens /dev/loop5\n{common}0 0\n",
        f"loop6\nloop7\nopens /dev/loop6\n{common}1 1\n",
    ]
    limits = ran.jobs["b"]["limits"]
    assert limits["fpga"] == {"value": "1", "source": "batchns.toml"}
    assert limits["devices"]["value"] is None or limits["devices"]["value"].endswith("c 136:* rw, b 7:7 rw, b 7:6 rw")


def test_a_unit_is_free_again_and_who_asks_for_all_waits_for_it(folder, settings):
    script = "echo $BATCHNS_UNITS_FPGA; date +%s.%N"
    ran = run_jobs(
        folder,
        job("one", f"sleep 0.3; {script}", "priority = 90", tables=asks(1)),
        job("both", script, tables=asks(2)),
        options=("--config", str(settings)),
    )
    one, both = (Path(ran.jobs[name]["stdout"]).read_text().split() for name in ("one", "both"))
    assert (one[0], both[0]) == ("0", "0,1")
    assert float(one[1]) < float(both[1])


def test_a_job_that_asks_for_none_has_none(folder, settings):
    ran = run_jobs(folder, job("plain", "ls /dev | grep loop; env | grep -c FPGA"), options=("--config", str(settings)))
    assert Path(ran.jobs["plain"]["stdout"]).read_text() == "0\n"
    assert "fpga" not in ran.jobs["plain"]["limits"]


def test_more_units_than_there_are_is_a_mistake_of_the_job_file(folder, settings):
    (folder / "j.toml").write_text('command = ["true"]\nresources.fpga = 3\n')
    ran = batchns("run", "--config", str(settings), "j.toml", cwd=folder)
    assert ran.code != 0
    assert "fpga" in ran.stderr


def test_a_node_that_is_not_there_is_said_before_anything_starts(folder):
    settings = folder / "batchns.toml"
    settings.write_text('[node.resources]\nfpga = { devices = ["/dev/nosuch"] }\n')
    ran = batchns("run", "--config", str(settings), "--", "touch", str(folder / "ran"), cwd=folder)
    assert ran.code == 125
    assert "node.resources: /dev/nosuch: No such file or directory" in ran.stderr
    assert not (folder / "ran").exists()
