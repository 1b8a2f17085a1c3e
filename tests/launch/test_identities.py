"""Whose rights a job has: inside, on the host's files, and against its own init. Real users, by number.

Two submitters that no user database knows, with a folder each, and what each must and must not reach.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchns.errors import StepError, UserError
from batchns.launch.ids import identify
from batchns.model.job import Bind, Identity, Isolation
from batchns.model.submitter import ROOT, Submitter
from batchns.supervise.outputs import Outputs

from .conftest import ID_START, in_launcher, make_plan, run_plan

pytestmark = pytest.mark.kernel

ALICE = Submitter(name="alice", uid=31001, gid=31001, groups=(31001, 31500))
BOB = Submitter(name="bob", uid=31002, gid=31002, groups=(31002,))
EVERY = (Identity.SELF, Identity.ROOT, Identity.PRIVATE)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of alice's, and beside it bob's and root's: where folders can be id-mapped and every user enters."""
    point = Path("/srv")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "batchns-test", point], check=True)
    try:
        folder = point / "homes"
        folder.mkdir()
        yield make_home(folder)
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def make_home(folder: Path) -> Path:
    for name, owner in (("alice", ALICE), ("bob", BOB), ("root", ROOT)):
        path = folder / name
        path.mkdir()
        (path / "secret").write_text(f"{name}'s")
        (path / "secret").chmod(0o600)
        (path / "inner").mkdir(mode=0o755)
        (path / "inner" / "file").write_text("readable")
        for entry in (path, path / "secret", path / "inner", path / "inner" / "file"):
            os.chown(entry, owner.uid, owner.gid)
        path.chmod(0o700)
    return folder / "alice"


def output(home: Path, script: str, identity: Identity | None, submitter: Submitter = ALICE, **more: object) -> str:
    plan = make_plan(home, submitter=submitter, script=script, isolation=Isolation(identity=identity, **more))
    return in_launcher(lambda launcher: run_plan(launcher, plan)).output


@pytest.mark.parametrize(
    ("identity", "shown"), [(Identity.SELF, "31001 31001"), (Identity.ROOT, "0 0"), (Identity.PRIVATE, "0 0")]
)
def test_the_job_is_who_its_identity_says_and_its_files_are_the_submitters(home, identity, shown):
    text = output(home, "echo $(id -u) $(id -g); cat secret; echo new > made; mkdir sub; ls -ldn made", identity)
    assert text.splitlines()[0] == shown
    assert "alice's" in text
    for name in ("made", "sub"):
        found = (home / name).stat()
        assert (found.st_uid, found.st_gid) == (ALICE.uid, ALICE.gid)


def test_nobody_but_root_runs_under_the_default_private():
    assert identify(ALICE, None, ID_START).credentials.uid == ALICE.uid
    assert identify(ROOT, None, ID_START).credentials.uid == 0


@pytest.mark.parametrize("asked", [Identity.SELF, Identity.ROOT])
def test_root_cannot_have_an_identity_that_maps_host_uid_0(asked):
    with pytest.raises(UserError, match="host uid 0 is never a job's"):
        identify(ROOT, asked, ID_START)


@pytest.mark.parametrize("identity", EVERY)
def test_what_another_user_keeps_to_itself_stays_so(home, identity):
    """Host root prepared the sandbox, and could read all of it."""
    others = [home.parent / name for name in ("bob", "root")]
    script = "\n".join(f"cat {path}/secret {path}/inner/file; echo x > {path}/inner/file" for path in others)
    assert output(home, f"({script}) 2>&1", identity).count("Permission denied") == 6
    assert all((path / "inner" / "file").read_text() == "readable" for path in others)


@pytest.mark.parametrize("identity", EVERY)
@pytest.mark.parametrize("owner", ["bob", "root"])
def test_a_bind_is_looked_up_as_the_submitter(home, identity, owner):
    """A folder that everybody may read lies in one that only its owner may enter."""
    bind = Bind(str(home.parent / owner / "inner"), "/tmp/theirs")
    isolation = Isolation(identity=identity, binds=(bind,))
    plan = make_plan(home, submitter=ALICE, script="cat /tmp/theirs/file", isolation=isolation)

    async def work(launcher):
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        return caught

    caught = in_launcher(work)
    assert (caught.value.step, caught.value.path) == ("mount bind", bind.source)
    assert "Permission denied" in str(caught.value)


def test_root_may_enter_what_alice_may_not(home):
    """The positive control of the test above."""
    bind = Bind(str(home.parent / "bob" / "inner"), "/tmp/theirs")
    assert output(home.parent / "root", "cat /tmp/theirs/file", None, ROOT, binds=(bind,)) == "readable"


@pytest.mark.parametrize("identity", EVERY)
def test_a_bound_folder_of_somebody_else_is_not_the_jobs_to_write(home, identity):
    """Also where the folder is id-mapped: only the submitter's own ids are."""
    theirs = home.parent / "open"
    theirs.mkdir()
    (theirs / "file").write_text("theirs")
    os.chown(theirs, BOB.uid, BOB.gid)
    text = output(
        home,
        "(cat /tmp/b/file; echo x > /tmp/b/file; rm -f /tmp/b/file; touch /tmp/b/new) 2>&1",
        identity,
        binds=(Bind(str(theirs), "/tmp/b"),),
    )
    assert text.startswith("theirs")
    assert (theirs / "file").read_text() == "theirs"
    assert [entry.name for entry in theirs.iterdir()] == ["file"]


