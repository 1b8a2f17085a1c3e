"""Job files into Slurm: all jobs of a submission, or none, and each of them once.

1. What is to be submitted is written down first; each job carries submission and number in its comment.
2. An answer that is lost is looked for by that comment before anything is submitted again; should a job be there twice
   all the same, the younger one is cancelled.
3. A dependency on a job that is over is decided here: see `depending`.
4. A job that is refused takes back those of its submission that are there already. Whatever else ends it early, it
   says what is in the queue, and by which key it is completed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from attrs import evolve, frozen

from batchns.errors import BatchnsError
from batchns.model.codec import check_names, parse_jobs
from batchns.model.config import Config, NetworkSettings, Queue
from batchns.model.job import Dependency, JobSpec
from batchns.model.options import job_from_options
from batchns.model.portable import to_json
from batchns.model.problems import JobFileErrors, Problem
from batchns.slurm.depending import settle
from batchns.slurm.lint import Lack, lacks
from batchns.slurm.mapping import Target, defaults_of, order, output_paths, plan_of
from batchns.slurm.polled import Polled, of_submission
from batchns.slurm.records import Records
from batchns.slurm.tools import Failed, Silent, Tools, user_name
from batchns.wire import types as wire
from batchns.wire.engine import Refusal

AT_ONCE = 4  # calls of sbatch side by side: more of them only wait for each other
FEW = 8  # fewer jobs are submitted one after the other, so that their ids have the order of the file
TRIES = 3
SHOWN = 10  # jobs that are named where a submission was cut
_LOOK_AFTER = (1.0, 2.0, 4.0)  # seconds


def cluster_config(config: Config) -> Config:
    """The settings with which job files for a cluster are read: nothing in them is bounded by this machine."""
    named = dict.fromkeys((*config.node.resources, *config.slurm.gres), 1 << 31)
    network = NetworkSettings(host=True, allow=config.network.allow, outside=config.network.outside)
    node = evolve(config.node, cpus=None, memory=None, egress=None, ingress=None, resources=named)
    return evolve(config, node=node, network=network, queues=_AnyQueue(config.queues))


class _AnyQueue(dict[str, Queue]):
    """Every name is a queue's: whether there is such a partition is for `lint` to say."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Queue:
        return Queue()


def read(request: wire.SubmitRequest, config: Config) -> list[JobSpec]:
    """Raises JobFileErrors: what is wrong with the files."""
    known = cluster_config(config)
    specs: list[JobSpec] = []
    for file in request.files:
        name = file.source or "-"
        specs += parse_jobs(file.text.encode(), file=name, folder=file.folder, config=known, options=file.options)
    for line in request.commands:
        specs.append(job_from_options(line.options, config=known, folder=line.folder))
    check_names(specs)
    return specs


def lint(specs: Sequence[JobSpec], target: Target, user: str) -> list[tuple[JobSpec, Lack]]:
    return [(spec, lack) for spec in specs for lack in lacks(spec, target, user)]


