"""What is answered when something is refused or breaks: always `wire.Failure`."""

from __future__ import annotations

from attrs import frozen

from batchns.daemon.service import Refused
from batchns.errors import HostError, UserError
from batchns.wire import codec
from batchns.wire import types as wire

STATUS = {
    "invalid": 400,
    "forbidden": 403,
    "not_found": 404,
    "wrong_method": 405,
    "slow": 408,
    "conflict": 409,
    "too_large": 413,
    "command_not_found": 422,
    "command_not_executable": 422,
    "headers_too_large": 431,
    "defect": 500,
    "unavailable": 503,
    "full": 507,
}

DEFECT = wire.Failure(code="defect", message="the daemon could not answer this", hint="its log says why")


@frozen
class Answered:
    """`status` of HTTP and the body."""

    status: int
    body: bytes


def answered(failure: wire.Failure) -> Answered:
    return Answered(STATUS.get(failure.code, 500), codec.encode(failure))


def failure_of(error: BaseException) -> wire.Failure | None:
    """What to tell of an error that is meant to be told; None of a defect."""
    if isinstance(error, Refused):
        return wire.Failure(code=error.code, message=error.message, hint=error.hint)
    if isinstance(error, UserError):
        return wire.Failure(code="invalid", message=error.what, hint=error.hint)
    if isinstance(error, HostError):
        return wire.Failure(code="unavailable", message=error.what, hint=error.hint)
    return None


def besides(error: Exception, kind: type[Exception]) -> Exception | None:
    """What of an error, or of a group of them, is not of this kind; None: nothing."""
    if isinstance(error, ExceptionGroup):
        return error.split(kind)[1]
    return None if isinstance(error, kind) else error


def only(error: BaseException) -> BaseException:
    """The one error in a group of one, or of one kind; a nursery wraps what its body raises."""
    while isinstance(error, BaseExceptionGroup):
        if len({type(inner) for inner in error.exceptions}) > 1:
            return error
        error = error.exceptions[0]
    return error
