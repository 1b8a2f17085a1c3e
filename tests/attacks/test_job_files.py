"""Hostile job files end in a message or in a job that gets nothing, and the daemon goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchns.wire.types import ActRequest

from ..daemon.live import Live, toml
from ..system.conftest import until
from . import scene, tree
from .job_files import HOSTILE
from .modes import MALLORY, VICTOR, World

pytestmark = pytest.mark.kernel
PACKAGE = Path(__file__).resolve().parents[2]

SUBMIT = """
import json, sys, time
from batchns.client.sync import Client
from batchns.client.errors import ApiError, Lost
from batchns.wire.types import JobFile, SubmitRequest
socket, folder, files = json.load(sys.stdin)
answers = {}
for name, text in files.items():
    began = time.monotonic()
    try:
        with Client(socket) as client:
            given = SubmitRequest(files=(JobFile(text=text, source=folder + "/hostile.toml", folder=folder),))
            answers[name] = [[job.id for job in client.submit(given).jobs], ""]
    except (ApiError, Lost, UnicodeError) as error:
        answers[name] = [[], f"{type(error).__name__}: {error}"]
    answers[name].append(time.monotonic() - began)
json.dump(answers, sys.stdout)
"""


@pytest.fixture
def daemon(machine: World) -> Iterator[Live]:
    yield machine.daemon
    machine.daemon.clear()


def prepare(one: scene.Scene) -> None:
    """What the files name in their folder."""
    (one.visible / "of-root").mkdir()
    (one.work / "link").symlink_to(one.outside)
    (one.work / "link-to-canary").symlink_to(one.canary)
    os.mkfifo(one.work / "pipe")
    (one.work / "garbage").write_bytes(b"hsqs" + os.urandom(8192))
    links, files = one.work / "root-of-links", one.work / "root-of-files"
    for folder in (links, files):
        folder.mkdir()
        for name in ("bin", "etc"):
            (folder / name).mkdir()
    for name in ("proc", "sys", "dev", "tmp", "run", "var"):
        (links / name).symlink_to(one.outside)
        (files / name).write_text("")
    (links / "etc/resolv.conf").symlink_to(f"../../../../../../..{one.canary}")
    tree.image(files, one.work / "image")
    for path in [one.work / "pipe", one.work / "garbage", one.work / "image", links, files, *links.rglob("*")]:
        os.chown(path, MALLORY, MALLORY, follow_symlinks=False)


def test_no_job_file_gets_anything_and_each_is_answered(machine: World, daemon: Live) -> None:
    """As their user, without the command line in between; what is then shown of them cannot command a terminal."""
    with machine.scene(MALLORY) as one:
        prepare(one)
        known = [Path("/etc/passwd").read_bytes(), *(path.stat() for path in map(Path, ("/etc/shadow", "/dev/full")))]
        texts = {name: make(one) for name, make in HOSTILE.items()}
        pid = daemon.daemon.pid if daemon.daemon else 0
        answers = submitted(daemon, one, texts)
        assert set(answers) == set(texts)
        assert [name for name, (jobs, said, _) in answers.items() if not jobs and not said] == []
        assert {name: took for name, (_, _, took) in answers.items() if took > 5} == {}
        jobs = {name: found for name, (found, _, _) in answers.items() if found}
        rows = settled(daemon, [job for found in jobs.values() for job in found])
        assert daemon.daemon is not None and daemon.daemon.pid == pid and daemon.daemon.poll() is None
        said = "".join(daemon(*ask, user="mallory").stdout for ask in (("ps", "--all"), ("history",)))
        said += "".join(daemon.output(job) for job in rows)
        said += "".join(answer for _, answer, _ in answers.values())
        assert one.token not in said
        escapes = [job for name, found in jobs.items() for job in found if "escapes" in name]
        shown = "".join(daemon(ask, *escapes, user="mallory").stdout for ask in ("show", "why"))
        assert escapes and shown.count("hostile") >= len(escapes)
        assert [letter for letter in shown if not letter.isprintable() and letter != "\n"] == []
        assert one.canary.read_text() == "untouched"
        after = [Path("/etc/passwd").read_bytes(), *(path.stat() for path in map(Path, ("/etc/shadow", "/dev/full")))]
        assert [str(value) for value in after][:1] == [str(known[0])] and after[1].st_mtime == known[1].st_mtime
        assert one.accepted == dict.fromkeys(one.accepted, 0)
        assert "connected to the daemon" not in said
        assert "host's processes" not in said
        assert list((one.visible / "of-root").iterdir()) == []
        assert daemon.over(daemon.submit("--", "true", user="victor")).state == "COMPLETED"


def submitted(daemon: Live, one: scene.Scene, texts: dict[str, str]) -> dict[str, tuple[list[str], str, float]]:
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT],
        input=json.dumps([str(daemon.socket), str(one.work), texts]),
        capture_output=True,
        text=True,
        user=MALLORY,
        group=MALLORY,
        extra_groups=[],
        cwd="/",
        env={"PYTHONPATH": str(PACKAGE), "PATH": os.environ["PATH"]},
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: tuple(answer) for name, answer in json.loads(done.stdout).items()}  # type: ignore[misc]


def settled(daemon: Live, jobs: list[str]) -> list[str]:
    """Nothing of them runs any more; what waits is cancelled."""
    with daemon.client() as client:
        until(lambda: {job.state for job in client.jobs()} <= {"PENDING"}, 30)
        for job in client.jobs():
            client.act(ActRequest(verb="cancel", jobs=(job.id,)))
    return jobs


def test_variables_of_the_dynamic_linker_concern_the_job_alone(daemon: Live) -> None:
    """Whoever obeys LD_DEBUG_OUTPUT leaves a file: the command does, in its folder; nobody outside of the job."""
    with scene.make(MALLORY, VICTOR, daemon.base) as one:
        places = {"in": one.work, "out": one.outside}
        for name, place in places.items():
            env = {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": f"{place}/obeyed-{name}", "LD_PRELOAD": "/none"}
            names = {f"env.{variable}": value for variable, value in env.items()}
            (one.work / f"{name}.toml").write_text(toml(name=name, command=["cat", "/dev/null"], **names))
            job = daemon("submit", "--parsable", "--cpus", "0.1", f"{name}.toml", user="mallory", cwd=one.work)
            assert job.code == 0, job
            assert daemon.over(job.stdout.strip()).state == "COMPLETED"
            assert daemon("exec", job.stdout.strip(), "--", "true", user="mallory").code != 0
        found = [path for place in places.values() for path in place.glob("obeyed-*")]
        assert found and {path.stat().st_uid for path in found} == {MALLORY}
        assert not list(one.outside.glob("obeyed-*"))


@pytest.mark.parametrize("user", ["mallory", None])
def test_broken_images_end_in_a_message(machine: World, daemon: Live, user: str | None) -> None:
    """Cut off, changed in the middle, and none at all; each is root's, in a folder that the administrator lists."""
    whole = machine.image.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 3 : len(whole) // 3 + 4096] = os.urandom(4096)
    made = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "head": whole[:96],
        "noise": os.urandom(1 << 16),
        "changed": changed,
    }
    folder = daemon.folder(user)
    try:
        for name, content in made.items():
            path = machine.image.parent / f"{name}.squashfs"
            path.write_bytes(bytes(content))
            (folder / f"{name}.toml").write_text(
                toml(name=name, command=["/usr/bin/python3", "-c", "print(1)"], time_limit="10s")
                + f'isolation.rootfs = "{path}"\n'
            )
            ran = daemon("submit", "--parsable", "--cpus", "0.1", f"{name}.toml", user=user, cwd=folder)
            row = daemon.over(ran.stdout.strip())
            assert row.state == "FAILED" or name == "changed", row
            assert row.reason.isprintable() and len(row.reason) < 300
        good = daemon.submit("--", "true", user=user)
        assert daemon.over(good).state == "COMPLETED"
    finally:
        for name in made:
            (machine.image.parent / f"{name}.squashfs").unlink(missing_ok=True)
        shutil.rmtree(folder)
