"""`scratch_on = "disk"` as a user and an administrator have it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from batchns.cli.load import find_config
from batchns.supervise.scratch import path_of, room, sweep_scratch

from .conftest import batchns, until

pytestmark = pytest.mark.kernel

RUN = ("run", "--config", "batchns.toml", "--json")
MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Path:
    if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
        pytest.skip("no mkfs.ext4, or no loop devices")
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "work").mkdir()
    settings(tmp_path / "work", "400MiB")
    return tmp_path / "work"


def settings(site: Path, capacity: str, more: str = "") -> None:
    text = f'[node]\nscratch_folder = "{site.parent}/disk"\nscratch_capacity = "{capacity}"\n'
    text += f'[paths]\nrun = "{site.parent}/run"\n'
    (site / "batchns.toml").write_text(text + more)


def job(site: Path, name: str, script: str, resources: str) -> str:
    text = f"name = \"{name}\"\nscript = '''\n{script}\n'''\nstdout = \"{name}.out\"\n[resources]\n{resources}\n"
    (site / f"{name}.toml").write_text(f'{text}[network]\nmode = "none"\n')
    return f"{name}.toml"


def left(site: Path) -> list[str]:
    found = [path.name for path in (site.parent / "disk").iterdir()]
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += [path.parts[3]] if f"{site.parent}/disk" in path.read_text() else []
        except OSError:
            continue
    return found


def test_a_job_writes_more_than_its_memory_and_is_not_killed_for_it(site):
    script = (
        "stat -f -c %T /tmp; dd if=/dev/zero of=/tmp/big bs=1M count=250 2> /dev/null && stat -c %s /tmp/big"
        "; dd if=/dev/zero of=/tmp/more bs=1M 2>&1 | grep -o 'No space left'"
    )
    file = job(site, "big", script, 'memory = "64MiB"\nscratch = "256MiB"\nscratch_on = "disk"')
    ran = batchns(*RUN, file, cwd=site)
    assert ran.code == 0, ran.stderr
    assert (site / "big.out").read_text().splitlines() == ["ext2/ext3", str(250 * MIB), "No space left"]
    result = json.loads(ran.stdout)
    assert result["state"] == "COMPLETED"
    reading = result["limits"]["scratch"]
    assert reading["source"] == "ext4" and 256 * MIB <= reading["value"] <= 300 * MIB
    until(lambda: not left(site))


def test_jobs_wait_for_room(site):
    ask = 'scratch = "250MiB"\nscratch_on = "disk"'
    script = "date +%s%N; sleep 1; date +%s%N"
    files = [job(site, name, script, ask) for name in ("one", "two")]
    ran = batchns(*RUN, *files, cwd=site)
    assert ran.code == 0, ran.stderr
    one, two = sorted(tuple(map(int, (site / f"{name}.out").read_text().split())) for name in ("one", "two"))
    assert two[0] > one[1]
    until(lambda: not left(site))


def test_more_than_there_is_and_a_machine_without_a_folder_are_refused(site):
    file = job(site, "big", "true", 'scratch = "500MiB"\nscratch_on = "disk"')
    ran = batchns(*RUN, file, cwd=site)
    assert ran.code == 2
    assert "scratch = 500MiB: this node has 400MiB - ask for at most 400MiB" in ran.stderr
    (site / "batchns.toml").write_text("")
    ran = batchns(*RUN, file, cwd=site)
    assert ran.code == 2
    assert 'scratch_on = "disk": there is no folder for that here - remove it, or have scratch_folder' in ran.stderr


def test_a_launch_that_fails_leaves_nothing(site):
    (site / "fail.toml").write_text(
        'name = "fail"\ncommand = ["/no/such"]\n[resources]\nscratch = "1MiB"\nscratch_on = "disk"\n'
        '[network]\nmode = "none"\n'
    )
    (site / "early.toml").write_text(
        'name = "early"\ncommand = ["true"]\n[resources]\nscratch = "1MiB"\nscratch_on = "disk"\n'
        '[network]\nmode = "none"\n[isolation]\nrootfs = "/no/such"\n'
    )
    ran = batchns(*RUN, "fail.toml", "early.toml", cwd=site)
    assert ran.code != 0
    assert {name: job["state"] for name, job in ran.jobs.items()} == {"fail": "FAILED", "early": "FAILED"}
    until(lambda: not left(site))


def test_a_folder_that_others_can_write_to_is_refused(site):
    (site.parent / "disk").chmod(0o777)
    ran = batchns(*RUN, job(site, "any", "true", ""), cwd=site)
    assert ran.code == 125
    assert "is not a folder that only root can write to - chown root" in ran.stderr


def test_what_a_run_left_between_making_and_attaching_is_swept(site):
    """The crash point: the file is there, and nobody will ever ask a launcher for its attempt."""
    config = find_config(str(site / "batchns.toml"))
    gone, alive, elsewhere = (path_of(config, name) for name in ("aaaaa-0", "bbbbb-0", "aaaaa-1"))
    elsewhere = elsewhere.replace("batchns-", "batchns-0", 1)
    (site.parent / "run/run-bbbbb").mkdir(parents=True)
    for path in (gone, alive, elsewhere):
        Path(path).touch()
    assert sweep_scratch(config) == ["scratch of attempt aaaaa-0, which is gone: removed"]
    assert sorted(left(site)) == sorted(Path(path).name for path in (alive, elsewhere))
    assert sweep_scratch(config, {"bbbbb-0"}, "bbbbb") == []
    assert sweep_scratch(config, {"bbbbb-1"}, "bbbbb") == ["scratch of attempt bbbbb-0, which is gone: removed"]
    Path(elsewhere).unlink()


def test_what_is_free_less_a_tenth_is_there_where_nothing_is_said(site):
    settings(site, "1MiB")
    text = (site / "batchns.toml").read_text().replace('scratch_capacity = "1MiB"\n', "")
    (site / "batchns.toml").write_text(text)
    found = room(find_config(str(site / "batchns.toml")))
    free = shutil.disk_usage(site.parent / "disk").free
    assert found == pytest.approx(free * 0.9, rel=0.05)


def test_no_job_writes_where_others_have_theirs(site):
    file = job(site, "bad", "touch /out/x", "")
    (site / file).write_text((site / file).read_text() + f'[isolation]\nbinds = ["{site.parent}/disk:/tmp/out"]\n')
    ran = batchns(*RUN, file, cwd=site)
    assert ran.code == 1
    assert "batchns keeps its own files in" in ran.stderr


def test_an_option_says_so_too(site):
    command = ("--scratch", "8MiB", "--scratch-on", "disk", "--network", "none", "--", "stat", "-f", "-c", "%T", "/tmp")
    ran = batchns("run", "--config", "batchns.toml", *command, cwd=site)
    assert ran.stdout == "ext2/ext3\n", ran.stderr
