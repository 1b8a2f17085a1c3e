"""Where the id ranges come from, and what keeps them from anybody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchns.errors import HostError
from batchns.model.config import IsolationSettings
from batchns.supervise.idranges import id_starts


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\n")
    (tmp_path / "subuid").write_text("# by hand\nalice:100000:65536\nbatchns:2000000:140000\n")
    (tmp_path / "subgid").write_text("alice:100000:65536\nbatchns:2000000:131072\n\nbroken line\n")
    return tmp_path


def test_the_ranges_of_the_settings_lie_side_by_side(etc: Path) -> None:
    assert list(id_starts(IsolationSettings(id_start=1_000_000, id_ranges=3), etc)) == [1_000_000, 1_065_536, 1_131_072]


def test_an_owners_subordinate_ids_are_cut_into_whole_ranges_that_are_in_both_files(etc: Path) -> None:
    assert id_starts(IsolationSettings(subid_owner="batchns"), etc) == [2_000_000, 2_065_536]
    with (etc / "subuid").open("a") as file:
        file.write("batchns:3000000:65536\n")
    assert id_starts(IsolationSettings(subid_owner="batchns"), etc) == [2_000_000, 2_065_536]


def test_an_owner_without_any_is_told_how_to_get_them(etc: Path) -> None:
    with pytest.raises(HostError, match=r"'bob': it has no 65536 ids .*usermod --add-subuids .* bob"):
        id_starts(IsolationSettings(subid_owner="bob"), etc)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("subuid", "carol:1065535:10"),
        ("subgid", "carol:999000:1001"),
        ("passwd", "carol:x:1000000:5::/:/bin/sh"),
        ("group", "staff:x:1196607:"),
    ],
)
def test_ids_of_somebody_else_are_refused_with_file_and_name(etc: Path, file: str, line: str) -> None:
    settings = IsolationSettings(id_start=1_000_000, id_ranges=3)
    id_starts(settings, etc)
    with (etc / file).open("a") as opened:
        opened.write(f"{line}\n")
    with pytest.raises(HostError, match=f"{file}: {line.partition(':')[0]} has ids from .* another id_start"):
        id_starts(settings, etc)


def test_ids_just_beside_are_free(etc: Path) -> None:
    (etc / "passwd").write_text("a:x:999999:1::/:/x\nb:x:1196608:1::/:/x\n")
    id_starts(IsolationSettings(id_start=1_000_000, id_ranges=3), etc)


def test_a_host_without_the_files_has_nothing_to_meet(tmp_path: Path) -> None:
    assert len(id_starts(IsolationSettings(), tmp_path)) == 4096
