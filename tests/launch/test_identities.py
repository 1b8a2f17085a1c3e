"""Whose rights a job has: inside, on the host's files, and against its own init. Real users, by number.

Two submitters that no user database knows, with a folder each, and what each must and must not reach.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from errno import EACCES
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


@pytest.mark.parametrize("identity", EVERY)
@pytest.mark.parametrize("kind", ["a file", "a folder", "two folders"])
def test_a_mount_point_in_another_bind_is_nothing_that_root_makes(home, identity, kind):
    """The second bind lies in the first: what it lacks there would be made in somebody else's folder."""
    theirs = home.parent / "open"
    theirs.mkdir()
    source = home / ("secret" if kind == "a file" else "inner")
    target = "/mnt/a/b" if kind == "two folders" else "/mnt/nologin"
    caught = refused(home, identity, Bind(str(theirs), "/mnt"), Bind(str(source), target))
    assert (caught.step, caught.path) == ("mount bind", target)
    assert "make it there first" in str(caught)
    assert list(theirs.iterdir()) == []


@pytest.mark.parametrize("identity", EVERY)
def test_a_mount_point_in_a_bind_of_the_submitters_own_is_the_submitters(home, identity):
    """The positive control of the test above: there a user makes it, and an id-mapped folder has no room for that."""
    binds = (Bind(str(home), "/mnt"), Bind(str(home / "inner"), "/mnt/made"))
    if identity is Identity.PRIVATE:
        assert refused(home, identity, *binds).path == "/mnt/made"
        return
    assert output(home, "cat /mnt/made/file", identity, binds=binds) == "readable"
    assert (home / "made").stat().st_uid == ALICE.uid


def test_where_a_bind_goes_says_nothing_of_what_the_submitter_may_not_look_into(home):
    """A name that is there, and one that is not: the same answer."""
    hidden = [home.parent / "bob" / name for name in ("inner", "nothing")]
    found = [refused(home, Identity.SELF, Bind(str(home / "inner"), str(path))) for path in hidden]
    assert [(one.step, one.errno, one.hint) for one in found] == [("mount bind", EACCES, found[0].hint)] * 2


@pytest.mark.parametrize("source", ["/proc", "/proc/sys", "/sys", "/sys/fs/cgroup", "/dev/pts", "/dev/mqueue"])
def test_file_systems_of_the_kernel_are_no_folders_to_bind(home, source):
    """They show, and some of them change, what is the machine's or other jobs'."""
    if not os.path.isdir(source):
        pytest.skip("this host has none")
    caught = refused(home, Identity.SELF, Bind(source, "/mnt"))
    assert (caught.step, caught.path) == ("mount bind", source)
    assert "of the kernel" in str(caught)


def test_a_folder_with_one_of_them_in_it_is_none_either(home):
    inside = home.parent / "chroot" / "a b"
    (inside / "proc").mkdir(parents=True)
    subprocess.run(["mount", "-t", "proc", "proc", inside / "proc"], check=True)
    caught = refused(home, Identity.SELF, Bind(str(inside.parent), "/mnt"))
    assert (caught.step, caught.path) == ("mount bind", str(inside.parent))
    assert "of the kernel" in str(caught)
    beside = home.parent / "chroot2"
    beside.mkdir()
    assert output(home, "ls /mnt", Identity.SELF, binds=(Bind(str(beside), "/mnt"),)) == ""


@pytest.mark.parametrize("what", ["bind", "rootfs"])
def test_a_file_system_that_cannot_be_id_mapped_is_said_with_what_to_do(home, what):
    """Root's jobs have ids of their own. NFS is such a file system, and so is this one."""
    other = home.parent / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "batchns-test", other], check=True)
    os.chown(other, ALICE.uid, ALICE.gid)
    bind = (Bind(str(other), "/mnt"),) if what == "bind" else ()
    isolation = Isolation(binds=bind, rootfs=None if bind else str(other))
    caught = refused(home.parent / "root", None, submitter=ROOT, isolation=isolation)
    assert (caught.step, caught.path) == ("mount bind" if bind else "rootfs", str(other))
    assert "its file system cannot be id-mapped" in caught.hint and "ordinary user" in caught.hint
    if bind:  # the positive control
        assert output(home, "ls /mnt", Identity.SELF, binds=bind) == ""


def refused(
    home: Path,
    identity: Identity | None,
    *binds: Bind,
    submitter: Submitter = ALICE,
    isolation: Isolation | None = None,
) -> StepError:
    """Why a job with these binds does not start."""
    isolation = isolation or Isolation(identity=identity, binds=binds)
    plan = make_plan(home, submitter=submitter, script="ls -R /mnt", isolation=isolation)

    async def work(launcher):
        with pytest.raises(StepError) as caught:
            await run_plan(launcher, plan)
        return caught.value

    return in_launcher(work)


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
    wait = 'while grep -q "^Uid:.$(id -u)" /proc/1/status; do :; done'
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
    files = Outputs(inline)
    os.close(files.open("", "stdout", str(home / "out"), ALICE))
    assert (home / "out").stat().st_uid == ALICE.uid
    for place in (home.parent / "bob" / "inner" / "out", home.parent / "made"):
        with pytest.raises(UserError, match="permission denied"):
            files.open("", "stdout", str(place), ALICE)
        assert not place.exists() if place.parent == home.parent else True
    assert os.access(home.parent / "root" / "secret", os.R_OK)  # this thread is root again
    os.close(files.open("", "stdout", str(home.parent / "made"), ROOT))


def test_an_existing_file_of_another_user_is_not_emptied(home):
    victim = home.parent / "victim"
    victim.write_text("keep me")
    with pytest.raises(UserError, match="permission denied"):
        Outputs(inline).open("", "stdout", str(victim), ALICE)
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
