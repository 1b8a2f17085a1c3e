"""A live job on other CPUs: its cpuset is changed under its processes, which may be frozen meanwhile.

1. All or nothing: where one of the files is refused, the others get back what they held.
2. What counts is what the kernel makes of it: v2 takes CPUs that are not to be had, and ignores them.
3. The processes never leave their cgroup, so none is missed, however they fork.
"""

from __future__ import annotations

import contextlib
import errno

from batchns.kernel.cgroups import files, parse

# Each value's file, and those that say what is in force: v1's name, then v2's.
_EFFECTIVE = {
    "cpuset.cpus": ("cpuset.effective_cpus", "cpuset.cpus.effective"),
    "cpuset.mems": ("cpuset.effective_mems", "cpuset.mems.effective"),
}


def move(directory: str, cpus: str, mems: str) -> str:
    """Set the cpuset at `directory`; returns the text of cpuset.cpus afterwards.

    Processes that run move at once, frozen ones with their thaw. Nodes first, so that pages are where the job's promise
    says before it goes on; on v1 that needs cpuset.memory_migrate (off by default there), on v2 the kernel always does
    it. Copying takes its time (some GB/s) and cannot be stopped; the same nodes as before cost nothing.
    See cpuset(7) and cgroup-v2.rst, "Cpuset Interface Files".

    Raises:
        OSError: the file that was refused, with its value, or EINVAL where fewer CPUs or nodes than asked for are to
            be had; everything is as before then. FileNotFoundError: there is no such cpuset.
    """
    before = {file: files.read(f"{directory}/{file}").strip() for file in _EFFECTIVE}
    try:
        if parse.cpu_list(before["cpuset.mems"]) != parse.cpu_list(mems):
            _migrate(directory)
            _set(directory, "cpuset.mems", mems)
        _set(directory, "cpuset.cpus", cpus)
    except (OSError, ValueError):
        for file, value in before.items():
            with contextlib.suppress(OSError):
                files.write(f"{directory}/{file}", value or "\n")  # v2: none of its own, so its parent's
        raise
    return files.read(f"{directory}/cpuset.cpus").strip()


def _migrate(directory: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # v2 has no such file
        files.write(f"{directory}/cpuset.memory_migrate", "1")


def _set(directory: str, file: str, value: str) -> None:
    path = f"{directory}/{file}"
    files.write(path, value)
    texts = (files.read_if_there(f"{directory}/{name}") for name in _EFFECTIVE[file])
    found = next((text.strip() for text in texts if text is not None), "")
    if parse.cpu_list(found) != parse.cpu_list(value):
        raise OSError(errno.EINVAL, f"write {value!r}: only {found or 'none'} of it is to be had here", path)
