"""Whether an attached command can type on the terminal of whoever started it."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
import tty
from collections.abc import Callable
from pathlib import Path

from ..alone import end_with_parent
from .scene import Scene
from .tree import PYTHON

COMMAND = [PYTHON, "escapes.py", "type_on_the_terminal"]


def lacks() -> str:
    there = Path("/proc/sys/dev/tty/legacy_tiocsti")
    return "" if not there.exists() or there.read_text().strip() == "1" else "TIOCSTI is switched off on this machine"


def typed(one: Scene, argv_of: Callable[[list[str]], list[str]]) -> bool:
    """Run the attack on a terminal that controls its session; what can be read from that afterwards decides."""
    master, slave = pty.openpty()
    try:
        tty.setraw(slave)

        def control() -> None:
            end_with_parent()
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        ids = {"user": one.uid, "group": one.uid, "extra_groups": []} if one.uid else {}
        subprocess.run(
            argv_of(COMMAND),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=one.work,
            env={"PATH": os.environ["PATH"], "HOME": str(one.outside), "XDG_RUNTIME_DIR": str(one.outside)},
            preexec_fn=control,
            timeout=60,
            check=False,
            **ids,  # type: ignore[call-overload]
        )
        os.set_blocking(slave, False)
        try:
            return b"attack" in os.read(slave, 4096)
        except BlockingIOError:
            return False
    finally:
        os.close(slave)
        os.close(master)
