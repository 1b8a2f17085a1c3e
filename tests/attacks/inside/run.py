"""Runs attacks, each in a process of its own, and waits until they have been looked at.

usage: run.py ID MODULE NAME...   Reports go to reports/NAME. Files: `started`, then somebody makes `go`; `ready`, then
`enough`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path

_LIMIT = 8.0  # seconds for one attack


def name_me(name: str) -> None:
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME


def wait_for(name: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not os.path.exists(name) and time.monotonic() < end:
        time.sleep(0.01)


def main() -> None:
    identity, module, *names = sys.argv[1:]
    name_me(f"atk-{identity}")
    sys.dont_write_bytecode = True
    sys.path.append("/attacks")  # where the working folder has no path
    attacks = importlib.import_module(module)
    Path("started").touch()
    wait_for("go", 60)
    children = [start(identity, attacks, index, name) for index, name in enumerate(names)]
    Path("ready").touch()
    wait_for("enough", 60)
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)


def start(identity: str, attacks: object, index: int, name: str) -> int:
    """One attack, until it ends, holds what it has, or takes too long."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            name_me(f"atk-{identity}-{index:02}")
            os.close(reader)
            os.environ["HELD"] = str(writer)
            report = os.open(f"reports/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            for fd in (1, 2):
                os.dup2(report, fd)
            os.close(report)
            getattr(attacks, name)()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writer)
    select.select([reader], [], [], _LIMIT)
    os.close(reader)
    return child


if __name__ == "__main__":
    main()
