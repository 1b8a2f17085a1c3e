"""What a user or an administrator can do to a job on its way to a command: it costs that job, never the process."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from supervise_fakes import Behaviour, FakeLauncher, bench, inline, spec

from batchns.core.placement import Placement
from batchns.errors import HostError
from batchns.kernel import syscalls
from batchns.launch.client import Started, Unsendable
from batchns.launch.plan import Plan
from batchns.model.lifecycle import State
from batchns.supervise import events
from batchns.supervise.attempt import Attempt
from batchns.supervise.devices import granted
from batchns.supervise.launches import Launches
from batchns.supervise.outputs import Outputs

PLACE = Placement(cpus=(0,), mems=(0,))


def test_a_plan_that_is_too_large_for_the_launcher_fails_its_job_only(tmp_path: Path) -> None:
    here = bench(tmp_path, {"huge": Behaviour(launch_error=Unsendable("a launch plan of 9 bytes is too large"))})
    results = here.run([spec(tmp_path, "huge"), spec(tmp_path, "good")])
    assert (results["7"].state, results["8"].state) == (State.FAILED, State.COMPLETED)
    assert results["7"].reason.startswith("a launch plan of 9 bytes")
    assert here.runs.taken == []


def test_a_profile_that_batchns_toml_has_no_longer_fails_its_job_only(tmp_path: Path) -> None:
    here = bench(tmp_path)
    here.supervisor._preparer.filters = {"strict": "/run/seccomp-strict.bpf"}
    (result,) = here.run([spec(tmp_path, "old")]).values()
    assert result.state is State.FAILED
    assert "no profile of batchns.toml any more - choose from strict" in result.reason


def test_devices_that_batchns_toml_has_no_longer_are_an_error_that_is_told() -> None:
    placement = Placement(cpus=(0,), mems=(0,), units=(("gpus", (0, 1)),))
    with pytest.raises(HostError, match=r"gpus: unit 0,1 is not in batchns\.toml any more"):
        granted({}, placement)


def test_an_attempt_that_is_over_before_its_turn_comes_is_not_launched(tmp_path: Path) -> None:
    """Its job may have left memory meanwhile, as one that is cancelled twice behind launches that hang."""
    posted: list[events.Event] = []
    here = bench(tmp_path)
    over = Attempt("7", "abcde-0", PLACE)

    def job(job_id: str) -> None:
        raise KeyError(job_id)

    async def main() -> None:
        effects = here.supervisor._loop.effects
        async with trio.open_nursery() as nursery:
            effects.nursery = nursery
            launches = Launches(
                launcher=FakeLauncher(here.host),
                preparer=here.supervisor._preparer,
                effects=effects,
                post=posted.append,
                job=job,  # type: ignore[arg-type]
            )
            nursery.start_soon(launches.serve)
            launches.ask(over)
            over.over.set()
            effects.release(recorded=True)
            await trio.testing.wait_all_tasks_blocked()
            assert over.launched.is_set()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert posted == []


class Hung(Outputs):
    """Its file system does not answer."""

    async def open_all(self, *_: object, **__: object) -> list[int]:  # type: ignore[override]
        await trio.sleep_forever()
        raise AssertionError


class Deaf(FakeLauncher):
    """Is never to be asked for anything."""

    async def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Started:
        raise AssertionError("it is not to be asked")


def test_the_slot_of_an_attempt_that_the_launcher_never_heard_of_is_free_again(tmp_path: Path) -> None:
    """A file system that does not answer must not cost everybody their slots, one cancelled job after the other."""
    here = bench(tmp_path)
    loop = here.supervisor._loop
    here.supervisor._preparer.outputs = Hung(inline)
    loop.launches.launcher = Deaf(here.host)

    async def kill(_: object) -> None:
        await trio.sleep(1)
        here.supervisor.kill()

    (result,) = here.run([spec(tmp_path, "stuck")], kill).values()
    assert result.state is State.NODE_FAIL
    assert here.runs.taken == []


def none_left(monkeypatch: pytest.MonkeyPatch, where: str, outputs: Outputs, number: int, times: int) -> None:
    """The first `times` calls of this kind fail."""
    left = times

    def failing(function: Callable[..., Any], concerns: Callable[..., bool]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            if left and concerns(*arguments):
                left -= 1
                raise OSError(number, os.strerror(number))
            return function(*arguments, **more)

        return call

    if where == "null":
        monkeypatch.setattr(os, "open", failing(os.open, lambda path, *_: path == os.devnull))
    elif where == "outputs":
        monkeypatch.setattr(syscalls, "openat2", failing(syscalls.openat2, lambda *_: True))
    else:
        outputs.opened = failing(lambda *_: None, lambda *_: True)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("where", ["null", "outputs", "trimmer"])
def test_a_launch_for_which_there_is_no_descriptor_fails_alone_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    here = bench(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    none_left(monkeypatch, where, here.supervisor._preparer.outputs, number, times=2)
    results = here.run([spec(tmp_path, max_retries=2)])
    assert (results["7"].state, results["7"].attempts) == (State.COMPLETED, 3)

    here = bench(tmp_path)
    none_left(monkeypatch, where, here.supervisor._preparer.outputs, number, times=1)
    results = here.run([spec(tmp_path)])
    assert results["7"].state is State.FAILED
    assert results["7"].reason.startswith("no descriptors left")
    assert ("LimitNOFILE" in results["7"].reason) is (number == errno.EMFILE)
    assert here.runs.taken == []
    until_at_most(lambda: len(os.listdir("/proc/self/fd")), before)


def until_at_most(found: Callable[[], int], wanted: int) -> None:
    """Descriptors are closed in threads that nobody waits for; other tests' may go meanwhile."""
    end = time.monotonic() + 5
    while found() > wanted and time.monotonic() < end:
        time.sleep(0.01)
    assert found() <= wanted
