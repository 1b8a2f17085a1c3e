"""The errors of batchns: each says what is wrong, where, and what to do next.

Libraries raise; only the command line turns an error into a message and an exit code.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

# errno: (what is wrong, what to do).
SCARCE: Mapping[int, tuple[str, str]] = {
    errno.EMFILE: ("no descriptors left", "raise LimitNOFILE in batchns.service; in a shell, ulimit -n"),
    errno.ENFILE: ("no descriptors left on this machine", "raise their number: sysctl fs.file-max"),
    errno.ENOMEM: ("no memory left for the kernel", "free some, or have fewer jobs run at a time"),
}


class BatchnsError(Exception):
    """Base of every error that batchns raises on purpose."""


class _Told(BatchnsError):
    """`what` is the fact, `hint` is what to write or type; `str()` joins them with " - "."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} - {self.hint}" if self.hint else self.what


class UserError(_Told):
    """Something the user wrote or typed is wrong. The command line exits with 2."""


class HostError(_Told):
    """This machine cannot do what is asked. The command line exits with 125."""


class StepError(HostError):
    """One step on the way to a running job failed.

    `step` names the operation (one of the launch plan's), `path` the object it worked on, `errno` the kernel's
    answer (0 where there is none).
    """

    def __init__(self, step: str, path: str, errno: int, hint: str = "") -> None:
        reason = os.strerror(errno) if errno else "failed"
        super().__init__(f"{step}: {path}: {reason}" if path else f"{step}: {reason}", hint)
        self.step = step
        self.path = path
        self.errno = errno


def host_error(error: OSError) -> HostError:
    """Of a call that only this machine can make fail."""
    reason = error.strerror or str(error)
    what, hint = SCARCE.get(error.errno or 0, (reason, ""))
    return HostError(f"{error.filename}: {what}" if error.filename else what, hint)
