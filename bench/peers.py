"""How others start a sandbox around one `true`: each is a context that yields a function to call and time.

1. What can be prepared once (a binary, a bundle, a root) is prepared before the first call, as each tool's users would.
2. A call returns the seconds from spawning the tool to having reaped it, and raises when `true` did not end with 0:
   a peer that fails fast is no fast peer.
3. Nothing of a peer outlives its context.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path

from batchns.kernel.seccomp.compile import compiled
from batchns.kernel.seccomp.profile import default

Run = Callable[[], float]
Competitor = tuple[str, Callable[[], AbstractContextManager[Run]]]

SOURCE = Path(__file__).parent / "peers" / "clone_all.c"


class PeerError(RuntimeError):
    """A peer could not be prepared, or its `true` did not end with 0."""


def timed(argv: list[str]) -> float:
    """Run `argv[0]` (a full path) and wait for it: seconds.

    posix_spawn, because a fork of this interpreter would be a part of what is measured.
    """
    begin = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - begin
    if status:
        raise PeerError(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return took


def program(name: str, package: str) -> str:
    """The path of a program.

    Raises:
        PeerError: it is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise PeerError(f"no {name} - apt-get install {package}")
    return found


@contextmanager
def bare_namespaces() -> Iterator[Run]:
    """A C program that clones all seven namespaces and executes `true`, compiled here."""
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:
        binary = f"{folder}/clone_all"
        subprocess.run([program("cc", "gcc"), "-O2", "-o", binary, str(SOURCE)], check=True)
        yield lambda: timed([binary, "/bin/true"])


@cache
def _compiled() -> bytes:
    return compiled(default())


def default_filter(folder: str) -> str:
    """The path of the filter that every job of batchns has, compiled once, in the folder."""
    path = Path(folder) / "seccomp.bpf"
    if not path.exists():
        path.write_bytes(_compiled())
    return str(path)


@contextmanager
def bubblewrap(*, filtered: bool = False) -> Iterator[Run]:
    """bwrap with every namespace, the host's root read-only, fresh /proc, /dev and /tmp. It sets no limits.

    `filtered`: with batchns's filter, too.
    """
    argv = [program("bwrap", "bubblewrap"), "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    argv += ["--tmpfs", "/tmp", "--die-with-parent", "--new-session"]
    if not filtered:
        yield lambda: timed([*argv, "--", "/bin/true"])
        return
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:
        path = default_filter(folder)

        def run() -> float:
            rules = os.open(path, os.O_RDONLY)
            try:
                os.set_inheritable(rules, True)
                return timed([*argv, "--seccomp", str(rules), "--", "/bin/true"])
            finally:
                os.close(rules)

        yield run


@contextmanager
def runc() -> Iterator[Run]:
    """runc on a busybox root with limits on cpu, cpuset, memory and pids."""
    command = program("runc", "runc")
    busybox = program("busybox", "busybox-static")
    with tempfile.TemporaryDirectory(prefix="batchns-bench-") as folder:
        root = Path(folder) / "rootfs"
        for name in ("bin", "proc", "sys", "dev"):
            (root / name).mkdir(parents=True)
        shutil.copy(busybox, root / "bin/busybox")
        (root / "bin/true").symlink_to("busybox")
        subprocess.run([command, "spec", "--bundle", folder], check=True)
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(limited(json.loads(config.read_text()))))
        name = f"batchns-bench-{os.getpid()}"
        try:
            yield lambda: timed([command, "run", "--bundle", folder, name])
        finally:
            # After a clean run there is nothing to delete, and runc says so.
            subprocess.run([command, "delete", "--force", name], check=False, capture_output=True)


def limited(spec: dict[str, object]) -> dict[str, object]:
    """What `runc spec` printed (OCI runtime specification), for `true` and with the limits of a default job."""
    process = {**_table(spec["process"]), "args": ["/bin/true"], "terminal": False}
    linux = _table(spec["linux"])
    resources = {
        **_table(linux["resources"]),
        "cpu": {"shares": 1024, "cpus": "0"},
        "memory": {"limit": 256 << 20},
        "pids": {"limit": 512},
    }
    return {**spec, "process": process, "linux": {**linux, "resources": resources}}


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PeerError(f"runc spec printed {value!r} where a table was expected")
    return value


PEERS: list[Competitor] = [
    ("namespaces only (C)", bare_namespaces),
    ("bwrap --unshare-all", bubblewrap),
    ("bwrap, same filter", partial(bubblewrap, filtered=True)),
    ("runc, busybox, limits", runc),
]
