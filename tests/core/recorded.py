"""A schedule that lives a random life, whose changes are written down as the daemon does it, and one made from that."""

from __future__ import annotations

import random
from contextlib import suppress

from attrs import define, evolve, field

from batchns.core.actions import Action, Cancel, Freeze, Join, Kill, Launch, Reclaim, Requeue, Stop, Thaw, Warn
from batchns.core.admit import admit, expand
from batchns.core.changes import (
    Change,
    Closed,
    Finished,
    FreezeAsked,
    FreezeEnded,
    Freezing,
    Held,
    Joined,
    Killed,
    Launched,
    Opened,
    Prioritised,
    Reclaimed,
    Reclaiming,
    Released,
    Requeued,
    Started,
    Stopped,
    Submitted,
    Thawed,
    ThawFailed,
    Thawing,
    Warned,
    apply_change,
)
from batchns.core.decide import decide
from batchns.core.job import ACTIVE, Cause, Job
from batchns.core.node import NodeCapacity
from batchns.core.schedule import Schedule
from batchns.errors import UserError
from batchns.model.config import Bound, Config, Queue, ScheduleSettings
from batchns.model.job import Array, Condition, Dependency, JobSpec, PreemptMode, Resources
from batchns.model.lifecycle import Event, IllegalEvent, State

VERBS = ("hold", "release", "release", "freeze", "freeze", "requeue", "cancel", "priority", "forget")
_AFTER = Dependency(Condition.AFTERANY, "")
ENDS = [Event.EXITED_OK, Event.EXITED_OK, Event.EXITED_BAD, Event.OOM, Event.LOST]


def as_change(action: Action) -> Change:
    match action:
        case Launch(job, placement):
            return Launched(job, placement)
        case Stop(job, cause, by):
            return Stopped(job, cause, by)
        case Kill(job):
            return Killed(job)
        case Requeue(job):
            return Requeued(job)
        case Cancel(job, _):
            return Finished(job, Event.CANCEL)
        case Freeze(job, cause, by, thaw_by):
            return Freezing(job, cause, by, thaw_by)
        case Thaw(job, placement):
            return Thawing(job, placement)
        case Reclaim(job):
            return Reclaiming(job)
        case Join(job):
            return Joined(job)
        case Warn(job):
            return Warned(job)


