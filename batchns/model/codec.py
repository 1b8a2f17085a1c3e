"""From the bytes of a job file, or the options of a command line, to checked jobs.

1. All mistakes of a file are reported at once, each with its line; nothing of a bad file is used.
2. Options go through the same tables as files, so that neither takes what the other refuses.
3. Pure: no file, clock or user database is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.document import parse_document
from batchns.model.job import Condition, Dependency, JobSpec
from batchns.model.job_table import job_table
from batchns.model.kinds import Table
from batchns.model.options import by_option, override
from batchns.model.positions import Places
from batchns.model.problems import (
    Findings,
    JobFileErrors,
    Path,
    Problem,
    Refusals,
    did_you_mean,
)
from batchns.units import quote

NO_JOB = UserError("no job in this file", 'write name = "train" and command = ["PROGRAM", "ARGUMENT"]')


def parse_jobs(
    data: bytes, *, file: str, folder: str, config: Config, options: Mapping[str, object] = MappingProxyType({})
) -> list[JobSpec]:
    """The jobs of one file, in its order. `file` is for messages, `folder` its absolute folder.

    `options`: as of `options.job_from_options`; every job of the file has these values instead of its own.

    Raises:
        JobFileErrors: all that is wrong with the file, or with the options.
    """
    document = parse_document(data, file)
    table = job_table(config, folder)
    typed: list[Problem] = []

    def read(values: dict[str, Any]) -> list[JobSpec]:
        origins = _override(values, options, config) if options else {}
        try:
            if "job" not in values:
                if not values:
                    raise Refusals([((), NO_JOB)])
                return [_placed(table.read(values), document.file, document.places, ("name",))]
            return _many(values, table, file, document.places)
        except Refusals as refusals:
            # What an option says is wrong with the option, whatever the file has there; and once, not for each job.
            found, left = by_option(refusals.found, origins)
            typed.extend(dict.fromkeys(found))
            raise Refusals(left) from None

    try:
        return document.read(read)
    except JobFileErrors as errors:
        raise JobFileErrors([*typed, *errors.problems]) from None


def _override(values: dict[str, Any], options: Mapping[str, object], config: Config) -> dict[Path, str]:
    """Returns which option each path of the file has its value from.

    Raises:
        JobFileErrors: what is wrong with the options themselves.
    """
    several = "job" in values
    jobs = values.get("job", [values] if values else [])
    origins: dict[Path, str] = {}
    for index, job in enumerate(jobs if isinstance(jobs, list) else []):
        if isinstance(job, dict):
            found, problems = override(job, options, config)
            if problems:
                raise JobFileErrors(problems)
            origins |= {("job", index, *path) if several else path: option for path, option in found.items()}
    return origins


def _many(values: dict[str, Any], table: Table[JobSpec], file: str, places: Places) -> list[JobSpec]:
    """The jobs of a file of [[job]]s; names are unique within it."""
    found, jobs, lines = Findings(), list[JobSpec](), dict[str, int]()
    for key in values.keys() - {"job"}:
        if key in table.fields:
            hint = "move it below a [[job]] line: each job has its own keys"
            found.add([((key,), UserError("stands outside the [[job]]s", hint))])
        else:
            found.add([((key,), UserError("unknown key", "a file of [[job]]s has nothing beside them"))])
    raw = values["job"]
    with found.at("job"):
        if not isinstance(raw, list):
            raise UserError("one job in [job]", "write [[job]], or the job's keys at the top of the file")
        if not raw:
            raise UserError("the list of jobs is empty", "write a job's keys below a [[job]] line")
        for index, entry in enumerate(raw):
            with found.at("job", index):
                job = _placed(table.read(entry), file, places, ("job", index))
                if job.name in lines:
                    path: Path = ("name",)
                    hint = f"choose another name: the one of line {lines[job.name]} has it"
                    raise Refusals([(path, UserError(f"{quote(job.name)} is there twice", hint))])
                lines[job.name] = places.line(("job", index, "name"))
                jobs.append(job)
    found.close()
    return jobs


def _placed(job: JobSpec, file: str, places: Places, path: Path) -> JobSpec:
    return evolve(job, source=f"{file}:{places.line(path)}")


def check_names(specs: Iterable[JobSpec]) -> None:
    """Names are unique among the jobs of one run: dependencies and results go by them.

    Raises:
        JobFileErrors: each name that is there again, with both places.
    """
    first: dict[str, JobSpec] = {}
    problems = []
    for spec in specs:
        if spec.name in first:
            hint = f"choose another name: the job at {first[spec.name].source} has it"
            problems.append(_problem(spec, "name", f"{quote(spec.name)} is there twice", hint))
        first.setdefault(spec.name, spec)
    if problems:
        raise JobFileErrors(problems)


def check_dependencies(specs: Sequence[JobSpec]) -> None:
    """Every dependency names a job among `specs`, and none waits for itself, however indirectly.

    Raises:
        JobFileErrors: every unknown name; where all are known, every cycle.
    """
    by_name = {spec.name: spec for spec in specs}
    problems = []
    for spec in specs:
        for edge in _edges(spec):
            if edge.name not in by_name:
                near = did_you_mean(edge.name, by_name)
                hint = f"did you mean {near}?" if near else "give the file that holds it as well"
                problems.append(_problem(spec, "dependency", f"there is no job {quote(edge.name)}", hint))
            elif edge.condition is Condition.AFTERCORR:
                problems += _without_counterpart(spec, by_name[edge.name])
    for cycle in [] if problems else _cycles(by_name):
        first = by_name[cycle[0]]
        shown = " -> ".join((*cycle, cycle[0])) if len(cycle) <= 10 else f"{cycle[0]} -> ... ({len(cycle)} jobs)"
        what = f"waits for itself: {shown}"
        problems.append(_problem(first, "dependency", what, "remove one of these dependencies"))
    if problems:
        raise JobFileErrors(problems)


def _edges(spec: JobSpec) -> list[Dependency]:
    """The dependencies that name a job."""
    return [edge for edge in spec.dependency if edge.condition is not Condition.SINGLETON]


def _without_counterpart(spec: JobSpec, other: JobSpec) -> Iterator[Problem]:
    """aftercorr: a task that the other job has not would wait for ever."""
    have = set(other.array.indices) if other.array else set()
    lacking = [index for index in spec.array.indices if index not in have] if spec.array else []
    if lacking:
        what = f"aftercorr: {quote(other.name)} has no {f'task {lacking[0]}' if have else 'array'}"
        yield _problem(spec, "dependency", what, f"write afterok:{other.name}, or give both the same array")


def _cycles(by_name: Mapping[str, JobSpec]) -> list[tuple[str, ...]]:
    """One cycle for each back edge of a depth-first walk, in linear time and without recursion."""
    cycles, done = [], set[str]()
    for start in by_name:
        trail = [start] if start not in done else []
        on_trail = dict.fromkeys(trail, 0)
        edges = [iter(_edges(by_name[start]))]
        while trail:
            edge = next(edges[-1], None)
            if edge is None:
                done.add(trail[-1])
                del on_trail[trail.pop()]
                edges.pop()
            elif edge.name in on_trail:
                cycles.append(tuple(trail[on_trail[edge.name] :]))
            elif edge.name not in done:
                on_trail[edge.name] = len(trail)
                trail.append(edge.name)
                edges.append(iter(_edges(by_name[edge.name])))
    return cycles


def _problem(spec: JobSpec, path: str, what: str, hint: str) -> Problem:
    file, _, line = spec.source.rpartition(":")
    return Problem(file, int(line) if line.isdigit() else 0, path, what, hint)
