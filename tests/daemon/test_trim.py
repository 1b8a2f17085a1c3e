"""Output files stay under their bound: measured on real file systems, with real floods."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from batchns.daemon.cut import Bounds, Way, cut, taken
from batchns.daemon.files import Shared, SharedFiles
from batchns.daemon.trim import Trimmer
from batchns.supervise.ports import threads
from tests.daemon.disks import MIB, append, content, disk, flood, numbers

pytestmark = pytest.mark.kernel
SAYS = re.compile(rb"\[batchns: (\d+) bytes left out here, see output\.max_size\] *")


@pytest.fixture(params=["ext4", pytest.param("ext3", marks=pytest.mark.long), "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path, request.param, 256 * MIB) as point:
        yield point


def used(path: Path) -> int:
    return os.stat(path).st_blocks * 512


def halves(text: bytes) -> tuple[list[int], int, list[int]]:
    """Numbers of the lines before and after the line that says how much was left out, and how much that is."""
    lines = text.split(b"\n")
    assert lines.pop() == b""
    (where,) = (index for index, line in enumerate(lines) if SAYS.fullmatch(line))
    said = SAYS.fullmatch(lines[where])
    assert said
    return numbers(lines[:where]), int(said[1]), numbers(lines[where + 1 :])


def test_the_middle_is_left_out_in_whole_lines_and_the_line_says_how_much(place: Path) -> None:
    path = place / "out"
    fd = append(path)
    written = 0
    way = Way.COLLAPSE
    for _ in range(5):
        job = flood(fd, most=200_000)
        job.communicate()
        written += 200_000 * 96
        way = cut(fd, Bounds.of(0, 8 * MIB), Shared(), way)
        text = content(path)
        first, said, last = halves(text)
        assert first == list(range(len(first))) and len(first) * 96 > MIB / 2
        assert last == list(range(last[0], 200_000)) and len(last) * 96 > 3 * MIB
        assert (len(first) + len(last)) * 96 + said == written
        assert used(path) < 6 * MIB
    assert way is (Way.COLLAPSE if place.name == "ext4" else Way.PUNCH)
    assert (path.stat().st_size < 6 * MIB) == (way is Way.COLLAPSE)
    os.close(fd)


def test_what_was_in_the_file_before_is_not_touched(place: Path) -> None:
    path = place / "out"
    own = b"what its owner wrote\n" * 200_000
    path.write_bytes(own)
    fd = append(path)
    flood(fd, most=200_000).communicate()
    assert taken(fd, len(own)) > 15 * MIB
    cut(fd, Bounds.of(len(own), 8 * MIB), Shared())
    text = content(path)
    assert text.startswith(own) and taken(fd, len(own)) < 6 * MIB
    first, _, last = halves(text[len(own) :])
    assert first[0] == 0 and last[-1] == 199_999
    os.close(fd)


def test_without_ends_of_lines_it_is_cut_all_the_same(place: Path) -> None:
    path = place / "out"
    fd = append(path)
    way = Way.COLLAPSE
    for letter in (b"a", b"b", b"c"):
        for _ in range(12):
            os.write(fd, letter * MIB)
        way = cut(fd, Bounds.of(0, 8 * MIB), Shared(), way)
        text = content(path)
        assert text.startswith(b"a" * 1024) and text.endswith(letter * MIB) and used(path) < 6 * MIB
        assert len(SAYS.findall(text)) == 1
    os.close(fd)


def test_on_a_full_disk_a_hole_does_what_a_collapse_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchns.daemon import cut as module

    real = module._fallocate

    def full(fd: int, mode: int, offset: int, length: int) -> None:
        if mode == module._FALLOC_FL_COLLAPSE_RANGE:
            raise OSError(errno.ENOSPC, "no space")
        real(fd, mode, offset, length)

    monkeypatch.setattr(module, "_fallocate", full)
    fd = append(tmp_path / "out")
    flood(fd, most=200_000).communicate()
    assert cut(fd, Bounds.of(0, 8 * MIB), Shared()) is Way.PUNCH
    assert used(tmp_path / "out") < 6 * MIB
    assert halves(content(tmp_path / "out"))[2][-1] == 199_999
    os.close(fd)


def test_a_file_system_that_does_not_answer_holds_up_nobody_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchns.daemon import trim as module

    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    monkeypatch.setattr(module, "taken", lambda fd, start: time.sleep(3) or 0)
    before = descriptors()

    async def main() -> None:
        trimmer = Trimmer(MIB, SharedFiles(), threads())
        fd = append(tmp_path / "out")
        file = trimmer.add(fd, "job 7's output")
        os.close(fd)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trimmer.run)
            await until(lambda: "does not answer" in "".join(trimmer.troubles()), 2)
            began = time.monotonic()
            await trimmer.remove(file)
            nursery.cancel_scope.cancel()
        assert time.monotonic() - began < 2
        await trio.sleep(7)

    trio.run(main)
    assert descriptors() == before


def test_a_file_system_that_frees_nothing_is_told_of_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchns.daemon import cut as module

    tries = []

    def refuse(*_: object) -> None:
        tries.append(time.monotonic())
        raise OSError(95, "not supported")

    monkeypatch.setattr(module, "_fallocate", refuse)

    async def main() -> None:
        trimmer = Trimmer(MIB, SharedFiles(), threads())
        fd = append(tmp_path / "out")
        file = trimmer.add(fd, "job 7's output", 0)
        os.write(fd, b"x\n" * 2 * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trimmer.run)
            await until(lambda: bool(trimmer.troubles()))
            assert "job 7's output" in trimmer.troubles()[0] and "grows without bound" in trimmer.troubles()[0]
            tried = len(tries)
            await trio.sleep(1)
            assert len(tries) == tried > 0, "it is not tried over and over"
            await trimmer.remove(file)
            assert trimmer.troubles() == (), "it is told for as long as there is something to be done"
            nursery.cancel_scope.cancel()
        os.close(fd)

    trio.run(main)


async def until(done: object, seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not done():  # type: ignore[operator]
            await trio.sleep(0.02)


def own_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
def test_a_flood_stays_under_the_bound_and_its_tail_is_complete(place: Path) -> None:
    """The disk has room for the flood of a second or two only: without trimming it would be full."""
    path, most, peak = place / "out", 32 * MIB, 0

    async def main() -> None:
        nonlocal peak
        shared = SharedFiles()
        trimmer = Trimmer(most, shared, threads())
        fd = append(path)
        memory = own_memory()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trimmer.run)
            file = trimmer.add(fd, "out")
            job = flood(fd, seconds=8)
            while job.poll() is None:
                peak = max(peak, used(path))
                await trio.sleep(0.01)
            assert job.stderr
            last = int(job.stderr.read())
            await trimmer.remove(file)
            nursery.cancel_scope.cancel()
        os.close(fd)
        assert own_memory() - memory < 8 * MIB
        written = (last + 1) * 96
        print(f"{written / MIB:.0f} MiB written, peak {peak / MIB:.0f} MiB on disk")
        assert written > 256 * MIB and peak < 200 * MIB and used(path) <= most
        first, said, after = halves(content(path))
        assert first == list(range(len(first)))
        assert after == list(range(after[0], last + 1)) and len(after) * 96 > most / 2 - MIB
        assert (len(first) + len(after)) * 96 + said == written

    trio.run(main)


@pytest.mark.long
def test_two_hundred_jobs_that_write_nothing_cost_next_to_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        trimmer = Trimmer(MIB, SharedFiles(), threads())
        files = []
        for number in range(400):
            fd = append(tmp_path / str(number))
            files.append(trimmer.add(fd, "out"))
            os.close(fd)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trimmer.run)
            await trio.sleep(8)
            began, cpu = time.monotonic(), time.process_time()
            await trio.sleep(8)
            part = (time.process_time() - cpu) / (time.monotonic() - began)
            print(f"{part:.4%} of a CPU")
            assert part < 0.001
            for file in files:
                await trimmer.remove(file)
            nursery.cancel_scope.cancel()

    before = descriptors()
    trio.run(main)
    assert descriptors() == before


def test_after_a_restart_a_file_that_has_grown_meanwhile_is_trimmed_at_once(place: Path) -> None:
    path = place / "out"
    fd = append(path)
    flood(fd, most=400_000).communicate()

    async def main() -> None:
        trimmer = Trimmer(8 * MIB, SharedFiles(), threads())
        trimmer.add(fd, "out", 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trimmer.run)
            await until(lambda: bool(used(path) < 8 * MIB and SAYS.search(content(path))))
            nursery.cancel_scope.cancel()

    trio.run(main)
    os.close(fd)
    assert halves(content(path))[2][-1] == 399_999


def test_jobs_that_share_a_file_share_its_bound_until_the_last_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        trimmer = Trimmer(MIB, SharedFiles(), threads())
        fd = append(tmp_path / "out")
        one, other = trimmer.add(fd, "out"), trimmer.add(fd, "out")
        assert one == other
        await trimmer.remove(one)
        os.write(fd, b"x\n" * MIB)
        await trimmer.remove(other)
        assert used(tmp_path / "out") < MIB
        await trimmer.remove(other)
        os.close(fd)

    trio.run(main)


def test_what_is_no_plain_file_is_not_trimmed() -> None:
    trimmer = Trimmer(MIB, SharedFiles(), threads())
    with Path(os.devnull).open("wb") as null:
        assert trimmer.add(null.fileno(), "null") is None


def test_a_bound_that_comes_later_holds_for_files_that_are_open(tmp_path: Path) -> None:
    """As when batchns.toml is read again."""

    async def main() -> None:
        trimmer = Trimmer(None, SharedFiles(), threads())
        fd = append(tmp_path / "out")
        file = trimmer.add(fd, "job 7's output", 0)
        os.write(fd, b"x\n" * 2 * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trimmer.run)
            await trio.sleep(0.3)
            assert os.fstat(fd).st_size == 4 * MIB
            trimmer.most = MIB
            await until(lambda: os.fstat(fd).st_blocks * 512 <= MIB + MIB // 8)
            await trimmer.remove(file)
            nursery.cancel_scope.cancel()
        os.close(fd)

    trio.run(main)
