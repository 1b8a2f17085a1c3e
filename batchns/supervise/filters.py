"""The seccomp filters of one run: each profile that its jobs use, compiled once, in a file that their inits load."""

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

    `profiles`: the administrator's, by name: the path of an OCI file. DEFAULT is ours unless it is among them.

    Raises:
        UserError: a profile cannot be read, says something that is not understood, or keeps init from its work.
        HostError: libseccomp is missing or fails.
    """
    made = {}
    for name in sorted(set(names)):
        made[name] = f"{folder}/seccomp-{name}.bpf"
        Path(made[name]).write_bytes(compiled(read_profile(name, profiles)))
    return made


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