def test_groups_of_the_submitter_are_the_jobs_and_those_of_root_are_not(home):
    shared = home.parent / "shared"
    shared.write_text("for the group")
    shared.chmod(0o640)
    os.chown(shared, 0, 31500)
    assert output(home, f"cat {shared}; id -G", Identity.SELF) == "for the group31001 31500\n"
    os.chown(shared, 0, 0)
    assert "Permission denied" in output(home, f"cat {shared} 2>&1", Identity.SELF)
    assert "Permission denied" in output(home, f"cat {shared} 2>&1", Identity.ROOT)


@pytest.mark.parametrize("identity", EVERY)
def test_the_command_can_neither_end_nor_read_its_init(home, identity):
    # It takes on its own identity just after it has started the command.
    wait = "while grep -q \"^Uid:.$(id -u)\" /proc/1/status; do :; done"
    script = f"{wait}; kill -9 1; kill -STOP 1; cat /proc/1/environ /proc/1/maps; ls /proc/1/fd/ /proc/1/cwd; echo done"
    text = output(home, f"({script}) 2>&1", identity)
    assert text.count("not permitted") == 2
    assert text.count("ermission denied") == 4
    assert text.endswith("done\n")


@pytest.mark.parametrize("identity", EVERY)
def test_nor_in_the_moment_before_init_has_its_own_identity(home, identity):
    """The kernel keeps PID 1 from signals of its own namespace, and init is not dumpable all along."""
    script = "(kill -9 1; kill -STOP 1; head -c 9 /proc/1/environ /proc/1/maps; echo done) 2>&1"
    for _ in range(5):
        text = output(home, script, identity)
        assert text.count("ermission denied") == 2
        assert text.endswith("done\n"), "init told of the end, as ever"


@pytest.mark.parametrize("identity", EVERY)
def test_a_set_user_id_program_gives_nothing(home, identity):
    program = home / "id"
    shutil.copy("/usr/bin/id", program)
    os.chown(program, 0, 0)
    program.chmod(0o4755)
    uid = output(home, "id -u", identity)
    assert output(home, "./id -u", identity) == uid


@pytest.mark.parametrize("identity", EVERY)
def test_the_memory_file_systems_and_the_terminal_devices_are_the_jobs(home, identity):
    script = "for d in /tmp /var/tmp /dev/shm /run; do echo x > $d/f && cat $d/f; done; echo y > /dev/null && id -u"
    assert output(home, script, identity).startswith("x\nx\nx\nx\n")


def test_ids_that_collide_with_inits_get_another_init():
    user = Submitter(name="u", uid=65533, gid=65532, groups=(65532, 65531))
    assert identify(user, Identity.SELF, ID_START).credentials.init == 65530


@pytest.mark.parametrize("identity", EVERY)
def test_no_map_has_host_uid_0(identity):
    for entry in identify(ALICE, identity, ID_START).ids.uids:
        assert not entry.outside <= 0 < entry.outside + entry.length


async def inline(function, *, late=None):
    return function()


def test_output_files_are_the_submitters_and_only_where_it_may_write(home):
    files = Outputs(inline, ALICE)
    os.close(files.open("stdout", str(home / "out")))
    assert (home / "out").stat().st_uid == ALICE.uid
    for place in (home.parent / "bob" / "inner" / "out", home.parent / "made"):
        with pytest.raises(UserError, match="permission denied"):
            files.open("stdout", str(place))
        assert not place.exists() if place.parent == home.parent else True
    assert os.access(home.parent / "root" / "secret", os.R_OK)  # this thread is root again
    os.close(Outputs(inline, ROOT).open("stdout", str(home.parent / "made")))


def test_an_existing_file_of_another_user_is_not_emptied(home):
    victim = home.parent / "victim"
    victim.write_text("keep me")
    with pytest.raises(UserError, match="permission denied"):
        Outputs(inline, ALICE).open("stdout", str(victim))
    assert victim.read_text() == "keep me"


def test_the_environment_names_the_user(home):
    assert output(home, "echo $USER $LOGNAME", Identity.SELF) == "alice alice\n"
    assert output(home, "echo $USER $LOGNAME", Identity.ROOT) == "root root\n"


def test_the_attempt_carries_its_submitter(home):
    """One launcher serves several users, one after the other, from the same slot."""

    async def work(launcher):
        homes = ((home, ALICE), (home.parent / "bob", BOB), (home, ALICE))
        plans = [make_plan(folder, submitter=user, script="id -u; cat secret") for folder, user in homes]
        return [(await run_plan(launcher, plan)).output for plan in plans]

    assert in_launcher(work) == ["31001\nalice's", "31002\nbob's", "31001\nalice's"]
