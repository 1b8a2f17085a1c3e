"""A process in a job, between a connection and the launcher: what cannot be started is refused, within a bound."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
import trio
import trio.testing

from batchns.daemon import execution
from batchns.daemon.execution import execute
from batchns.daemon.service import Refused
from batchns.errors import StepError
from batchns.launch.client import Left, Unsendable
from batchns.model.submitter import Submitter
from batchns.wire import types as wire

ADA = Submitter(name="ada", uid=31001, gid=31001, groups=(31001,))
PIPES, TERMINAL = wire.ExecRequest(command=("true",)), wire.ExecRequest(command=("true",), terminal=(24, 80))


class FakeEntered:
    """One whose terminal the kernel has dropped."""

    terminal = None

    def __init__(self) -> None:
        self.hung_up = 0

    async def hang_up(self) -> None:
        self.hung_up += 1

    async def wait(self) -> Left:
        return Left()


class FakeLauncher:
    """`answer`: what `enter` does; an error is raised, None never comes."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def enter(self, *_: object, **__: object) -> Any:
        if self.answer is None:
            await trio.sleep_forever()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def refused(answer: object, request: wire.ExecRequest) -> Refused:
    """After how long it is, is not measured: the clock jumps."""

    async def main() -> None:
        launcher: Any = FakeLauncher(answer)
        async with execute(launcher, "abcde-0", request, ADA):
            raise AssertionError

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refused) as caught:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(os.listdir("/proc/self/fd")) == before
    return caught.value


@pytest.mark.parametrize("request_", [PIPES, TERMINAL], ids=["pipes", "terminal"])
@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (None, "unavailable", "the process has not begun within 30s - see that the file system"),
        (Unsendable("a launch plan of 2 bytes is larger than 1"), "too_large", "command and environment are too large"),
        (StepError("enter", "7", 0, "the job is frozen: thaw it first"), "conflict", "thaw it first"),
        (StepError("cwd", "/none", errno.ENOENT), "invalid", "/none"),
        (StepError("exec", "a", errno.ENOENT), "command_not_found", "exec: a: No such file"),
        (StepError("exec", "a", errno.EACCES), "command_not_executable", "exec: a: Permission denied"),
        (StepError("exec", "a", errno.ENOEXEC), "command_not_executable", "exec: a: Exec format error"),
    ],
)
def test_what_cannot_be_started_is_refused(answer: object, code: str, text: str, request_: wire.ExecRequest) -> None:
    found = refused(answer, request_)
    assert found.code == code and text in str(found)


def test_a_terminal_for_which_there_is_no_descriptor_is_hung_up() -> None:
    entered = FakeEntered()
    found = refused(entered, TERMINAL)
    assert found.code == "unavailable" and "no descriptors left - raise LimitNOFILE" in str(found)
    assert entered.hung_up == 1


def test_pipes_for_which_there_are_no_descriptors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = os.pipe2

    def pipe2(flags: int) -> tuple[int, int]:
        monkeypatch.setattr(execution.os, "pipe2", none_left)
        return made(flags)

    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(execution.os, "pipe2", pipe2)
    found = refused(None, PIPES)
    assert found.code == "unavailable" and "no descriptors left" in str(found)
