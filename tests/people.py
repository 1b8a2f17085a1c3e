"""Other users of the machine, as this test run sees it: in its own mounts, see `alone`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchns.kernel import syscalls

PACKAGE = Path(__file__).resolve().parents[1]


def closed_above(path: str) -> Path | None:
    """The first folder on the way to `path` that other users cannot enter."""
    above = [*reversed(Path(path).parents)]
    return next((folder for folder in above if not folder.stat().st_mode & 0o001), None)


@contextlib.contextmanager
def way_for_all() -> Iterator[None]:
    """Every user reaches this Python and this package, wherever they are."""
    places = {sys.base_prefix, sys.prefix, str(PACKAGE)}
    covered: list[Path] = []
    try:
        while closed := next((found for place in sorted(places) if (found := closed_above(place))), None):
            kept = [place for place in places if Path(place).is_relative_to(closed)]
            trees = [(place, syscalls.open_tree(syscalls.AT_FDCWD, place, syscalls.OPEN_TREE_CLONE)) for place in kept]
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "way", closed], check=True)
            covered.append(closed)
            for place, tree in trees:
                Path(place).mkdir(parents=True, exist_ok=True)
                syscalls.move_mount(tree, syscalls.AT_FDCWD, place)
                os.close(tree)
        yield
    finally:
        for folder in reversed(covered):
            subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def users(**ids: int) -> Iterator[None]:
    """They are in the user database, each with a group of the same name and number, and all in a group "people"."""
    passwd = [f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n" for name, uid in ids.items()]
    group = [f"{name}:x:{uid}:\n" for name, uid in ids.items()]
    group.append(f"people:x:{max(ids.values()) + 1}:{','.join(ids)}\n")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name, lines in (("passwd", passwd), ("group", group)):
            made = Path(folder, name)
            made.write_text(Path("/etc", name).read_text() + "".join(lines))
            made.chmod(0o644)
            subprocess.run(["mount", "--bind", made, f"/etc/{name}"], check=True)
            stack.callback(subprocess.run, ["umount", "-l", f"/etc/{name}"], check=True)
        yield
