"""Whatever is configured, submitted and reported, in whatever order: the books are right, and everything ends.

The machine here answers late, or with a failure, or with half of what was asked for, as a real one does.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from attrs import evolve
from draws import (
    NODE,
    USERS,
    check_capacity,
    check_dependencies,
    check_nobody_is_lost,
    check_quotas,
    configs,
    jobs,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchns.core.actions import Action, Freeze, Launch, Reclaim, Stop, Thaw
from batchns.core.admit import Admitted, admit, expand
from batchns.core.decide import decide
from batchns.core.explain import explain, forecast
from batchns.core.job import ACTIVE, Cause, FreezeCause
from batchns.core.perform import perform
from batchns.core.reasons import render
from batchns.core.schedule import Schedule
from batchns.core.starts import startable
from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec, PreemptMode
from batchns.model.lifecycle import Event, IllegalEvent, State

ENDS = [Event.EXITED_OK, Event.EXITED_BAD, Event.OOM, Event.LOST]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.started: set[str] = set()
        self.asked: dict[str, str] = {}  # by job: what it was asked for, and has not answered
        self.submitted = 0

    @initialize(config=configs(), specs=jobs())
    def begin(self, config: Config, specs: list[JobSpec]) -> None:
        self.config = config
        self.schedule = Schedule(NODE, config)
        self._submit(specs, USERS[0])

    def _submit(self, specs: list[JobSpec], user: str) -> None:
        """What the queues' bounds do not allow at all is left out, and edges to it."""
        admitted: list[Admitted] = []
        for one in specs:
            names = {other.spec.name for other in admitted}
            edges = tuple(edge for edge in one.dependency if not edge.name or edge.name in names)
            with suppress(UserError):
                found = admit([evolve(one, dependency=())], NODE, self.config)[0]
                admitted.append(evolve(found, spec=evolve(one, dependency=edges)))
        self.schedule.submit(expand(admitted, self.submitted + 1, self.config, self.now, user=user))
        self.submitted += len(admitted)

    # What the daemon does.

    @rule()
    def decide(self) -> None:
        actions = decide(self.schedule, self.now)
        assert decide(self.schedule, self.now) == actions
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        schedule, now = self.schedule, self.now
        match action:
            case Launch(job, placement):
                if job not in self.started:
                    check_dependencies(schedule, self.started, job)
                assert not schedule.paused
                assert schedule.closed is None
                schedule.launch(job, placement, now)
                self.asked[job] = "start"
            case Freeze(job, cause, by, thaw_by):
                before = schedule[job]
                if cause is FreezeCause.PREEMPTED:
                    assert schedule.closed is None
                    assert before.mode is not PreemptMode.OFF
                    assert before.freezes < self.config.schedule.max_freezes
                    assert thaw_by is not None
                    assert thaw_by <= now + schedule.max_frozen(before) - before.lent + 1e-6
                schedule.freezing(job, now, cause, by=by, thaw_by=thaw_by)
                self.asked[job] = "freeze"
            case Thaw(job, placement):
                schedule.thawing(job, placement, now)
                self.asked[job] = "thaw"
            case Reclaim(job):
                assert schedule[job].lends
                schedule.reclaiming(job)
                self.asked[job] = "reclaim"
            case Stop(job, cause, by):
                if cause is Cause.PREEMPTED:
                    assert schedule.closed is None
                    assert schedule[job].mode in (PreemptMode.REQUEUE, PreemptMode.CANCEL)
                schedule.stop(job, cause, now, by=by)
                self.asked.pop(job, None)
            case _:
                perform(schedule, action, now)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), works=st.sampled_from([True, True, True, False]))
    def answer(self, data: st.DataObject, works: bool) -> None:
        """One of those that were asked has done it, or cannot."""
        self._answer(data.draw(st.sampled_from(sorted(self.asked))), works, data)

    def _answer(self, job_id: str, works: bool, data: st.DataObject | None = None) -> None:
        what = self.asked.pop(job_id)
        schedule = self.schedule
        if what == "start":
            if works:
                self.started.add(job_id)
                schedule.started(job_id, self.now)
            else:
                schedule.finish(job_id, Event.LAUNCH_FAILED, self.now)
        elif what == "freeze":
            schedule.frozen(job_id, self.now, confirmed=works)
        elif what == "reclaim":
            most = schedule[job_id].demand.memory
            schedule.reclaimed(job_id, data.draw(st.sampled_from([0, most // 2])) if works and data else None, self.now)
        elif works:
            schedule.thawed(job_id, self.now)
        else:
            schedule.thaw_failed(job_id)

    # What happens.

    @precondition(lambda self: self.schedule.active)
    @rule(data=st.data(), event=st.sampled_from(ENDS))
    def end(self, data: st.DataObject, event: Event) -> None:
        job = self.schedule[data.draw(st.sampled_from(self.schedule.active))]
        if job.state is State.STARTING:
            event = Event.LAUNCH_FAILED
        elif job.state is State.COMPLETING:
            event = Event.CANCEL
        self._end(job.id, event)

    def _end(self, job_id: str, event: Event) -> None:
        self.asked.pop(job_id, None)
        self.schedule.finish(job_id, event, self.now)

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 47.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def until_the_next_deadline(self) -> None:
        moment = self.schedule.next_deadline(self.now)
        if moment is not None:
            assert moment > self.now
            self.now = moment

    @rule(specs=jobs(most=3), user=st.sampled_from(USERS))
    def more_jobs(self, specs: list[JobSpec], user: str) -> None:
        self._submit([evolve(one, name=f"{one.name}-{self.submitted}", dependency=()) for one in specs], user)

    @rule(on=st.booleans())
    def pause_or_resume(self, on: bool) -> None:
        self.schedule.pause() if on else self.schedule.resume()

    @rule(on=st.booleans())
    def busy_or_not(self, on: bool) -> None:
        self.schedule.yield_to_others(on=on)

    @rule(data=st.data(), on=st.booleans())
    def hold_or_release(self, data: st.DataObject, on: bool) -> None:
        job_id = data.draw(st.sampled_from(sorted(job.id for job in self.schedule) or ["1"]))
        if job_id in self.schedule:
            self.schedule.hold(job_id) if on else self.schedule.release(job_id)

    @precondition(lambda self: self.schedule.active)
    @rule(data=st.data(), cause=st.sampled_from([Cause.CANCELLED, Cause.REQUEUED]))
    def somebody_stops_one(self, data: st.DataObject, cause: Cause) -> None:
        job_id = data.draw(st.sampled_from(self.schedule.active))
        if self.schedule[job_id].state is not State.STARTING:
            self.asked.pop(job_id, None)
            self.schedule.stop(job_id, cause, self.now)

    @precondition(lambda self: self.schedule.active)
    @rule(data=st.data())
    def somebody_freezes_one(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.schedule.active))
        if self.schedule[job_id].state is State.COMPLETING:
            with pytest.raises(IllegalEvent):
                self.schedule.freeze(job_id, self.now)
        else:
            self.schedule.freeze(job_id, self.now)

    @rule(data=st.data(), priority=st.sampled_from([0, 50, 60, 100]))
    def somebody_changes_a_priority(self, data: st.DataObject, priority: int) -> None:
        job_id = data.draw(st.sampled_from(sorted(job.id for job in self.schedule) or ["1"]))
        if job_id in self.schedule:
            assert self.schedule.prioritise(job_id, priority).priority == priority

    @rule(on=st.booleans())
    def close_or_open(self, on: bool) -> None:
        self.schedule.close("new disks") if on else self.schedule.open()

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        ids = sorted(job.id for job in self.schedule)
        job_id = data.draw(st.sampled_from(ids or ["1"]))
        gone = self.schedule.forget(job_id)
        assert not set(gone) & {job.id for job in self.schedule}
        assert len(self.schedule) == len(ids) - len(set(gone) & set(ids))

    @rule()
    def look_ahead(self) -> None:
        """A forecast changes nothing, and a copy has nothing in common with the schedule."""
        before = deepcopy(self.schedule)
        for job_id in self.schedule.pending[:2]:
            forecast(self.schedule, job_id, self.now, steps=20)
        assert list(self.schedule) == list(before)
        assert decide(self.schedule, self.now) == decide(before, self.now)
        assert self.schedule.next_deadline() == before.next_deadline()

    # What always holds.

    @invariant()
    def nothing_is_handed_out_twice(self) -> None:
        check_capacity(self.schedule, NODE)
        check_quotas(self.schedule)
        check_nobody_is_lost(self.schedule)

    @invariant()
    def whoever_waits_is_told_why(self) -> None:
        for job_id in self.schedule.pending:
            text = render(explain(self.schedule, job_id, self.now))
            assert text
            assert len(text) <= 80
        counts = Counter(self.schedule[job_id].spec.queue for job_id in self.schedule.pending)
        assert {queue: count for queue, count in self.schedule.waiting.items() if count} == counts

    @invariant()
    def nobody_could_start_where_nothing_is_left_to_decide(self) -> None:
        if not decide(self.schedule, self.now):
            assert not startable(self.schedule, self.now, 100)

    @invariant()
    def time_is_accounted_for(self) -> None:
        for job in self.schedule:
            ledger = job.ledger
            assert min(ledger.queued, ledger.running, ledger.frozen) >= 0
            assert job.attempt - job.requeues <= job.spec.max_retries + 1
            assert job.freezes <= self.config.schedule.max_freezes

    def teardown(self) -> None:
        """Nothing keeps the jobs any longer, and their time runs out: then everything is over."""
        if not hasattr(self, "schedule"):
            return
        schedule = self.schedule
        schedule.resume()
        schedule.open()
        schedule.yield_to_others(on=False)
        for job in list(schedule):
            schedule.release(job.id)
        for _ in range(3000):
            while actions := decide(schedule, self.now):
                for action in actions:
                    self._perform(action)
            if schedule.finished:
                break
            if self.asked:
                self._answer(next(iter(self.asked)), works=True)
                continue
            stopping = [job_id for job_id in schedule.active if schedule[job_id].state is State.COMPLETING]
            if stopping:
                self._end(stopping[0], Event.CANCEL)
                continue
            moment = schedule.next_deadline(self.now)
            if moment is None:
                unlimited = [job_id for job_id in schedule.active if schedule[job_id].bounds.time_limit is None]
                assert unlimited, [render(explain(schedule, job_id, self.now)) for job_id in schedule.pending]
                self._end(unlimited[0], Event.EXITED_OK)
            else:
                self.now = moment
            check_capacity(schedule, NODE)
        assert schedule.finished
        assert not schedule.claims
        assert check_empty(schedule)


def check_empty(schedule: Schedule) -> bool:
    """Everything is free again, for everybody."""
    room = schedule.room()
    assert room.idle == len(NODE.cpus)
    assert (room.memory, room.egress, room.ingress, room.jobs) == (NODE.memory, NODE.egress, NODE.ingress, NODE.jobs)
    assert room.named == dict(NODE.named)
    assert not any(job.state in ACTIVE for job in schedule)
    return not any(use.held for use in schedule.shares._uses.values())


TestMachine: Any = Machine.TestCase
TestMachine.settings = settings(
    max_examples=120,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # to explain takes longer than all of it
)