@define
class Life:
    """`log`: (moment, change). `exported`: what was noted of fair share with the last end."""

    schedule: Schedule
    chance: random.Random
    now: float = 1000.0
    made: int = 0
    log: list[tuple[float, Change]] = field(factory=list)
    exported: dict[str, tuple[float, float]] = field(factory=dict)
    answers: dict[str, type[Change]] = field(factory=dict)  # what the machine still has to say of a job

    def do(self, change: Change) -> None:
        apply_change(self.schedule, change, self.now)
        self.log.append((self.now, change))
        if isinstance(change, Finished):
            self.exported = self.schedule.shares.export(self.now)

    def submit(self, specs: list[JobSpec]) -> None:
        """Under names that are shared by submissions, so that edges go across them."""
        user = self.chance.choice(("alice", "bob"))
        config, known = self.schedule.config, self.schedule.known(user)
        targets = [job.array_id for job in self.schedule if job.user == user]
        entries = []
        for one in specs:
            if targets and not one.dependency and self.chance.random() < 0.3:
                edge = evolve(_AFTER, name=self.chance.choice(targets))
                one = evolve(one, dependency=(edge,))
            with suppress(UserError):
                entries += admit([one], self.schedule.capacity, config, known)
        self.do(Submitted(tuple(expand(entries, self.made + 1, config, self.now, user=user, known=known))))
        self.made += len(entries)

    def decide(self) -> None:
        for action in decide(self.schedule, self.now):
            self.do(as_change(action))
            match action:
                case Launch(job) | Freeze(job) | Thaw(job) | Reclaim(job):
                    self.answers[job] = type(action)
                case Stop(job) | Cancel(job):
                    self.answers.pop(job, None)
                case _:
                    pass

    def happen(self) -> None:
        """One thing, by chance."""
        roll = self.chance.random()
        if self.answers and roll < 0.6:
            self._answer(self.chance.choice(list(self.answers)))
        elif roll < 0.76:
            self.now += self.chance.choice((0.5, 3.0, 11.0, 47.0))
        elif roll < 0.84 and self.schedule.active:
            self._end(self.chance.choice(self.schedule.active))
        elif roll < 0.98:
            self._owner()
        else:
            self.do(self.chance.choice((Closed("disks"), Opened(), Opened())))

    def _answer(self, job_id: str) -> None:
        asked, works = self.answers.pop(job_id), self.chance.random() < 0.8
        if asked is Launch:
            self.do(Started(job_id) if works else Finished(job_id, Event.LAUNCH_FAILED))
        elif asked is Freeze:
            self.do(FreezeEnded(job_id, works))
        elif asked is Reclaim:
            most = self.schedule[job_id].demand.memory
            self.do(Reclaimed(job_id, self.chance.choice((0, most // 2)) if works else None))
        else:
            self.do(Thawed(job_id) if works else ThawFailed(job_id, "EIO"))

    def _end(self, job_id: str) -> None:
        self.answers.pop(job_id, None)
        event = self.chance.choice(ENDS)
        state = self.schedule[job_id].state
        if state in (State.STARTING, State.COMPLETING):
            event = Event.LAUNCH_FAILED if state is State.STARTING else Event.CANCEL
        self.do(Finished(job_id, event, self.chance.random() < 0.8))

    def _owner(self) -> None:
        """Somebody does something with a job, or the daemon forgets one."""
        jobs = list(self.schedule) if self.chance.random() < 0.3 else jobs_of(self.schedule)
        if not jobs:
            return
        job = self.chance.choice(jobs)
        active = job.state in ACTIVE and job.state is not State.STARTING
        verb = self.chance.choice(
            ("hold", "release", "release", "freeze", "freeze", "requeue", "cancel", "priority", "forget")
        )
        if verb == "forget":
            self.schedule.forget(job.id)
        elif verb in ("requeue", "cancel") and active:
            self.answers.pop(job.id, None)
            self.do(Stopped(job.id, Cause.REQUEUED if verb == "requeue" else Cause.CANCELLED))
        elif verb == "freeze":
            with suppress(IllegalEvent):
                self.do(FreezeAsked(job.id))
        elif verb == "hold":
            self.do(Held(job.id))
        elif verb == "release":
            self.do(Released(job.id))
        elif verb == "priority":
            self.do(Prioritised(job.id, self.chance.choice((0, 50, 60, 100))))

    def stored(self) -> list[tuple[float, Change]]:
        """The log without what concerns only jobs that are over and that no other one depends on."""
        schedule = self.schedule
        alive = {job.array_id: job for job in schedule if not schedule.over(job.id)}
        kept = set(alive) | {array for job in alive.values() for edge in job.edges for array in edge.arrays}
        log: list[tuple[float, Change]] = []
        for at, change in self.log:
            if isinstance(change, Submitted):
                if jobs := tuple(job for job in change.jobs if job.array_id in kept):
                    log.append((at, Submitted(jobs)))
            elif isinstance(change, Closed | Opened) or change.job.partition("_")[0] in kept:
                log.append((at, change))
        return log


def replayed(life: Life, capacity: NodeCapacity, config: Config) -> Schedule:
    """What a daemon that starts anew makes of what was stored."""
    schedule = Schedule(capacity, config)
    schedule.shares.restore(life.exported)
    for at, change in life.stored():
        apply_change(schedule, change, at)
    return schedule


def jobs_of(schedule: Schedule) -> list[Job]:
    return [job for job in schedule if not schedule.over(job.id)]


LIVELY = Config(
    queues={
        "normal": Queue(preempts=("idle",), max_frozen=200.0, per_user=Bound(jobs=6)),
        "urgent": Queue(priority=90, preempts=("normal", "idle"), preempt_mode=PreemptMode.REQUEUE),
        "idle": Queue(priority=10, min_run=2.0),
    },
    schedule=ScheduleSettings(assume=100.0, max_frozen=500.0),
)


def crowd(chance: random.Random) -> list[JobSpec]:
    """A few jobs that are in each other's way."""
    return [
        JobSpec(
            name=chance.choice("abc"),
            command=("true",),
            cwd="/",
            queue=chance.choice(("normal", "normal", "urgent", "idle")),
            priority=chance.choice((50, 50, 60)),
            time_limit=chance.choice((None, 20.0, 60.0, 300.0)),
            max_retries=chance.choice((0, 1)),
            array=chance.choice((None, None, Array((0, 1, 2), chance.choice((None, 2))))),
            dependency=chance.choice(((), (), (), (Dependency(Condition.SINGLETON, ""),))),
            resources=Resources(
                cpus=chance.choice((0.5, 1, 2, 3, 4)), memory=chance.choice((1 << 30, 2 << 30)), named={}
            ),
        )
        for _ in range(chance.randint(1, 4))
    ]
