"""The file: who may open it, earlier and later versions, damage, copies."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from batchns.core.demand import Bounds, Demand
from batchns.core.job import Job, Ledger
from batchns.errors import HostError
from batchns.model.job import JobSpec, PreemptMode
from batchns.store import schema
from batchns.store.check import backup_store, check_store
from batchns.store.files import unusable
from batchns.store.interface import Batch, HistoryQuery, StoreError
from batchns.store.store import Store

from . import crash
from .batches import JOBS, batch, ending, life, missing, spec, submission

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "batchns.db"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestOpen:
    def test_nobody_else_may_look(self, path: Path) -> None:
        old = os.umask(0)
        try:
            with Store.open(path) as store:
                store.commit(batch(0))
                assert mode(path.parent) == 0o700
                assert {mode(file) for file in path.parent.iterdir()} == {0o600}
                assert len(list(path.parent.iterdir())) == 4  # the database, its log, its shared memory, the lock
        finally:
            os.umask(old)

    def test_a_file_that_others_could_read_is_closed_to_them(self, path: Path) -> None:
        Store.open(path).close()
        path.chmod(0o644)
        Store.open(path).close()
        assert mode(path) == 0o600

    def test_a_folder_that_others_may_write_to_is_refused(self, path: Path) -> None:
        path.parent.mkdir()
        path.parent.chmod(0o777)
        with pytest.raises(HostError, match=f"others may write there - chmod 700 {path.parent}"):
            Store.open(path)

    def test_a_link_is_not_followed(self, path: Path, tmp_path: Path) -> None:
        path.parent.mkdir(mode=0o700)
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError):
            Store.open(path)
        assert not (tmp_path / "elsewhere").exists()

    def test_one_daemon_at_a_time(self, path: Path) -> None:
        """Whoever comes second is told which process has it; once that is gone, however it went, it is free."""
        code = (
            "import os, sys\nfrom pathlib import Path\nfrom batchns.store.store import Store\n"
            f"store = Store.open(Path({str(path)!r}))\nprint(os.getpid(), flush=True)\nsys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        try:
            assert holder.stdout is not None
            assert int(holder.stdout.readline()) == holder.pid
            with pytest.raises(HostError, match=f"batchns.db: process {holder.pid} has it open - one daemon at a time"):
                Store.open(path)
        finally:
            holder.kill()
            holder.communicate()
        Store.open(path).close()

    def test_twice_in_one_process(self, path: Path) -> None:
        with Store.open(path) as store:
            with pytest.raises(HostError, match=f"process {os.getpid()} has it open"):
                Store.open(path)
            store.commit(batch(0))  # the refused one has not given its locks away
        with Store.open(path) as store:
            assert not missing(store, 0)

    def test_durable_by_its_settings(self, path: Path) -> None:
        with Store.open(path) as store:
            asked = ("journal_mode", "synchronous", "foreign_keys", "auto_vacuum")
            found = [store._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in asked]
            assert found == ["wal", 2, 1, 2]
            with pytest.raises(sqlite3.OperationalError):
                store._reader.execute("DELETE FROM note")

    def test_closing_leaves_one_file(self, path: Path) -> None:
        with Store.open(path) as store:
            store.commit(batch(0))
        assert sorted(file.name for file in path.parent.iterdir()) == ["batchns.db", "batchns.db.lock"]


class TestVersions:
    def test_a_newer_one_is_refused(self, path: Path) -> None:
        Store.open(path).close()
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
        before = path.read_bytes()
        with pytest.raises(HostError, match=r"version 99, written by a newer batchns; .* - start the newer batchns"):
            Store.open(path)
        with pytest.raises(HostError, match="version 99"):
            check_store(path)
        assert path.read_bytes() == before

    def test_another_programs_database_is_refused(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700)
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE moz_places (id)")
        db.close()
        with pytest.raises(HostError, match="another program's database"):
            Store.open(path)
        with pytest.raises(HostError, match="no store of batchns"):
            check_store(path)

    def test_a_migration_keeps_a_copy_and_is_whole(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A step that fails changes nothing, and the next start does it; the copy is of the version before."""
        with Store.open(path) as store:
            store.commit(batch(0))
        failing = [True]

        def second(db: sqlite3.Connection) -> None:
            db.execute("ALTER TABLE note ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'")
            if failing:
                db.execute("SELECT * FROM nowhere")

        steps = (*schema.MIGRATIONS, second)
        monkeypatch.setattr(schema, "VERSION", len(steps))
        monkeypatch.setattr(schema.migrate, "__defaults__", (steps,))
        with pytest.raises(StoreError, match="nowhere"):
            Store.open(path)
        copy = path.with_name("batchns.db.version-1")
        db = sqlite3.connect(path)
        assert schema.version_of(db) == 1
        assert "colour" not in str(db.execute("SELECT sql FROM sqlite_schema").fetchall())
        db.close()
        failing.clear()
        with Store.open(path) as store:
            assert schema.version_of(store._writer) == 2
            assert store._reader.execute("SELECT DISTINCT colour FROM note").fetchall() == [("red",)]
            assert not missing(store, 0)
        assert mode(copy) == 0o600
        monkeypatch.undo()
        copy.rename(path)
        with Store.open(path) as store:
            assert not missing(store, 0)

    def test_reads_what_version_1_wrote(self, path: Path) -> None:
        """A dump of the first version that was published; what it holds stands here in full."""
        restore(path, DUMP.read_text())
        with Store.open(path) as store:
            assert store.check() == []
            loaded = store.load()
            assert [job.id for item in loaded.log for job in item.jobs] == ["70", "72_0", "72_1", "72_2"]  # type: ignore[union-attr]
            assert (loaded.notes, loaded.last, store.job_ids(1)) == ({"idle": [1, 2.5]}, 4.0, 73)
            over = store.job("71")
            assert over is not None
            assert over.submission.jobs == (JOB_71,)
            assert (over.entries, over.ending) == (life("71"), ending("71", name="array"))
            store.commit(batch(100))

    def test_a_field_that_the_writer_did_not_know_takes_its_default(self, path: Path) -> None:
        without = DUMP.read_text()
        for text in (
            '"freezes":0,"lent":0.0,',
            '"retry_memory":1.0,',
            ',"jobs":1',
            ',"retry":true',
        ):
            assert text in without
            without = without.replace(text, "")
        restore(path, without)
        with Store.open(path) as store:
            assert store.check() == []
            over = store.job("71")
            assert over is not None
            assert over.submission.jobs == (JOB_71,)
            assert over.entries == life("71")


