"""The seccomp filters of jobs: each profile that they use, compiled once, in a file that their inits load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from batchns.errors import UserError
from batchns.kernel.seccomp.compile import compiled
from batchns.kernel.seccomp.profile import Profile, default, parse

DEFAULT = "default"
LARGEST = 1 << 20  # bytes of a profile


def write_filters(names: Iterable[str], profiles: Mapping[str, str], folder: str) -> Mapping[str, str]:
    """Compile the profiles of these `names` into `folder`: each name with its filter's path. Blocks.

    Filters that are there already are replaced, each at once, when all are compiled: on an error all stay as they were.
    Jobs that run keep theirs.

    `profiles`: the administrator's, by name: the path of an OCI file. DEFAULT is ours unless it is among them.

    Raises:
        UserError: a profile cannot be read, says something that is not understood, or keeps init from its work.
        HostError: libseccomp is missing or fails.
    """
    programs = {name: compiled(read_profile(name, profiles)) for name in sorted(set(names))}
    for name, program in programs.items():
        fresh = Path(f"{folder}/seccomp-{name}.new")
        fresh.write_bytes(program)
        fresh.replace(_path(folder, name))
    return {name: _path(folder, name) for name in programs}


def write_all_filters(profiles: Mapping[str, str], folder: str) -> Mapping[str, str]:
    """As `write_filters`, for every profile that there is: for jobs that come at any time."""
    return write_filters((DEFAULT, *profiles), profiles, folder)


def _path(folder: str, name: str) -> str:
    return f"{folder}/seccomp-{name}.bpf"


def read_profile(name: str, profiles: Mapping[str, str]) -> Profile:
    """Raises UserError: it cannot be read, or is not understood."""
    path = profiles.get(name)
    if path is None:
        return default()
    try:
        with Path(path).open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(
            f"isolation.seccomp.{name}: {path}: {error.strerror}", "write the path of a profile into batchns.toml"
        ) from None
    if len(text) > LARGEST:
        raise UserError(f"isolation.seccomp.{name}: {path}: larger than {LARGEST} bytes", "write a smaller profile")
    return parse(text.decode("utf-8", "replace"), path)