@frozen(kw_only=True)
class Submitter:
    """`target`: without ids. `fates`: the rows of a job or of an array's tasks, over or not, by its id.

    `sleep`, `clock`: seconds.
    """

    tools: Tools
    records: Records
    polled: Polled
    target: Target
    fates: Callable[[str], Sequence[wire.JobRow]]
    allow_degraded: bool = False
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time

    def submit(self, request: wire.SubmitRequest) -> wire.Submitted:
        """Raises JobFileErrors, Refusal, Unreachable, HostError; KeyboardInterrupt, with a note of what is there."""
        specs = read(request, self.target.config)
        key = request.key or os.urandom(16).hex()
        with self.records.submission(key) as table:
            before = bool(table)
            if before and json.loads(json.dumps([to_json(spec) for spec in specs])) != [
                job["spec"] for job in table["jobs"]
            ]:
                raise Refusal("invalid", f"the submission with key {key} had other jobs", "choose another --key")
            if not before:
                self._refuse(specs)
                config = self.target.config
                table.update(key=key, at=self.clock(), user=user_name(), jobs=[_record(spec, config) for spec in specs])
                self.records.keep(key, table)
                now = self.clock()
                self.records.prune(now - self.target.config.history.keep, now)
            try:
                if table.get("taken_back"):  # whoever was killed before that was done, or had no answer
                    with suppress(Failed):  # they are over, or forgotten
                        self.tools.run("scancel", *table["taken_back"])
                self._submit(specs, table, look_first=before)
            except Silent as error:
                raise Silent(f"{error.what}; {_there(table)}", f"once more with --key {key}") from None
            except BatchnsError:
                self._take_back(table)
                raise
            except KeyboardInterrupt as error:
                error.add_note(_there(table))
                raise
            finally:
                self.records.keep(key, table)
                self.polled.forget()
        jobs = zip(specs, table["jobs"], strict=True)
        return wire.Submitted(
            jobs=tuple(
                wire.SubmittedJob(id=job["id"], name=spec.name, tasks=len(spec.array.indices) if spec.array else 1)
                for spec, job in jobs
            )
        )

    def _refuse(self, specs: Sequence[JobSpec]) -> None:
        found = lint(specs, self.target, user_name())
        wrong = [(spec, lack) for spec, lack in found if lack.fatal or not self.allow_degraded]
        if wrong:
            problems: list[Problem] = [lack.problem(spec) for spec, lack in wrong]
            if not any(lack.fatal for _, lack in wrong):
                hint = "with --allow-degraded it is submitted all the same"
                problems.append(Problem("", 0, "", "the cluster cannot do all that is asked for", hint))
            raise JobFileErrors(problems)

    def _submit(self, specs: Sequence[JobSpec], table: dict[str, Any], *, look_first: bool) -> None:
        ids = {job["name"]: job["id"] for job in table["jobs"] if "id" in job}
        order_of_levels = list(levels(specs))
        outside, over = self._outside(specs, ids)
        # What a user cannot have is said before anything is in the queue.
        plans = {spec.name: plan_of(spec, self.target) for spec in specs if spec.name not in ids}
        for level in order_of_levels:
            target = evolve(
                self.target,
                ids={**outside, **ids},
                now=table["at"],
                prepare=lambda spec, scratch: plans[spec.name],
            )

            def one(number: int, target: Target = target) -> str:
                spec = specs[number]
                if spec.dependency:
                    spec = evolve(spec, dependency=tuple(edge for edge in spec.dependency if edge not in over))
                return self._one(spec, target, table, number, look_first=look_first)

            todo = [number for number in level if "id" not in table["jobs"][number]]
            if len(todo) <= FEW:
                found = [one(number) for number in todo]
            else:
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    found = list(pool.map(one, todo))
            ids |= {specs[number].name: job_id for number, job_id in zip(todo, found, strict=True)}

    def _one(self, spec: JobSpec, target: Target, table: dict[str, Any], number: int, *, look_first: bool) -> str:
        key = table["key"]
        taken_back = table.get("taken_back", ())
        job_id = self._find(key, number, taken_back) if look_first else None
        wanted = order(spec, target, key, number, table["jobs"][number]["spec"])
        tried = 0
        while job_id is None:
            tried += 1
            try:
                job_id = self.tools.run(*wanted.words, text=wanted.script).strip().partition(";")[0]
            except Silent:
                for seconds in _LOOK_AFTER:
                    self.sleep(seconds)
                    with suppress(Silent):
                        if (job_id := self._find(key, number, taken_back)) is not None:
                            break
                if job_id is None and tried == TRIES:
                    raise
        job = table["jobs"][number]
        job["id"] = job_id
        if tried > 1:
            self._only(job_id, key, number)
        self.records.add(job, key, number)
        return job_id

    def _find(self, key: str, number: int, not_these: Sequence[str]) -> str | None:
        """The id that this job got, if it got one. `not_these`: those that were taken back."""
        user = user_name()
        self.polled.forget()
        found = of_submission(self.polled.entries(user=user), key, number)
        if not found and self.target.facts.accounting:
            found = of_submission(self.polled.accounted(f"--user={user}", "--starttime=now-1days"), key, number)
        return next((job_id for job_id in found if job_id not in not_these), None)

    def _only(self, job_id: str, key: str, number: int) -> None:
        self.polled.forget()
        twice = of_submission(self.polled.entries(user=user_name()), key, number)
        for other in twice:
            if other != job_id:
                self.tools.run("scancel", other)

    def _take_back(self, table: dict[str, Any]) -> None:
        there = [job for job in table["jobs"] if "id" in job]
        ids = [job.pop("id") for job in there]
        if ids:
            table.setdefault("taken_back", []).extend(ids)
            with suppress(BatchnsError):  # the reason why they are taken back is what is told
                self.records.keep(table["key"], table)
            with suppress(BatchnsError):
                self.tools.run("scancel", *ids)

    def _outside(
        self, specs: Sequence[JobSpec], known: Mapping[str, str]
    ) -> tuple[dict[str, str], frozenset[Dependency]]:
        """Ids of the jobs of earlier submissions that are depended on, by name or by id; and what is satisfied already.

        `known`: ids that jobs of this submission got before it was cut.

        Raises:
            Refusal: there is no such job, or it has ended otherwise.
        """
        own = {spec.name for spec in specs} - known.keys()
        edges = {edge for spec in specs for edge in spec.dependency if edge.name} - {
            edge for spec in specs for edge in spec.dependency if edge.name in own
        }
        found: dict[str, str] = {}
        over: set[Dependency] = set()
        for edge in sorted(edges, key=lambda edge: (edge.name, edge.condition.value)):
            name = edge.name
            job_id = known.get(name) or (name if name.replace("_", "", 1).isdecimal() else None)
            job_id = job_id or self.records.last_of(name) or self._named(name)
            if job_id is None:
                raise Refusal(
                    "invalid", f"there is no job {name!r} to depend on", "batchns ps --all shows what there is"
                )
            found[name] = job_id
            if settle(edge, job_id, self.fates, self.tools):
                over.add(edge)
        return found, frozenset(over)

    def _named(self, name: str) -> str | None:
        ids = [entry.array_id for entry in self.polled.entries(user=user_name()) if entry.name == name]
        return max(ids, key=int, default=None)


