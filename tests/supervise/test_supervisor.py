"""The supervisor's loop against a fake kernel: ends, interrupts, limits, freezes, retries, a lost launcher."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest
import trio
from supervise_fakes import GIB, Behaviour, Bench, bench, spec

from batchns.errors import StepError, UserError
from batchns.metrics.counting import Counting
from batchns.metrics.meters import Meters
from batchns.model.config import Config, Defaults, Node
from batchns.model.job import Network, NetworkMode
from batchns.model.lifecycle import State
from batchns.model.result import JobResult
from batchns.supervise import launches
from batchns.supervise.devices import BASE

S = State


def at(seconds: float, what: str, *arguments: str) -> object:
    """Call a method of the supervisor at a moment."""

    async def meanwhile(here: Bench) -> None:
        await trio.sleep(seconds)
        getattr(here.supervisor, what)(*arguments)

    return meanwhile


def ledger(result: JobResult) -> tuple[float, float, float]:
    return tuple(round(value, 6) for value in (result.queued_seconds, result.running_seconds, result.frozen_seconds))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("behaviour", "state", "exit_code", "signal_name", "reason"),
    [
        (Behaviour(), S.COMPLETED, 0, None, ""),
        (Behaviour(exit_code=3), S.FAILED, 3, None, "exit code 3"),
        (Behaviour(exit_code=None, signal=11), S.FAILED, None, "SIGSEGV", "ended by SIGSEGV"),
        (Behaviour(exit_code=None, signal=40), S.FAILED, None, "SIGRTMIN+6", "ended by SIGRTMIN+6"),
        (Behaviour(exit_code=None), S.FAILED, None, "SIGKILL", "killed together with its init"),
        (
            Behaviour(exit_code=None, signal=9, oom_kills=1),
            S.OUT_OF_MEMORY,
            None,
            "SIGKILL",
            "memory limit 1GiB: 1 process killed",
        ),
        (Behaviour(exit_code=1, oom_kills=2), S.OUT_OF_MEMORY, 1, None, "memory limit 1GiB: 2 processes killed"),
        (Behaviour(exit_code=0, oom_kills=1), S.COMPLETED, 0, None, ""),
        (
            Behaviour(launch_error=StepError("mounts", "/data", errno.ENOENT, "make it")),
            S.FAILED,
            None,
            None,
            "mounts: /data: No such file or directory - make it",
        ),
        (
            Behaviour(launch_error=StepError("exec", "nosuch", errno.ENOENT)),
            S.FAILED,
            127,
            None,
            "exec: nosuch: No such file or directory",
        ),
        (
            Behaviour(launch_error=StepError("exec", "/etc/hosts", errno.EACCES)),
            S.FAILED,
            126,
            None,
            "exec: /etc/hosts: Permission denied",
        ),
    ],
)
def test_every_end_has_its_state_and_reason(
    tmp_path: Path, behaviour: Behaviour, state: State, exit_code: int | None, signal_name: str | None, reason: str
) -> None:
    here = bench(tmp_path, {"job": behaviour})
    result = here.run([spec(tmp_path)])["7"]
    assert (result.state, result.exit_code, result.signal, result.reason) == (state, exit_code, signal_name, reason)
    assert here.runs.taken == []


def test_a_result_holds_usage_limits_files_and_times(tmp_path: Path) -> None:
    job = spec(tmp_path, "train", memory=GIB, pids=9, cpus=2, network=Network(egress=1000))
    here = bench(tmp_path, {"train": Behaviour(seconds=5)})
    result = here.run([job])["7"]
    assert (result.usage.cpu_seconds, result.usage.net_sent_bytes, result.usage.net_received_bytes) == (0.5, 11, 22)
    assert {name: found.value for name, found in result.limits.items()} == {
        "cpu_shares": 2048,
        "cpuset_cpus": "0-1",
        "cpuset_mems": "0",
        "memory": GIB,
        "pids": 9,
        "devices": BASE,
        "egress": 1000,
        "scratch": 1 << 30,
    }
    assert (result.stdout, result.stderr) == (f"{tmp_path}/train-7.out", f"{tmp_path}/train-7.err")
    assert ledger(result) == (0, 5, 0)
    assert here.watcher.states("7") == [S.PENDING, S.STARTING, S.RUNNING, S.COMPLETED]
    assert here.watcher.views[-1][1].result == result


def test_a_rate_without_a_link_says_why_it_is_not_in_force(tmp_path: Path) -> None:
    job = spec(tmp_path, network=Network(mode=NetworkMode.NONE, ingress=5))
    limits = bench(tmp_path).run([job])["7"].limits
    assert (limits["ingress"].value, limits["ingress"].why) == (None, 'network mode "none" has no link to shape')


def test_jobs_start_by_priority_as_room_allows(tmp_path: Path) -> None:
    jobs = [spec(tmp_path, f"j{n}", priority=n, cpus=2) for n in range(5)]
    here = bench(tmp_path, cpus=4)
    here.run(jobs)
    at_moment = [{job for when, job, _ in here.host.launched if when == moment} for moment in range(3)]
    assert at_moment == [{"11", "10"}, {"9", "8"}, {"7"}]


def test_a_pending_job_says_what_it_waits_for(tmp_path: Path) -> None:
    here = bench(tmp_path)
    here.run([spec(tmp_path, "prep"), spec(tmp_path, "use", after=["afterok:prep"], cpus=4), spec(tmp_path, "c")])
    reasons = [view.reason for _, view in here.watcher.views if view.job_id == "8" and view.state is S.PENDING]
    assert reasons[0] == "waits for afterok:prep"


def test_dependencies_and_arrays_run_in_order_and_failures_spread(tmp_path: Path) -> None:
    jobs = [
        spec(tmp_path, "prep"),
        spec(tmp_path, "sweep", tasks=3, after=["afterok:prep"]),
        spec(tmp_path, "sum", after=["afterok:sweep"]),
        spec(tmp_path, "plot", after=["afterok:sum"]),
        spec(tmp_path, "mail", after=["afternotok:sweep"]),
        spec(tmp_path, "clean", after=["afterany:plot"]),
    ]
    here = bench(tmp_path, {"sweep": Behaviour(exit_code=1, seconds=2)})
    results = here.run(jobs)
    assert {job: result.state.value for job, result in results.items()} == {
        "7": "COMPLETED",
        "8_0": "FAILED",
        "8_1": "FAILED",
        "8_2": "FAILED",
        "9": "CANCELLED",
        "10": "CANCELLED",
        "11": "COMPLETED",
        "12": "COMPLETED",
    }
    assert results["10"].reason == "dependency afterok:sum can never be satisfied"
    assert results["10"].stdout is None
    env = dict(here.host.plans["abcde-2"].command.env)
    assert (env["BATCHNS_ARRAY_JOB_ID"], env["BATCHNS_ARRAY_TASK_ID"]) == ("8", "1")


def test_retries_are_attempts_with_files_of_their_own(tmp_path: Path) -> None:
    scripts = [Behaviour(exit_code=1), Behaviour(exit_code=None, signal=9, oom_kills=1), Behaviour()]
    here = bench(tmp_path, {"job": scripts})
    result = here.run([spec(tmp_path, max_retries=3)])["7"]
    assert (result.state, result.attempts, result.reason) == (S.COMPLETED, 3, "")
    assert result.stdout == f"{tmp_path}/job-7-r3.out"
    assert sorted(path.name for path in tmp_path.glob("*.out")) == ["job-7-r2.out", "job-7-r3.out", "job-7.out"]
    assert ledger(result) == (0, 3, 0)
    assert here.watcher.states("7").count(S.PENDING) == 3
    assert [view.result for _, view in here.watcher.views[:-1]] == [None] * (len(here.watcher.views) - 1)


def test_retries_end_with_the_last_failure(tmp_path: Path) -> None:
    result = bench(tmp_path, {"job": Behaviour(exit_code=4)}).run([spec(tmp_path, max_retries=2)])["7"]
    assert (result.state, result.attempts, result.exit_code) == (S.FAILED, 3, 4)


def test_the_time_limit_asks_first(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(seconds=100)})
    result = here.run([spec(tmp_path, time_limit=60.0, max_retries=1)])["7"]
    assert (result.state, result.signal, result.reason) == (S.TIMEOUT, "SIGTERM", "time limit 1m reached")
    assert here.host.signals == [(60.0, "abcde-0", signal.SIGTERM)]
    assert here.host.kills == []


def test_the_time_limit_kills_after_the_grace(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(seconds=100, ignores_sigterm=True)})
    result = here.run([spec(tmp_path, time_limit=60.0)])["7"]
    assert (result.state, result.running_seconds) == (S.TIMEOUT, 70.0)
    assert here.host.kills == [(70.0, "abcde-0")]


def test_the_first_interrupt_asks_and_cancels_what_waits(tmp_path: Path) -> None:
    jobs = [spec(tmp_path, "run", cpus=4, max_retries=5), spec(tmp_path, "wait", cpus=4)]
    here = bench(tmp_path, {"run": Behaviour(seconds=100)})
    results = here.run(jobs, at(5, "stop"))
    assert [(one.state, one.reason) for one in results.values()] == [(S.CANCELLED, "interrupted")] * 2
    assert results["7"].signal == "SIGTERM"
    assert ledger(results["7"]) == (0, 5, 0)
    assert ledger(results["8"]) == (5, 0, 0)


def test_after_the_first_interrupt_the_grace_is_bounded(tmp_path: Path) -> None:
    config = Config(defaults=Defaults(grace_time=3.0))
    here = bench(tmp_path, {"job": Behaviour(seconds=100, ignores_sigterm=True)}, config=config)
    result = here.run([spec(tmp_path)], at(5, "stop"))["7"]
    assert (result.state, result.running_seconds) == (S.CANCELLED, 8.0)


def test_the_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    async def twice(here: Bench) -> None:
        await trio.sleep(5)
        here.supervisor.stop()
        await trio.sleep(1)
        here.supervisor.kill()

    here = bench(tmp_path, {"job": Behaviour(seconds=100, ignores_sigterm=True)})
    result = here.run([spec(tmp_path)], twice)["7"]
    assert (result.state, result.running_seconds, result.reason) == (S.CANCELLED, 6.0, "interrupted")
    assert here.host.kills == [(6.0, "abcde-0")]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_interrupt_during_the_launch_reaches_the_job(tmp_path: Path, how: str) -> None:
    """Also one that is still in line behind other launches: it is never started."""
    jobs = [spec(tmp_path, "slow", tasks=6, cpus=0.5)]
    here = bench(tmp_path, {"slow": Behaviour(launch_seconds=10, seconds=100)})
    results = here.run(jobs, at(1, how))
    assert {one.state for one in results.values()} == {S.CANCELLED}
    assert len(here.host.launched) == 4
    assert sorted(one.running_seconds for one in results.values()) == [launches.SLOW] * 2 + [10.0] * 4
    assert here.runs.taken == []


def test_a_job_that_cannot_be_killed_is_given_up_and_its_slot_kept(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(seconds=1e9, ignores_sigterm=True, dies=False)})
    result = here.run([spec(tmp_path)], at(5, "kill"))["7"]
    assert result.state is S.NODE_FAIL
    assert result.reason.startswith("processes in its cgroup abcde-0 do not die")
    assert result.running_seconds == 15.0
    assert len(here.runs.taken) == 1


def test_a_job_whose_end_is_never_reported_is_given_up_and_cleared(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(seconds=1e9, ignores_sigterm=True, reported=False)})
    result = here.run([spec(tmp_path)], at(5, "kill"))["7"]
    assert (result.state, result.running_seconds) == (S.NODE_FAIL, 15.0)
    assert result.reason == "it was killed, but the launcher does not say how it ended"
    assert (here.host.removed, here.runs.taken) == (["abcde-0"], [])


def test_a_launch_that_hangs_does_not_hold_up_an_interrupt(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(launch_seconds=1e9)})
    result = here.run([spec(tmp_path)], at(5, "kill"))["7"]
    assert (result.state, result.running_seconds) == (S.NODE_FAIL, 15.0)
    assert "the launcher does not answer" in result.reason
    assert len(here.runs.taken) == 1


def test_usage_that_could_not_be_read_is_said_in_the_result(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(unread="cpu.stat: Input/output error")})
    result = here.run([spec(tmp_path)])["7"]
    assert (result.state, result.reason) == (S.COMPLETED, "usage is not complete: cpu.stat: Input/output error")


def test_what_a_job_leaves_behind_is_said_and_its_slot_kept(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(exit_code=2, left=("/cg/abcde-0",))})
    assert here.run([spec(tmp_path)])["7"].reason == "exit code 2; left behind: /cg/abcde-0"
    assert len(here.runs.taken) == 1


def test_the_ledger_and_the_time_limit_stand_still_while_frozen(tmp_path: Path) -> None:
    frozen: list[bool] = []

    async def pause(here: Bench) -> None:
        await trio.sleep(5)
        frozen.append(await here.supervisor.freeze_all())
        await trio.sleep(100)
        here.supervisor.thaw_all()

    here = bench(tmp_path, {"a": Behaviour(seconds=8), "b": Behaviour(seconds=100)})
    jobs = [spec(tmp_path, "a", cpus=2), spec(tmp_path, "b", cpus=2, time_limit=9.0), spec(tmp_path, "c", cpus=2)]
    results = here.run(jobs, pause)
    assert frozen == [True]
    assert (results["7"].state, ledger(results["7"])) == (S.COMPLETED, (0, 8, 100))
    assert (results["8"].state, ledger(results["8"])) == (S.TIMEOUT, (0, 9, 100))
    assert ledger(results["9"]) == (108, 1, 0)
    assert here.watcher.states("7")[2:] == [S.RUNNING, S.SUSPENDING, S.SUSPENDED, S.RUNNING, S.COMPLETED]


def test_a_freeze_that_the_kernel_does_not_confirm_is_rolled_back(tmp_path: Path) -> None:
    frozen: list[bool] = []

    async def pause(here: Bench) -> None:
        await trio.sleep(5)
        frozen.append(await here.supervisor.freeze_all())

    here = bench(tmp_path, {"job": Behaviour(seconds=8)}, freezes=False)
    result = here.run([spec(tmp_path)], pause)["7"]
    assert frozen == [False]
    assert (result.state, ledger(result)) == (S.COMPLETED, (0, 8, 0))
    assert here.watcher.states("7")[2:] == [S.RUNNING, S.SUSPENDING, S.RUNNING, S.COMPLETED]


def test_a_freeze_of_a_job_that_just_ended_is_no_error(tmp_path: Path) -> None:
    async def pause(here: Bench) -> None:
        await trio.sleep(5)
        assert not await here.supervisor.freeze_all()

    here = bench(tmp_path, {"job": Behaviour(seconds=8)}, vanished=True)
    meters = Meters()
    here.supervisor.count(Counting(meters=meters))
    assert here.run([spec(tmp_path)], pause)["7"].state is S.COMPLETED
    assert "batchns_freeze_failures_total" not in meters.counted().counters


def test_a_thaw_that_the_kernel_does_not_confirm_is_tried_again(tmp_path: Path) -> None:
    async def pause(here: Bench) -> None:
        await trio.sleep(1)
        assert await here.supervisor.freeze_all()
        await trio.sleep(1)
        here.supervisor.thaw_all()

    here = bench(tmp_path, {"job": Behaviour(seconds=3)}, thaw_failures=2)
    meters = Meters()
    here.supervisor.count(Counting(meters=meters))
    assert ledger(here.run([spec(tmp_path)], pause)["7"]) == (0, 3, 3)
    failures = meters.counted().counters["batchns_freeze_failures_total"]
    assert failures == {("normal", "thaw", "pause"): 2}


def test_a_job_that_starts_during_a_pause_is_frozen_too(tmp_path: Path) -> None:
    async def pause(here: Bench) -> None:
        await trio.sleep(1)
        assert await here.supervisor.freeze_all()
        assert trio.current_time() == 2
        await trio.sleep(10)
        here.supervisor.thaw_all()

    here = bench(tmp_path, {"job": Behaviour(launch_seconds=2, seconds=3)})
    assert ledger(here.run([spec(tmp_path)], pause)["7"]) == (0, 5, 10)


def test_an_interrupt_thaws_frozen_jobs_so_that_they_can_obey(tmp_path: Path) -> None:
    async def pause_and_stop(here: Bench) -> None:
        await trio.sleep(1)
        await here.supervisor.freeze_all()
        await trio.sleep(1)
        here.supervisor.stop()

    here = bench(tmp_path, {"job": Behaviour(seconds=100)})
    result = here.run([spec(tmp_path)], pause_and_stop)["7"]
    assert (result.state, result.signal, ledger(result)) == (S.CANCELLED, "SIGTERM", (0, 1, 1))
    assert here.host.kills == []


def test_freezing_when_nothing_runs_returns_at_once(tmp_path: Path) -> None:
    async def pause(here: Bench) -> None:
        await trio.sleep(1)
        assert await here.supervisor.freeze_all()
        assert trio.current_time() == 1
        here.supervisor.thaw_all()

    jobs = [spec(tmp_path, "a"), spec(tmp_path, "b", after=["afterok:a"])]
    results = bench(tmp_path).run(jobs, pause)
    assert {one.state for one in results.values()} == {S.COMPLETED}


def test_the_launchers_death_fails_what_ran_and_cancels_the_rest(tmp_path: Path) -> None:
    async def die(here: Bench) -> None:
        await trio.sleep(3)
        here.host.dead.set()
        for process in here.host.processes.values():
            process.change()

    here = bench(tmp_path, {"run": Behaviour(seconds=100)})
    jobs = [spec(tmp_path, "run", tasks=3, max_retries=2), spec(tmp_path, "wait", cpus=4)]
    results = here.run(jobs, die)
    assert [one.state for one in results.values()] == [S.NODE_FAIL] * 3 + [S.CANCELLED]
    assert results["7_0"].reason == "the launcher process is gone; how the job ended is not known"
    assert results["8"].reason == "the launcher process is gone"
    assert {name for _, name in here.host.kills} == {"abcde-0", "abcde-1", "abcde-2"}
    assert sorted(here.host.removed) == ["abcde-0", "abcde-1", "abcde-2"]
    assert here.runs.taken == []


def test_a_cancelled_run_kills_and_removes_what_it_started(tmp_path: Path) -> None:
    here = bench(tmp_path, {"job": Behaviour(seconds=100)})

    async def main() -> None:
        with trio.move_on_after(5):
            await here.supervisor.run([spec(tmp_path, tasks=3)])

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sorted(here.host.removed) == ["abcde-0", "abcde-1", "abcde-2"]
    assert here.runs.taken == []


def test_strict_refuses_before_the_launch_what_is_known_to_be_missing(tmp_path: Path) -> None:
    here = bench(tmp_path, unavailable=(("memory", "no memory controller"),))
    results = here.run([spec(tmp_path, "strict", strict=True, max_retries=3), spec(tmp_path, "lax")])
    assert results["7"].state is S.FAILED
    assert results["7"].reason.startswith("strict: memory: no memory controller - ")
    assert results["7"].attempts == 1
    assert [job for _, job, _ in here.host.launched] == ["8"]
    assert results["8"].limits["memory"].why == "no memory controller"


def test_strict_kills_when_a_limit_turns_out_not_to_be_in_force(tmp_path: Path) -> None:
    here = bench(tmp_path, not_in_force=("pids",), config=Config(node=Node(strict=True)))
    results = here.run([spec(tmp_path, max_retries=3), spec(tmp_path, "lax", strict=False)])
    assert (results["7"].state, results["7"].reason) == (S.FAILED, "strict: pids: the kernel refused it")
    assert (results["7"].running_seconds, results["7"].attempts) == (0, 1)
    assert results["8"].state is S.COMPLETED


def test_an_impossible_job_stops_the_whole_run_before_anything_starts(tmp_path: Path) -> None:
    here = bench(tmp_path)
    with pytest.raises(UserError, match="big: cpus = 5: this node has 4"):
        here.run([spec(tmp_path), spec(tmp_path, "big", cpus=5)])
    assert here.host.launched == []


def test_an_output_that_must_not_be_written_fails_its_job_alone(tmp_path: Path) -> None:
    (tmp_path / "job-7.out").symlink_to(tmp_path / "elsewhere")
    results = bench(tmp_path).run([spec(tmp_path), spec(tmp_path, "other")])
    assert results["7"].state is S.FAILED
    assert results["7"].reason.startswith(f"stdout: {tmp_path}/job-7.out: a symbolic link is in the way")
    assert not (tmp_path / "elsewhere").exists()
    assert results["8"].state is S.COMPLETED


def test_attached_jobs_open_no_files(tmp_path: Path) -> None:
    here = bench(tmp_path)
    here.supervisor.attached = (0, 1, 2)
    here.supervisor.__attrs_post_init__()
    result = here.run([spec(tmp_path)])["7"]
    assert (result.state, result.stdout) == (S.COMPLETED, None)
    assert list(tmp_path.iterdir()) == []


def test_a_thousand_jobs_pass_with_few_descriptors_and_every_slot_back(tmp_path: Path) -> None:
    here = bench(tmp_path, cpus=8)
    results = here.run([spec(tmp_path, tasks=1000, cpus=0.1, stdout="/dev/zero")])
    assert {one.state for one in results.values()} == {S.FAILED}  # /dev/zero is no plain file
    here = bench(tmp_path, cpus=8)
    results = here.run([spec(tmp_path, tasks=1000, cpus=0.1, stdout=f"{tmp_path}/all", stderr=f"{tmp_path}/all")])
    assert {one.state for one in results.values()} == {S.COMPLETED}
    assert (here.runs.most, here.runs.taken) == (80, [])
