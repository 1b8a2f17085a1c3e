"""The id ranges of running jobs: from batchns.toml, or subordinate ids that the administrator has given to an owner.

Nobody else may use an id of a job's: what overlaps a range of another owner, a user or a group is refused before any
job runs. Files and formats: subuid(5), subgid(5), passwd(5), group(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from batchns.errors import HostError
from batchns.launch.ids import IDS_PER_RANGE
from batchns.model.config import IsolationSettings

ETC = Path("/etc")


def id_starts(settings: IsolationSettings, etc: Path = ETC) -> Sequence[int]:
    """The first id of each range of 65536.

    Raises:
        HostError: the owner that batchns.toml names has none, or something else uses ids of them.
    """
    if settings.subid_owner is None:
        starts: Sequence[int] = range(
            settings.id_start, settings.id_start + settings.id_ranges * IDS_PER_RANGE, IDS_PER_RANGE
        )
    else:
        starts = sorted(_cut(etc / "subuid", settings.subid_owner) & _cut(etc / "subgid", settings.subid_owner))
        if not starts:
            owner = settings.subid_owner
            raise HostError(
                f"isolation.subid_owner = {owner!r}: it has no 65536 ids that are in both /etc/subuid and /etc/subgid",
                f"usermod --add-subuids 1000000000-1006553599 --add-subgids 1000000000-1006553599 {owner}",
            )
    _check_free(starts, settings, etc)
    return starts


def _cut(path: Path, owner: str) -> set[int]:
    """The starts of the whole ranges of 65536 in what `owner` has."""
    return {
        start
        for name, first, count in _subordinate(path)
        if name == owner
        for start in range(first, first + count - IDS_PER_RANGE + 1, IDS_PER_RANGE)
    }


def _check_free(starts: Sequence[int], settings: IsolationSettings, etc: Path) -> None:
    first, last = starts[0], starts[-1] + IDS_PER_RANGE - 1
    for path, who, begin, count in _others(settings.subid_owner, etc):
        if begin <= last and first < begin + count and _meets(starts, begin, count):
            raise HostError(
                f"{path}: {who} has ids from {begin} on, which are jobs' by the settings of batchns "
                f"({first} to {last})",
                "write another id_start under [isolation] in batchns.toml",
            )


def _meets(starts: Sequence[int], begin: int, count: int) -> bool:
    return any(start < begin + count and begin < start + IDS_PER_RANGE for start in starts)


def _others(owner: str | None, etc: Path) -> Iterator[tuple[Path, str, int, int]]:
    """(file, who, first id, how many) of all ids that are not the jobs'."""
    for name in ("subuid", "subgid"):
        for who, first, count in _subordinate(etc / name):
            if who != owner:
                yield etc / name, who, first, count
    for name in ("passwd", "group"):
        for fields in _lines(etc / name):
            if len(fields) > 2 and fields[2].isdecimal():
                yield etc / name, fields[0], int(fields[2]), 1


def _subordinate(path: Path) -> Iterator[tuple[str, int, int]]:
    for fields in _lines(path):
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            yield fields[0], int(fields[1]), int(fields[2])


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip().split(":")
