"""What goes wrong between a client and the daemon."""

from __future__ import annotations

from batchns.wire.engine import Refusal, Unreachable


class ApiError(Refusal):
    """The daemon has said no. `code`, `message`, `hint`: of `wire.Failure`; `status`: of HTTP."""

    def __init__(self, code: str, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(code, message, hint)
        self.status = status


class NoDaemon(Unreachable):
    """Nobody listens at the socket."""

    def __init__(self, path: str, why: str = "", *, closed: bool = False) -> None:
        """`closed`: there may be one, but this user has no right to its socket."""
        hint = f"see whose it is: ls -l {path}" if closed else "start one: systemctl start batchns, or batchns daemon"
        super().__init__(f"no batchns daemon answers at {path}" + (f" ({why})" if why else ""), hint)
        self.path = path


def unreachable(path: str, error: OSError) -> NoDaemon:
    """What the failure to connect means."""
    why = "it accepts no connection" if isinstance(error, BlockingIOError) else error.strerror or str(error)
    return NoDaemon(path, why, closed=isinstance(error, PermissionError))


class Lost(Unreachable):
    """The connection broke, or the daemon kept silent, before the answer was complete.

    What was asked for may have been done or not, or may yet be done: look before you ask again.
    """


def broken() -> Lost:
    return Lost(
        "the connection to the daemon broke before its answer was complete", "look what was done, then ask again"
    )


def slow() -> Lost:
    return Lost("the daemon has not answered in time", "is it well? journalctl -u batchns")
