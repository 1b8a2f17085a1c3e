"""Slurm as an engine: `wire.engine.Engine`, answered by squeue, then sacct, then what the nodes have written.

What nobody knows is LOST, never a success. Slurm's own states of nodes, preemption, memory and time are kept apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, cast

from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.problems import Problem
from batchns.slurm import facts, output
from batchns.slurm.acting import Acting
from batchns.slurm.lint import Lack
from batchns.slurm.mapping import Target, output_path, plan_of
from batchns.slurm.output import Pieces
from batchns.slurm.polled import Entry, Polled
from batchns.slurm.records import Records
from batchns.slurm.rows import detail, gone, row, speaks
from batchns.slurm.states import FINAL, reason_of
from batchns.slurm.submitting import Submitter, lint, read
from batchns.slurm.tools import Tools, user_name
from batchns.wire import types as wire
from batchns.wire.engine import Event, Refusal
from batchns.wire.select import matches

POLL = 2.0  # seconds between two questions while somebody waits
_SEEN_ELSEWHERE = 3.0  # seconds that a running job may take to have a file here


class Slurm:
    """`prepare`: see `mapping.Target`. `program`: what runs a batch script on the nodes, where settings name no Python.
    `clock`, `sleep`: seconds.
    """

    def __init__(
        self,
        config: Config,
        program: Sequence[str],
        *,
        prepare: Callable[[JobSpec, int], Any] = lambda spec, scratch: None,
        tools: Tools | None = None,
        allow_degraded: bool = False,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._tools = tools or Tools()
        self._records = Records(config.slurm.folder)
        self._polled = Polled(self._tools, self._records.folder, clock)
        python = config.slurm.program
        self._program = (python, "-I", "-m", "batchns", "exec-spec") if python else tuple(program)
        self._prepare = prepare
        self._allow_degraded = allow_degraded
        self._clock = clock
        self._sleep = sleep

    def __enter__(self) -> Slurm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def close(self) -> None:
        """Nothing is held open."""

    # -- into the queue --------------------------------------------------------------------------------------------

    def submit(self, request: wire.SubmitRequest) -> wire.Submitted:
        """As of `submitting.Submitter`."""
        return Submitter(
            tools=self._tools,
            records=self._records,
            polled=self._polled,
            target=self._target(),
            allow_degraded=self._allow_degraded,
            fates=lambda job_id: list(self.jobs((job_id,), ended=True)),
            sleep=self._sleep,
            clock=self._clock,
        ).submit(request)

    def check(self, request: wire.SubmitRequest) -> list[tuple[Problem, bool]]:
        """What the cluster cannot do for these jobs: each problem, and whether that keeps the job from running."""
        specs, target = read(request, self._config), self._target()
        found = [(lack.problem(spec), lack.fatal) for spec, lack in lint(specs, target, user_name())]
        for spec in specs:
            try:
                plan_of(spec, target)
            except UserError as error:
                found.append((Lack(path="", what=error.what, hint=error.hint).problem(spec), True))
        return found

    def _target(self) -> Target:
        known = facts.known(self._records.folder, self._tools, clock=self._clock)
        folder = str(self._records.folder)
        return Target(
            config=self._config, facts=known, folder=folder, program=self._program, ids={}, prepare=self._prepare
        )

    # -- looking ---------------------------------------------------------------------------------------------------

    def jobs(
        self,
        select: Sequence[str] = (),
        *,
        states: Sequence[str] = (),
        user: str | None = None,
        queue: str | None = None,
        ended: bool = False,
        page: int = 1000,
    ) -> Iterator[wire.JobRow]:
        """The caller's, all for root; of those that Slurm has forgotten the ones that are named by their ids."""
        rows = [made for _, made in self._seen(select, user)]
        if ended and select:
            known = {entry.id for entry in self._entries(user)}
            rows += [
                made
                for array in self._named(select)
                if not known.issuperset(self._tasks(array))
                for made in self._forgotten(array)
                if made.id not in known and any(matches(made, one) for one in select)
            ]
        for made in rows:
            over = made.ended is not None
            if (ended or not over) and (not states or made.state in states) and queue in (None, made.queue):
                yield made

    def job(self, job_id: str) -> wire.JobDetail:
        for entry, made in self._seen((job_id,), None):
            if entry.id == job_id:
                return detail(made, self._record(entry), self._result(entry))
        array = job_id.partition("_")[0]
        for made in self._forgotten(array):
            if made.id == job_id:
                record = self._records.job(array)
                return detail(made, record, self._records.result(job_id, (record or {}).get("key", "")))
        raise Refusal("not_found", f"there is no job {job_id}", "batchns ps --all lists them")

    def why(self, job_id: str) -> wire.Why:
        for entry, made in self._seen((job_id,), None):
            if entry.id != job_id:
                continue
            if made.ended is not None:
                return wire.Why(id=job_id, code="over", text=f"it is over: {made.state}")
            if made.state != "PENDING":
                return wire.Why(id=job_id, code="running", text=made.reason or "it runs")
            text = reason_of(entry.reason) or "is next"
            return wire.Why(id=job_id, code=entry.reason.lower(), text=text, expected=entry.started)
        made = self.job(job_id).row
        return wire.Why(id=job_id, code="over", text=f"it is over: {made.state}")

    def history(
        self,
        *,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        names: Sequence[str] = (),
        states: Sequence[str] = (),
        queue: str | None = None,
        page: int = 1000,
    ) -> Iterator[wire.JobRow]:
        """From accounting where there is one, else what Slurm still knows, and what the nodes have written."""
        found: dict[str, wire.JobRow] = {}
        if facts.known(self._records.folder, self._tools, clock=self._clock).accounting:
            found |= {made.id: made for made in self._accounted(user, since)}
        else:
            found |= {made.id: made for array in self._records.ids() for made in self._forgotten(array, final=True)}
        found |= {made.id: made for _, made in self._seen((), None if user == "*" else user)}
        over = [
            made
            for made in found.values()
            if made.ended is not None
            and (since is None or made.ended >= since)
            and (until is None or made.ended < until)
            and (not names or made.name in names)
            and (not states or made.state in states)
            and queue in (None, made.queue)
            and user in (None, "*", made.user)
        ]
        yield from sorted(over, key=lambda made: made.ended or 0.0, reverse=True)

    def _accounted(self, user: str | None, since: float | None) -> list[wire.JobRow]:
        whose = ["--allusers"] if user == "*" else [f"--user={user or user_name()}"]
        begin = max(0, int(since or self._clock() - 7 * 86400))
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(begin))
        entries = self._polled.accounted(*whose, f"--starttime={moment}")
        ours = [entry for entry in entries if entry.key or self._records.job(entry.array_id)]
        return [row(entry, self._record(entry), self._result(entry), self._clock()) for entry in ours]

    # -- what is known of a job ------------------------------------------------------------------------------------

    def _seen(self, select: Sequence[str], user: str | None) -> list[tuple[Entry, wire.JobRow]]:
        """What Slurm has not forgotten. Ends are noted down, for it will forget them."""
        found = []
        for entry in self._entries(user):
            # An entry has what selectors look at, and of thousands of jobs few have to be read up.
            if select and not any(matches(cast(wire.JobRow, entry), one) for one in select):
                continue
            record, result = self._record(entry), self._result(entry)
            made = row(entry, record, result, self._clock())
            if record is not None:
                self._note(entry, made, record["key"], result)
            found.append((entry, made))
        return sorted(found, key=lambda pair: (int(pair[0].array_id), pair[0].index or 0))

    def _note(self, entry: Entry, made: wire.JobRow, key: str, result: Mapping[str, Any] | None) -> None:
        """An end that its node has not told of; of a job that was queued again since, it is no end any more."""
        if entry.state not in FINAL or (result or {}).get("state") == made.state:
            self._records.recall(entry.id)
            return
        end = {"state": made.state, "reason": made.reason, "ended": made.ended, "started": made.started}
        self._records.remember(entry.id, key, **end)

    def _entries(self, user: str | None) -> list[Entry]:
        own = user_name()
        return self._polled.entries(user=user or own, everybody=own == "root" and user is None)

    def _tasks(self, array: str) -> list[str]:
        """The ids that Slurm has for a job that was submitted from here."""
        tasks = (self._records.job(array) or {}).get("tasks")
        return [array] if tasks is None else [f"{array}_{index}" for index in tasks]

    def _record(self, entry: Entry) -> dict[str, Any] | None:
        if entry.key:
            return self._records.submitted(entry.key, entry.number, entry.array_id)
        return self._records.job(entry.array_id)

    def _result(self, entry: Entry) -> dict[str, Any] | None:
        if entry.state == "PENDING":
            return None
        key = entry.key or (self._records.job(entry.array_id) or {}).get("key", "")
        return self._records.result(entry.id, key)

    def _named(self, select: Sequence[str]) -> list[str]:
        """The ids of arrays and jobs that selectors may mean and that were submitted from here."""
        known = self._records.ids() if any("-" in one for one in select) else []
        found = [one.partition("_")[0] for one in select if one.partition("_")[0].isdecimal()]
        found += [last for one in select if not one[:1].isdigit() and (last := self._records.last_of(one))]
        spans = [one.split("-") for one in select if "-" in one and "_" not in one]
        found += [
            job_id
            for first, *rest in spans
            if first.isdecimal() and rest and rest[0].isdecimal()
            for job_id in known
            if int(first) <= int(job_id) <= int(rest[0])
        ]
        return list(dict.fromkeys(found))

    def _forgotten(self, array: str, *, final: bool = False) -> Iterator[wire.JobRow]:
        """The rows of a job that squeue does not have. `final`: accounting has been asked already, or is not there."""
        record = self._records.job(array)
        entries: dict[str, Entry] = {}
        if not final and facts.known(self._records.folder, self._tools, clock=self._clock).accounting:
            entries = {entry.id: entry for entry in self._polled.accounted(f"--jobs={array}")}
        for entry in entries.values():
            yield row(entry, record, self._records.result(entry.id, entry.key), self._clock())
        if record is None:
            return
        for job_id in self._tasks(array):
            if job_id in entries:
                continue
            told = self._records.result(job_id, record["key"])
            noted = self._records.end(job_id, record["key"])
            if noted and not _started_since(noted, told):
                told = {**(told or {}), **noted}
            yield gone(record, job_id, told, self._clock())

    # -- doing -----------------------------------------------------------------------------------------------------

    def act(self, request: wire.ActRequest) -> wire.ActAnswer:
        self._polled.forget()
        jobs = self._seen(request.jobs, request.user)
        if not jobs:
            raise Refusal("not_found", f"no job is meant by {', '.join(request.jobs)}", "batchns ps lists your jobs")
        over = [one for one in jobs if one[0].state in FINAL]
        if len(over) < len(jobs):  # of a name that many have, those that are not over are meant
            jobs = [one for one in jobs if one[0].state not in FINAL or one[0].id in request.jobs]

        def state(entry: Entry) -> str:
            told = self._result(entry) or {}
            return str(told["state"]) if speaks(entry, told) else ""

        try:
            return wire.ActAnswer(
                jobs=tuple(Acting(tools=self._tools, state=state, sleep=self._sleep).act(request, jobs))
            )
        finally:
            self._polled.forget()

    # -- what goes on ----------------------------------------------------------------------------------------------

    def events(self, select: Sequence[str] = (), *, after: str | None = None) -> Pieces[Event]:
        """Each change of a job's state, as often as somebody asks Slurm; first how all of them are."""

        def changes() -> Iterator[Event]:
            seen: dict[str, wire.JobRow] = {}
            for number in range(1 << 62):
                for made in self.jobs(select, ended=True):
                    before = seen.get(made.id)
                    if before is None or (before.state, before.attempt) != (made.state, made.attempt):
                        seen[made.id] = made
                        yield str(number), made
                self._sleep(POLL)

        return Pieces(changes())

    def logs(
        self,
        job_id: str,
        stream: str = "stdout",
        *,
        attempt: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> Pieces[bytes]:
        """All attempts of a job write into one file."""
        if attempt is not None and attempt > 1:
            raise Refusal("invalid", "on a cluster all attempts write into one file", "leave --attempt away")
        record = self._records.job(job_id.partition("_")[0])
        made = self.job(job_id).row
        if record is None:
            raise Refusal("not_found", f"job {job_id} was not submitted from here", f"scontrol show job {job_id}")
        path = output_path(record[stream], made.name, job_id)
        if not os.path.exists(path) and self._writes_elsewhere(made):
            raw = next((entry.raw for entry, _ in self._seen((job_id,), None) if entry.id == job_id), job_id)
            return output.on_node(self._tools, raw, path, tail, follow=follow)
        if follow:
            return Pieces(output.following(path, tail, self._end_of(job_id, record["key"])))
        try:
            data, _ = output.last_lines(path, tail)
        except OSError as error:
            what = "it has not started yet" if made.state == "PENDING" else f"{path}: {error.strerror}"
            raise Refusal("not_found", f"job {job_id} has no {stream}: {what}") from None
        return Pieces(iter((data,) if data else ()))

    def _writes_elsewhere(self, made: wire.JobRow) -> bool:
        return made.state == "RUNNING" and made.started is not None and self._clock() - made.started > _SEEN_ELSEWHERE

    def _end_of(self, job_id: str, key: str) -> Callable[[], bool]:
        """Says whether the job is over: of success its node knows at once; what may run again is Slurm's to say."""
        asked = -POLL

        def over() -> bool:
            nonlocal asked
            if (self._records.result(job_id, key) or {}).get("state") == "COMPLETED":
                return True
            if time.monotonic() - asked < POLL:
                return False
            asked = time.monotonic()
            return self.job(job_id).row.ended is not None

        return over


def _started_since(noted: Mapping[str, Any], told: Mapping[str, Any] | None) -> bool:
    """Has its node started the job after the end that Slurm told of? Somebody has queued it again."""
    return ((told or {}).get("started") or 0.0) > (noted.get("ended") or 0.0)