DUMP = Path(__file__).parent / "data" / "version-1.sql"
JOB_71 = Job(
    id="71",
    array_id="71",
    index=None,
    spec=JobSpec(name="array", command=("true",), cwd="/", time_limit=60.0),
    demand=Demand(whole=1, memory=2 << 30),
    bounds=Bounds(
        cpu_shares=1024,
        memory=2 << 30,
        pids=4096,
        scratch=1 << 30,
        blkio_weight=None,
        egress=None,
        ingress=None,
        time_limit=60.0,
        grace_time=10.0,
        strict=False,
    ),
    order=(-50, -50, 71, 0),
    ledger=Ledger(1.0),
    user="alice",
    mode=PreemptMode.SUSPEND,
    estimate=60.0,
    span=60.0,
)


def checked(*arguments: object) -> tuple[int, str]:
    """Exit code of `batchns store check`, and all that it says."""
    words = [sys.executable, "-m", "batchns", "store", "check", *map(str, arguments)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def restore(path: Path, dump: str) -> None:
    path.parent.mkdir(mode=0o700)
    db = sqlite3.connect(path)
    db.executescript(dump)
    db.close()


class TestDamage:
    @pytest.mark.parametrize("content", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_no_database_at_all(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(mode=0o700)
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"damaged: .* - stop the daemon, move it away .*cp BACKUP"):
            Store.open(path)
        with pytest.raises(HostError):
            check_store(path)
        assert path.read_bytes() == content

    def test_a_file_that_somebody_named_is_not_to_be_moved_anywhere(self, path: Path, tmp_path: Path) -> None:
        for other in (b"root:x:0:0:root:/root:/bin/sh\n" * 200, b""):
            (tmp_path / "passwd").write_bytes(other)
            assert checked(tmp_path / "passwd") == (
                125,
                f"batchns: {tmp_path}/passwd: no store of batchns - name a copy that batchns store backup has made\n",
            )
        code, said = checked(tmp_path)
        assert code == 125 and "no plain file" in said and "mv" not in said
        path.parent.mkdir(mode=0o700)
        path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
        code, said = checked(path)
        assert code == 1 and said.startswith(f"{path}: damaged: ") and "mv" not in said and "cp" not in said
        code, said = checked("--state", path.parent)
        assert code == 1 and f"cp BACKUP {path}" in said

    def test_in_the_middle(self, path: Path) -> None:
        """Whatever page is damaged, opening or using it says so; nothing else comes out of it."""
        with Store.open(path) as store:
            for number in range(20):
                store.commit(batch(number))
        whole = path.read_bytes()
        told = 0
        for page in range(1, len(whole) // 4096):
            path.write_bytes(whole[: page * 4096] + b"\xa5" * 4096 + whole[(page + 1) * 4096 :])
            try:
                with Store.open(path) as store:
                    if store.check():
                        told += 1
                    store.load()
                    list(store.endings(HistoryQuery()))
                    for number in range(20):
                        store.job(str(number * JOBS + 1))
                    store.commit(batch(50))
            except StoreError as error:
                assert str(path) in str(error)
                told += 1
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        assert told >= len(whole) // 4096 - 3  # a free page, and one that maps pages, may be anything

    def test_cut_short(self, path: Path) -> None:
        with Store.open(path) as store:
            for number in range(20):
                store.commit(batch(number))
        os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
        with pytest.raises(StoreError, match="damaged"), Store.open(path) as store:
            store.load()

    def test_without_its_state(self, path: Path) -> None:
        Store.open(path).close()
        db = sqlite3.connect(path)
        db.execute("DELETE FROM state")
        db.commit()
        db.close()
        with pytest.raises(StoreError, match="says nothing of its state"):
            Store.open(path)
        Path(f"{path}.lock").unlink()  # the one that was refused does not keep it
        with pytest.raises(StoreError, match="says nothing of its state"):
            Store.open(path)

    def test_texts_of_a_newer_version_are_named(self, path: Path) -> None:
        with Store.open(path) as store:
            store.commit(Batch(submissions=(submission(7, spec("a")),)))
        db = sqlite3.connect(path)
        db.execute("""UPDATE submission SET parts = replace(parts, '{"name"', '{"warp":9,"name"')""")
        db.commit()
        db.close()
        with (
            pytest.raises(StoreError, match=r"job 7: JobSpec has fields that are not known: warp - start the version"),
            Store.open(path) as store,
        ):
            store.load()

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (OSError(28, "x"), "the disk is full"),
            (OSError(122, "x"), "the disk is full"),
            (OSError(13, "x"), "permission denied - run this as root"),
            (OSError(30, "x"), "read-only - mount"),
            (OSError(5, "x"), "Input/output error"),
            (sqlite3.OperationalError("x"), "OperationalError"),
        ],
    )
    def test_what_is_said(self, path: Path, error: OSError | sqlite3.Error, expected: str) -> None:
        assert expected in str(unusable(path, error))


class TestBackup:
    def test_is_the_store_at_one_moment(self, path: Path, tmp_path: Path) -> None:
        """Taken while another thread commits: whole batches, and all that were there when it began."""
        with Store.open(path) as store:
            for number in range(30):
                store.commit(batch(number))
            going = threading.Event()

            def write() -> None:
                for number in range(30, 200):
                    store.commit(batch(number))
                    going.set()

            writer = threading.Thread(target=write)
            writer.start()
            going.wait()
            store.backup(tmp_path / "copy.db")
            writer.join()
        (tmp_path / "other").mkdir(mode=0o700)
        copy = (tmp_path / "copy.db").rename(tmp_path / "other" / "batchns.db")
        assert mode(copy) == 0o600
        with Store.open(copy) as restored:
            last = restored.load().notes["batch"]
            assert last >= 30
            assert not [text for number in range(last + 1) for text in missing(restored, number)]
            assert restored.job(str(JOBS * (last + 1) + 1)) is None
            assert restored.check() == []
            restored.commit(batch(500))

    def test_beside_a_running_daemon(self, path: Path, tmp_path: Path) -> None:
        """From outside: what is only in the log yet is in the copy, too."""
        with Store.open(path) as store:
            store.commit(batch(0))
            assert path.with_name("batchns.db-wal").stat().st_size > 0
            code = (
                "import sys\nfrom pathlib import Path\nfrom batchns.store.check import backup_store, check_store\n"
                "print(check_store(Path(sys.argv[1])))\nbackup_store(Path(sys.argv[1]), Path(sys.argv[2]))"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, path, tmp_path / "copy.db"], capture_output=True, text=True, cwd=ROOT
            )
            assert (done.stdout, done.stderr) == ("[]\n", "")
            store.commit(batch(1))
            assert not missing(store, 0) + missing(store, 1)
        assert check_store(tmp_path / "copy.db") == []
        assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "state"]

    def test_overwrites_only_when_told(self, path: Path, tmp_path: Path) -> None:
        target = tmp_path / "copy.db"
        with Store.open(path) as store:
            target.write_text("precious")
            with pytest.raises(HostError, match="is there already - choose another name, or say --overwrite"):
                store.backup(target)
            assert target.read_text() == "precious"
            store.backup(target, overwrite=True)
            assert check_store(target) == []
        assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "state"]

    def test_never_over_the_store_itself(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "link.db").symlink_to(path)
        with Store.open(path) as store:
            store.commit(batch(0))
            for target in (path, tmp_path / "link.db"):
                with pytest.raises(HostError, match="is the store itself"):
                    store.backup(target, overwrite=True)
            store.commit(batch(1))
        with Store.open(path) as store:
            assert not missing(store, 0) + missing(store, 1)

    def test_of_a_store_whose_daemon_was_killed(self, path: Path, tmp_path: Path) -> None:
        """What only its log has is checked and copied, too, before anybody has opened it again."""
        told = crash.round_of(path, 0, 1000, after=0.15)
        assert told.acknowledged
        assert path.with_name("batchns.db-wal").stat().st_size > 0
        assert check_store(path) == []
        backup_store(path, tmp_path / "copy.db")
        with Store.open(tmp_path / "copy.db") as store:
            assert not [text for number in told.acknowledged for text in missing(store, number)]
        with Store.open(path) as store:
            assert not [text for number in told.acknowledged for text in missing(store, number)]

    def test_where_there_is_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(HostError, match="there is no store"):
            backup_store(tmp_path / "none.db", tmp_path / "copy.db")
        with pytest.raises(HostError, match="there is no store"):
            check_store(tmp_path / "none.db")
        assert list(tmp_path.iterdir()) == []

    def test_into_a_folder_that_there_is_not(self, path: Path, tmp_path: Path) -> None:
        with Store.open(path) as store, pytest.raises(HostError, match=r"/no: there is no such folder - mkdir -p"):
            store.backup(tmp_path / "no" / "copy.db")


class TestCommand:
    """What an administrator types."""

    def run(self, *words: object) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "batchns", "store", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def test_check_and_backup(self, path: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.db"
        with Store.open(path) as store:
            store.commit(batch(0))
            assert self.run("check", "--state", path.parent) == (0, f"{path}: ok\n", "")
            code, text, error = self.run("backup", "--state", path.parent, copy)
            assert (code, error) == (0, "")
            assert text.startswith(f"copied to {copy} (")
        code, text, error = self.run("backup", "--state", path.parent, copy)
        assert (code, text) == (125, "")
        assert "or say --overwrite" in error
        assert self.run("backup", "--state", path.parent, copy, "--overwrite")[0] == 0
        db = sqlite3.connect(copy)
        db.execute("DELETE FROM entry WHERE kind = 'Started'")
        db.commit()
        db.close()
        code, text, error = self.run("check", copy)
        assert code == 1
        assert "illegal in state STARTING" in text
        assert error == "batchns: 1 problem\n"

    def test_of_no_store(self, tmp_path: Path) -> None:
        code, text, error = self.run("check", tmp_path / "none.db")
        assert (code, text) == (125, "")
        assert "there is no store - name" in error
