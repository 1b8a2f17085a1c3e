"""Reading a job's output: with its owner's rights, in order, once, and bounded."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio
from attrs import define, field

from batchns.daemon import logs
from batchns.daemon.cut import Bounds, Way, cut
from batchns.daemon.files import SharedFiles
from batchns.daemon.logs import Follower, LogReader, Output, reopen_output
from batchns.daemon.service import Refused
from batchns.daemon.trim import Trimmer
from batchns.model.submitter import ROOT, Submitter
from batchns.supervise.ports import threads
from tests.daemon.disks import MIB, append, content, disk, flood, numbers

ADA = Submitter(name="ada", uid=54321, gid=54322, groups=(54322,))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users")


@define
class Reading:
    """What a test reads with. `outputs`: to be read, in order."""

    outputs: list[Output] = field(factory=list)
    shared: SharedFiles = field(factory=SharedFiles)
    follower: Follower = field(factory=lambda: Follower(threads()))

    def output(self, path: Path, *, over: bool = True) -> Output:
        found = Output(str(path), trio.Event())
        if over:
            found.over.set()
        self.outputs.append(found)
        return found

    def reader(self, *, tail: int | None = None, follow: bool = False, owner: Submitter = ROOT) -> LogReader:
        async def each() -> AsyncIterator[Output]:
            for one in self.outputs:
                yield one

        return LogReader(each(), owner, self.shared, self.follower, threads(), tail, follow)

    async def read(self, **options: object) -> bytes:
        async with self.reader(**options) as reader:  # type: ignore[arg-type]
            return b"".join([piece async for piece in reader])


def run(main: Callable[[Reading], object]) -> None:
    async def inner() -> None:
        reading = Reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading.follower.run)
            with trio.fail_after(60):
                await main(reading)  # type: ignore[misc]
            nursery.cancel_scope.cancel()

    trio.run(inner)


def test_what_is_there_is_read_to_its_end_and_not_further(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"line\n" * 100_000)

    async def main(reading: Reading) -> None:
        reading.output(path, over=False)
        async with reading.reader() as reader:
            pieces = [await reader.__anext__()]
            with path.open("ab") as file:
                file.write(b"more\n" * 100_000)
            pieces += [piece async for piece in reader]
        assert b"".join(pieces) == b"line\n" * 100_000
        assert max(map(len, pieces)) <= logs.PIECE

    run(main)


@pytest.mark.parametrize("text", [b"", b"\n", b"a", b"a\n", b"a\nb", b"\n\n\n", b"x" * 200_000 + b"\ny\n"])
@pytest.mark.parametrize("lines", [0, 1, 2, 5])
def test_the_last_lines_are_those_that_tail_prints(tmp_path: Path, text: bytes, lines: int) -> None:
    path = tmp_path / "out"
    path.write_bytes(text)

    async def main(reading: Reading) -> None:
        reading.output(path)
        expected = b"".join(text.splitlines(keepends=True)[-lines:]) if lines else b""
        assert await reading.read(tail=lines) == expected

    run(main)


def test_many_last_lines_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(500_000)))

    async def main(reading: Reading) -> None:
        reading.output(path)
        found = (await reading.read(tail=123_456)).split()
        assert [int(line) for line in found] == list(range(500_000 - 123_456, 500_000))

    run(main)


def test_the_last_lines_are_not_looked_for_in_all_of_a_huge_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"".join(b"%09d\n" % number for number in range(500_000)))
    monkeypatch.setattr(logs, "MOST_TAIL", MIB)

    async def main(reading: Reading) -> None:
        reading.output(path)
        found = [int(line) for line in (await reading.read(tail=10**6)).split()]
        assert found == list(range(found[0], 500_000)) and MIB <= len(found) * 10 < MIB + 2 * logs.PIECE

    run(main)


def test_following_ends_with_the_last_attempt_and_misses_nothing(tmp_path: Path) -> None:
    first, second = tmp_path / "out", tmp_path / "out-r2"
    first.write_bytes(b"one\n")

    async def main(reading: Reading) -> None:
        one = reading.output(first, over=False)
        reading.output(Path(os.devnull))
        two = reading.output(second, over=False)
        got = b""
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                nonlocal got
                async with reading.reader(follow=True) as reader:
                    async for piece in reader:
                        got += piece

            nursery.start_soon(read)
            await until(lambda: got == b"one\n")
            with first.open("ab") as file:
                file.write(b"half a li")
            await until(lambda: got.endswith(b"li"))
            second.write_bytes(b"again\n")
            with first.open("ab") as file:
                file.write(b"ne\nlast\n")
            one.over.set()
            await until(lambda: got.endswith(b"again\n"))
            with second.open("ab") as file:
                file.write(b"end")
            two.over.set()
        assert got == b"one\nhalf a line\nlast\nagain\nend"

    run(main)


def test_a_file_that_its_owner_empties_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before\nhal")

    async def main(reading: Reading) -> None:
        output = reading.output(path, over=False)
        got = b""
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                nonlocal got
                async with reading.reader(follow=True) as reader:
                    async for piece in reader:
                        got += piece

            nursery.start_soon(read)
            await until(lambda: got == b"before\nhal")
            os.truncate(path, 0)
            with path.open("ab") as file:
                file.write(b"new\n")
            await until(lambda: got == b"before\nhal\nnew\n")
            output.over.set()

    run(main)


@pytest.mark.kernel
@needs_root
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
@pytest.mark.parametrize("slow", [False, True], ids=["quick", "slow"])
def test_who_follows_a_file_that_is_trimmed_gets_whole_lines_once(tmp_path: Path, kind: str, slow: bool) -> None:
    """A quick reader misses nothing; a slow one is told what it missed, and never gets a line twice or torn."""
    with disk(tmp_path, kind, 256 * MIB) as place:
        path = place / "out"
        fd = append(path)
        got: list[bytes] = []

        async def main(reading: Reading) -> None:
            output = reading.output(path, over=False)
            trimmer = Trimmer(2 * MIB, reading.shared, threads())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trimmer.run)
                trimmer.add(fd, "out", 0)
                job = flood(fd, most=300_000, pause=0.02)
                nursery.start_soon(over, job, output)
                async with reading.reader(follow=True) as reader:
                    async for piece in reader:
                        got.append(piece)
                        assert len(piece) <= 2 * logs.PIECE + 1
                        if slow:
                            await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

        run(main)
        os.close(fd)
    lines = b"".join(got).split(b"\n")
    assert lines.pop() == b""
    said = [line for line in lines if line.startswith(b"[batchns:")]
    torn = [line for line in lines if line.startswith(b"line ") and len(line) != 95]
    assert len(torn) <= len(said)  # where the reader was when what it had begun was taken out
    found = numbers([line for line in lines if line.startswith(b"line ") and line not in torn])
    assert not [line for line in lines if line not in said and not line.startswith(b"line ") and line]
    assert found == sorted(set(found)) and found[0] == 0 and found[-1] == 299_999
    if slow:
        assert said and len(found) < 300_000
    elif not said:
        assert found == list(range(300_000))


@pytest.mark.kernel
@needs_root
def test_a_hole_is_not_read(tmp_path: Path) -> None:
    with disk(tmp_path, "tmpfs", 256 * MIB) as place:
        path = place / "out"
        fd = append(path)
        flood(fd, most=200_000).communicate()

        async def main(reading: Reading) -> None:
            reading.output(path)
            async with reading.reader() as reader:
                before = await reader.__anext__()
                with reading.shared.sharing((os.fstat(fd).st_dev, os.fstat(fd).st_ino)) as shared, shared.lock:
                    cut(fd, Bounds.of(0, 4 * MIB), shared)
                got = before + b"".join([piece async for piece in reader])
            assert got == content(path) and len(got) < 3 * MIB and b"\0" not in got
            assert (await reading.read(tail=5)) == b"".join(content(path).splitlines(keepends=True)[-5:])
            whole = (await reading.read(tail=10**6)).splitlines()
            assert numbers(whole)[-1] == 199_999 and len(whole) * 96 > MIB
            with reading.shared.sharing((os.fstat(fd).st_dev, os.fstat(fd).st_ino)) as shared, shared.lock:
                cut(fd, Bounds(0, MIB, 1000), shared, Way.PUNCH)
            few = (await reading.read(tail=5)).splitlines()
            assert numbers(few) == list(range(199_995, 200_000))
            most = numbers((await reading.read(tail=10**6)).splitlines())
            assert most == list(range(most[0], 200_000)) and len(most) * 96 < 2 * logs.PIECE

        run(main)
        os.close(fd)


async def over(job: subprocess.Popen[str], output: Output) -> None:
    """Say that the job has ended, once it has."""
    while job.poll() is None:
        await trio.sleep(0.05)
    output.over.set()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of ada's."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        os.chown(name, ADA.uid, ADA.gid)
        yield Path(name)


@needs_root
class TestWhoseRights:
    def read(self, path: Path) -> bytes:
        """As everybody is read to who asks."""

        async def main() -> bytes:
            reading = Reading()
            reading.output(path)
            return await reading.read(owner=ADA)

        return trio.run(main)

    def refused(self, path: Path) -> str:
        with pytest.raises(Refused) as raised:
            self.read(path)
        return raised.value.code

    def test_its_owner_reads_it(self, home: Path) -> None:
        path = home / "out"
        path.write_bytes(b"x")
        os.chown(path, ADA.uid, ADA.gid)
        path.chmod(0o600)
        assert self.read(path) == b"x"

    def test_what_its_owner_may_not_read_is_not_read(self, home: Path) -> None:
        path = home / "out"
        path.write_bytes(b"root's")
        path.chmod(0o600)
        assert self.refused(path) == "forbidden"

    def test_a_link_is_not_followed_wherever_it_is(self, home: Path) -> None:
        (home / "out").symlink_to("/etc/passwd")
        assert self.refused(home / "out") == "conflict"
        (home / "folder").symlink_to("/etc")
        assert self.refused(home / "folder" / "passwd") == "conflict"

    def test_another_name_of_a_file_is_not_read(self, home: Path) -> None:
        (home / "other").write_bytes(b"x")
        (home / "other").chmod(0o644)
        (home / "out").hardlink_to(home / "other")
        assert self.refused(home / "out") == "conflict"

    def test_a_fifo_a_folder_and_nothing_are_refused_at_once(self, home: Path) -> None:
        os.mkfifo(home / "fifo", 0o666)
        (home / "fifo").chmod(0o666)
        began = time.monotonic()
        assert self.refused(home / "fifo") == "conflict"
        assert self.refused(home) == "conflict"
        assert self.refused(home / "nothing") == "not_found"
        assert time.monotonic() - began < 5

    def test_after_a_restart_only_the_same_file_is_written_to(self, home: Path) -> None:
        path = home / "out"
        path.write_bytes(b"x")
        os.chown(path, ADA.uid, ADA.gid)
        found = path.stat()
        own = (found.st_dev, found.st_ino)
        fd, file = trio.run(reopen_output, str(path), ADA, {own}, threads())
        assert file == own
        os.write(fd, b"y")
        os.close(fd)
        assert path.read_bytes() == b"xy"
        path.rename(home / "moved")
        path.write_bytes(b"another")
        os.chown(path, ADA.uid, ADA.gid)
        with pytest.raises(Refused, match="another file"):
            trio.run(reopen_output, str(path), ADA, {own}, threads())


def test_a_file_system_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_bytes(b"x")
    monkeypatch.setattr(logs, "TIMEOUT", 0.3)
    monkeypatch.setattr(logs.syscalls, "openat2", lambda *_, **__: time.sleep(2) or os.open(tmp_path / "out", 0))
    before = set(os.listdir("/proc/self/fd"))

    async def main(reading: Reading) -> None:
        reading.output(tmp_path / "out")
        with pytest.raises(Refused) as raised:
            await reading.read()
        assert raised.value.code == "unavailable" and "no answer" in str(raised.value)
        await trio.sleep(2.5)

    began = time.monotonic()
    run(main)
    assert time.monotonic() - began < 5
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.slow
def test_twenty_that_follow_silent_jobs_cost_next_to_nothing(tmp_path: Path) -> None:
    async def main(reading: Reading) -> None:
        async with trio.open_nursery() as nursery:

            async def follow(path: Path) -> None:
                one = Reading([], reading.shared, reading.follower)
                one.output(path, over=False)
                await one.read(follow=True)

            for number in range(20):
                (tmp_path / str(number)).write_bytes(b"x\n")
                nursery.start_soon(follow, tmp_path / str(number))
            await trio.sleep(2)
            began, cpu = time.monotonic(), time.process_time()
            await trio.sleep(8)
            part = (time.process_time() - cpu) / (time.monotonic() - began)
            print(f"{part:.3%} of a CPU")
            assert part < 0.01
            nursery.cancel_scope.cancel()

    run(main)


async def until(done: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not done():
            await trio.sleep(0.02)