def _there(table: Mapping[str, Any]) -> str:
    """What of a submission is in the queue."""
    named = [f"{job['id']} ({job['name']})" for job in table["jobs"] if "id" in job]
    if not named:
        return "nothing of it is known to be in the queue"
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f"in the queue: {', '.join(named[:SHOWN])}{more}, of {len(table['jobs'])}"


def levels(specs: Sequence[JobSpec]) -> Iterator[list[int]]:
    """Places of jobs, such that all that one depends on is in an earlier level.

    Raises:
        Refusal: jobs wait for each other.
    """
    place = {spec.name: number for number, spec in enumerate(specs)}
    waits = [{place[edge.name] for edge in spec.dependency if edge.name in place} for spec in specs]
    left = set(range(len(specs)))
    while left:
        level = sorted(number for number in left if not waits[number] & left)
        if not level:
            names = ", ".join(specs[number].name for number in sorted(left)[:5])
            raise Refusal("invalid", f"jobs wait for each other: {names}", "remove one of their dependencies")
        yield level
        left -= set(level)


def _record(spec: JobSpec, config: Config) -> dict[str, Any]:
    stdout, stderr = output_paths(spec)
    defaults = defaults_of(spec.queue, config)
    return {
        "name": spec.name,
        "queue": spec.queue,
        "priority": spec.priority,
        "cpus": (spec.resources.cpus or defaults.cpus) * spec.slurm.nodes,
        "memory": spec.resources.memory and spec.resources.memory * spec.slurm.nodes,
        "time_limit": spec.time_limit if spec.time_limit is not None else defaults.time_limit,
        "tasks": list(spec.array.indices) if spec.array else None,
        "stdout": stdout,
        "stderr": stderr,
        "spec": to_json(spec),
    }
