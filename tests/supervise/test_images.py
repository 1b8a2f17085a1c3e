"""Digests of images: what a job insists on is what it gets, and a file is read once for each version of it."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from supervise_fakes import inline

from batchns.errors import HostError, UserError
from batchns.launch.plan import Version
from batchns.model.submitter import ROOT
from batchns.supervise import images
from batchns.supervise.images import Images
from batchns.supervise.ports import threads

CONTENT = b"squashfs" * 300_000  # more than one piece
OTHER = f"sha256:{'0' * 64}"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "system.squashfs"
    path.write_bytes(CONTENT)
    path.chmod(0o644)
    if os.geteuid():
        pytest.skip("images are root's")
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time that a file is read through."""
    found: list[int] = []
    read = images._digest
    monkeypatch.setattr(images, "_digest", lambda fd, given_up: found.append(fd) or read(fd, given_up))
    return found


def check(known: Images, path: Path, wanted: str = digest(CONTENT)) -> Version:
    return trio.run(partial(known.check, str(path), wanted, ROOT))


def test_the_image_that_was_asked_for_is_known_by_its_version(image: Path) -> None:
    found = image.stat()
    version = check(Images(inline), image)
    assert version == (found.st_dev, found.st_ino, len(CONTENT), found.st_ctime_ns)


def test_another_one_is_refused_with_both_digests(image: Path) -> None:
    with pytest.raises(UserError) as refused:
        check(Images(inline), image, OTHER)
    assert refused.value.what == f"isolation.rootfs_digest: {image} has {digest(CONTENT)}, not {OTHER}"


def test_a_version_is_read_once_whatever_is_asked_of_it(image: Path, reads: list[int]) -> None:
    known = Images(inline)
    for _ in range(3):
        check(known, image)
    with pytest.raises(UserError):
        check(known, image, OTHER)
    assert len(reads) == 1


def test_a_file_that_has_changed_is_read_again(image: Path, reads: list[int]) -> None:
    known = Images(inline)
    check(known, image)
    changed = CONTENT[:-1] + b"x"
    with image.open("r+b") as file:  # as large as before, the same inode, and a time of its own choice
        before = image.stat()
        file.write(changed)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=digest(changed)):
        check(known, image)
    check(known, image, digest(changed))
    assert len(reads) == 2


def test_what_others_can_change_has_no_digest_to_rely_on(image: Path) -> None:
    for change in (lambda: image.chmod(0o664), lambda: image.chmod(0o646), lambda: os.chown(image, 1234, 0)):
        os.chown(image, 0, 0)
        image.chmod(0o644)
        change()
        with pytest.raises(UserError, match="can be changed by others") as refused:
            check(Images(inline), image)
        assert "chown root" in refused.value.hint


def test_only_a_file_of_this_name_has_one(image: Path, tmp_path: Path) -> None:
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(image)
    os.mkfifo(fifo)
    for path, what in (
        (tmp_path, "is no image"),
        (fifo, "is no image"),
        (link, "symbolic links"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(UserError, match=what):
            check(Images(inline), path)


def test_of_many_that_ask_at_once_one_reads(image: Path, reads: list[int]) -> None:
    known = Images(inline)

    async def ask() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(known.check, str(image), digest(CONTENT), ROOT)

    trio.run(ask)
    assert len(reads) == 1


def test_a_check_that_was_given_up_leaves_nothing_to_be_believed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read no further, and the digest of its first pieces is not taken for that of the file."""
    go_on, waits = threading.Event(), threading.Event()
    known = Images(threads())
    read_on = images._digest

    def slow(fd: int, given_up: threading.Event) -> str:
        waits.set()
        go_on.wait(10)
        assert given_up.is_set()
        return read_on(fd, given_up)

    async def give_up() -> None:
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(known.check, str(image), digest(CONTENT), ROOT)
                await trio.to_thread.run_sync(waits.wait)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        go_on.set()

    monkeypatch.setattr(images, "_digest", slow)
    trio.run(give_up)
    time.sleep(0.2)  # nothing says when the thread is through
    assert known._known == {}
    monkeypatch.setattr(images, "_digest", read_on)
    check(known, image)


def test_an_image_that_does_not_answer_is_in_no_others_way(image: Path, tmp_path: Path) -> None:
    hung = tmp_path / "hung.squashfs"

    async def blocking(function: Any, *, late: object = None) -> Any:
        if str(hung) in function.args:
            await trio.sleep_forever()
        return function()

    async def main() -> None:
        known = Images(blocking)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(known.check, str(hung), OTHER, ROOT)
                await trio.testing.wait_all_tasks_blocked()
                await known.check(str(image), digest(CONTENT), ROOT)
                nursery.cancel_scope.cancel()
        assert known._turns == {}

    trio.run(main)


def test_a_machine_without_descriptors_is_not_the_users_mistake(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(image))

    monkeypatch.setattr(images.syscalls, "openat2", none_left)
    with pytest.raises(HostError, match="no descriptors left") as told:
        check(Images(inline), image)
    assert "ulimit -n" in told.value.hint


def test_a_measurement_of_the_kernel_stands_for_the_content(
    image: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.verity, "measurement", lambda fd: b"\x01\x00\x20\x00" + bytes(32))
    known = Images(inline)
    check(known, image)
    os.utime(image)  # another time of change, and the same content
    assert check(known, image).changed == image.stat().st_ctime_ns
    assert len(reads) == 1
