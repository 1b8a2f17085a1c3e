"""Where a covered file is inside the new root: links are followed there, and nowhere else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from batchns.launch.covers import open_file


def opened(root: Path, path: str) -> str:
    """What `path` leads to, seen from outside."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        found = open_file(folder, path)
    finally:
        os.close(folder)
    try:
        return os.readlink(f"/proc/self/fd/{found}").removeprefix(str(root.resolve()))
    finally:
        os.close(found)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path


def test_a_plain_file_is_itself(root: Path) -> None:
    (root / "etc/resolv.conf").write_text("x")
    assert opened(root, "/etc/resolv.conf") == "/etc/resolv.conf"
    assert (root / "etc/resolv.conf").read_text() == "x"


@pytest.mark.parametrize(
    "link", ["../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf", "../../../../run/a"]
)
def test_a_link_is_followed_inside_the_root_and_its_end_is_made(root: Path, link: str) -> None:
    (root / "etc/resolv.conf").symlink_to(link)
    assert opened(root, "/etc/resolv.conf") == "/run/" + link.partition("run/")[2]


def test_folders_and_links_on_the_way_may_be_links_too(root: Path) -> None:
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    (root / "etc/real").symlink_to("../var/run/resolver/conf")
    (root / "etc/resolv.conf").symlink_to("real")
    assert opened(root, "/etc/resolv.conf") == "/run/resolver/conf"


def test_a_root_without_the_file_or_its_folder_gets_both(tmp_path: Path) -> None:
    assert opened(tmp_path, "/etc/resolv.conf") == "/etc/resolv.conf"


def test_links_in_a_circle_are_an_error(root: Path) -> None:
    (root / "etc/resolv.conf").symlink_to("other")
    (root / "etc/other").symlink_to("resolv.conf")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as caught:
        opened(root, "/etc/resolv.conf")
    assert caught.value.errno == errno.ELOOP
    assert set(os.listdir("/proc/self/fd")) <= before
