"""The virtual clock: from one moment at which something happens to the next, deciding at each.

1. All events of one moment (ends, then arrivals) are applied before the policy is asked.
2. What is decided is done at once: a launch, a freeze or an end takes no time.
3. A job ends when it has run for its time, or for its limit; while it is frozen its end moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf, nan
from typing import Any

from attrs import frozen

from batchns.core.actions import Action, Cancel, Freeze, Join, Kill, Launch, Reclaim, Requeue, Stop, Thaw, Warn
from batchns.core.decide import decide as core_decide
from batchns.core.estimates import Estimates
from batchns.core.explain import explain
from batchns.core.job import Cause
from batchns.core.perform import perform
from batchns.core.reasons import render
from batchns.core.schedule import Schedule
from batchns.errors import UserError
from batchns.model.config import Config, Preemption
from batchns.model.lifecycle import Event
from batchns.simulate.build import job_maker, make_schedule, next_wake
from batchns.simulate.workload import Workload

Decide = Callable[[Schedule, float], Sequence[Action]]
_MOST_ROUNDS = 10_000  # answers of the policy at one moment; one that freezes and thaws the same job never ends
_REPORT_EVERY = 1024  # ends between two calls of `progress`


@frozen(eq=False)
class Segment:
    """The job of this number held these CPUs without interruption. Seconds on the virtual clock."""

    number: int
    begin: float
    end: float
    cpus: tuple[int, ...]


@frozen(kw_only=True, eq=False)
class Outcome:
    """What became of each job of the workload, as columns; seconds. A job that was cancelled has no start (nan)."""

    workload: Workload
    started: Sequence[float]  # for the first time
    ended: Sequence[float]
    ran: Sequence[float]  # in its last attempt
    frozen: Sequence[float]
    lost: float  # CPU seconds of attempts that were started anew
    preemptions: int
    segments: Sequence[Segment]  # empty unless they were asked for


def simulate(
    workload: Workload,
    config: Config,
    *,
    progress: Callable[[int], None] | None = None,
    with_segments: bool = False,
    decide: Decide = core_decide,
    thorough: bool = False,
) -> Outcome:
    """Run all jobs to their end under the policy of `config`. `progress` is told how many are over, now and then.

    The policy is asked again at the same moment until it has nothing to say. After an answer of launches alone one that
    preempts nobody has nothing to say by its own rules (what starts, starts in one answer), and is not asked unless
    `thorough`.

    Raises:
        UserError: jobs are left that can never start under this policy; with the reason of the first.
    """
    world = _World(workload, config, with_segments=with_segments)
    preempts = config.schedule.preempt is not Preemption.OFF or config.schedule.time_slice is not None
    world.run(decide, progress, thorough=thorough or preempts)
    return world.outcome()


class _World:
    """The schedule, and when everything in it ends."""

    def __init__(self, workload: Workload, config: Config, *, with_segments: bool) -> None:
        count = len(workload)
        self._workload = workload
        self._known = Estimates()
        self._learns = config.schedule.learn
        self._make = job_maker(workload, config, self._known)
        self._schedule = make_schedule(workload, config)
        self._time = [_served(*pair) for pair in zip(workload.running, workload.limit, strict=True)]
        self._left = self._time.copy()  # of it, as of when the job last began to run
        self._ends_at = [inf] * count  # of those that run now
        self._ends: list[tuple[float, int]] = []  # a heap; entries that `_ends_at` does not know are out of date
        self._started = [nan] * count
        self._ended = [nan] * count
        self._frozen = [0.0] * count
        self._frozen_since: dict[int, float] = {}
        self._over = 0
        self._lost = 0.0
        self._preemptions = 0
        self._segments: list[Segment] = []
        self._open: dict[int, tuple[float, tuple[int, ...]]] | None = {} if with_segments else None

    def outcome(self) -> Outcome:
        return Outcome(
            workload=self._workload,
            started=self._started,
            ended=self._ended,
            ran=self._time,
            frozen=self._frozen,
            lost=self._lost,
            preemptions=self._preemptions,
            segments=self._segments,
        )

    def run(self, decide: Decide, progress: Callable[[int], None] | None, *, thorough: bool) -> None:
        """From the first arrival until nothing is left to happen."""
        schedule, make, performers = self._schedule, self._make, self._performers()
        ends, ends_at, submitted = self._ends, self._ends_at, self._workload.submitted
        coming, count, report, wake = 0, len(submitted), _REPORT_EVERY, inf
        while True:
            while ends and ends_at[ends[0][1]] != ends[0][0]:
                heappop(ends)
            now = submitted[coming] if coming < count else inf
            if wake < now:
                now = wake
            if ends and ends[0][0] < now:
                now = ends[0][0]
            if now == inf:
                break
            while ends and ends[0][0] <= now:
                end, number = heappop(ends)
                if ends_at[number] == end:
                    self._end(number, now)
            first = coming
            while coming < count and submitted[coming] <= now:
                coming += 1
            if coming > first:
                schedule.submit([make(number) for number in range(first, coming)])
            for _ in range(_MOST_ROUNDS):
                again = thorough
                actions = decide(schedule, now)
                for action in actions:
                    kind = type(action)
                    again |= kind is not Launch
                    performers[kind](action, now)
                if not again or not actions:
                    break
            else:
                raise RuntimeError(f"the policy comes to no end at {now:g} s: {actions}")
            wake = next_wake(schedule)
            if wake <= now:  # nothing is done about it now, so only another event can bring something new
                wake = inf
            if progress is not None and self._over >= report:
                report = self._over + _REPORT_EVERY
                progress(self._over)
        self._check_all_over()

    def _performers(self) -> dict[type[Any], Callable[[Any, float], None]]:
        """What to do for each kind of action. Not kept: a reference to ourselves would outlive us."""
        return {
            Launch: self._launch,
            Freeze: self._freeze,
            Thaw: self._thaw,
            Stop: self._stop,
            Kill: self._kill,
            Requeue: self._requeue,
            Cancel: self._cancel,
            Join: self._only_told,
            Warn: self._only_told,
            Reclaim: self._only_told,
        }

    def _check_all_over(self) -> None:
        schedule = self._schedule
        if schedule.finished:
            return
        if schedule.pending:
            job_id = schedule.pending[0]
            why = f"job {self._workload.ids[int(job_id)]} {render(explain(schedule, job_id))}"
        else:
            why = f"job {self._workload.ids[int(schedule.active[0])]} stays {schedule[schedule.active[0]].state.value}"
        left = len(self._workload) - self._over
        raise UserError(f"{left} jobs never end under this policy: {why}", "change its limits, or give more --cpus")

    def _begin(self, number: int, now: float) -> None:
        end = self._ends_at[number] = now + self._left[number]
        heappush(self._ends, (end, number))
        if self._open is not None:
            placement = self._schedule[str(number)].placement
            self._open[number] = (now, placement.cpus if placement else ())

    def _pause(self, number: int, now: float) -> None:
        """It does not run any more, for whatever reason."""
        self._left[number] = max(0.0, self._ends_at[number] - now)
        self._ends_at[number] = inf
        if self._open is not None:
            begin, cpus = self._open.pop(number)
            if now > begin:
                self._segments.append(Segment(number, begin, now, cpus))

    def _end(self, number: int, now: float) -> None:
        """It has run for its time: by itself, or because of its limit."""
        self._pause(number, now)
        job_id = str(number)
        limit = self._workload.limit[number]
        if limit is not None and self._workload.running[number] > limit:
            self._schedule.stop(job_id, Cause.TIME_LIMIT, now)
            self._schedule.finish(job_id, Event.TIMED_OUT, now)
        else:
            self._schedule.finish(job_id, Event.EXITED_OK, now)
        self._ended[number] = now
        self._over += 1
        if self._learns:
            names, users = self._workload.name, self._workload.user
            self._known.learn(users[number], names[number] if names else "job", self._time[number], limit)

    def _only_told(self, action: Action, now: float) -> None:
        """What changes nothing about when jobs end."""
        perform(self._schedule, action, now)

    def _launch(self, action: Launch, now: float) -> None:
        job_id = action.job
        number = int(job_id)
        self._schedule.launch(job_id, action.placement, now)
        self._schedule.started(job_id, now)
        if self._started[number] != self._started[number]:  # nan: never yet
            self._started[number] = now
        self._begin(number, now)

    def _freeze(self, action: Freeze, now: float) -> None:
        perform(self._schedule, action, now)
        number = int(action.job)
        self._pause(number, now)
        self._frozen_since[number] = now
        self._preemptions += 1

    def _thaw(self, action: Thaw, now: float) -> None:
        perform(self._schedule, action, now)
        number = int(action.job)
        self._frozen[number] += now - self._frozen_since.pop(number)
        self._begin(number, now)

    def _stop(self, action: Stop, now: float) -> None:
        """It ends at once: its grace is not used."""
        self._schedule.stop(action.job, action.cause, now, by=action.by)
        in_time = action.cause not in (Cause.TIME_LIMIT, Cause.DEADLINE)
        self._cut(action.job, Event.CANCEL if in_time else Event.TIMED_OUT, now)

    def _kill(self, action: Kill, now: float) -> None:
        self._schedule.killed(action.job)
        self._cut(action.job, Event.CANCEL, now)

    def _cut(self, job_id: str, event: Event, now: float) -> None:
        """The end of a job that has been stopped, which may have been running or frozen."""
        number = int(job_id)
        if number in self._frozen_since:
            self._frozen[number] += now - self._frozen_since.pop(number)
        else:
            self._pause(number, now)
        self._schedule.finish(job_id, event, now)
        self._ended[number] = now
        self._time[number] -= self._left[number]
        self._over += 1

    def _requeue(self, action: Requeue, now: float) -> None:
        """Another attempt from the beginning: what it has done is lost."""
        number = int(action.job)
        self._schedule.requeue(action.job, now)
        demand = self._workload.demand[number]
        self._lost += self._time[number] * demand.cpus
        self._time[number] = self._left[number] = _served(self._workload.running[number], self._workload.limit[number])
        self._preemptions += 1
        self._over -= 1

    def _cancel(self, action: Cancel, now: float) -> None:
        number = int(action.job)
        self._schedule.finish(action.job, Event.CANCEL, now)
        self._ended[number] = now
        self._time[number] = 0.0
        self._over += 1


def _served(running: float, limit: float | None) -> float:
    """Seconds that a job runs: it is stopped at its limit."""
    return running if limit is None or running < limit else limit
