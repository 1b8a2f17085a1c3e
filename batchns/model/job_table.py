"""The job file's keys, each with its check, its sentence of documentation and its default.

1. One table per TOML table, one line per key; the codec, the JSON Schema and the option errors all read these.
2. What depends on the node (queues, named resources, how much there is) comes in as `Config`.
3. The tables below a job are in `job_parts`, the rules between keys in `job_rules`.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.config import Config, Queue
from batchns.model.job import JobSpec, Notice
from batchns.model.job_parts import PREEMPT, SLURM, isolation_table, network_table, resources_table
from batchns.model.job_rules import (
    begins_before_its_deadline,
    no_shell_line,
    retries_to_speak_of,
    tasks_correspond,
    warned_before_a_limit,
    within_its_queue,
)
from batchns.model.kinds import (
    Field,
    Kind,
    Schema,
    Table,
    boolean,
    choice,
    clean,
    duration,
    exactly_one,
    integer,
    list_of,
    mapping_of,
    number,
    text,
)
from batchns.model.problems import did_you_mean
from batchns.model.times import WARN_PATTERN, After, moment, parse_warn_signal
from batchns.model.values import (
    NAME,
    RESERVED_PREFIX,
    VARIABLE,
    check_name,
    check_variable,
    output_in,
    parse_array,
    parse_dependency,
    path_in,
)
from batchns.units import quote

PRIORITY = 50  # of a job that says none
NAME_KIND: Kind[str] = text(check_name, example='"train-7"', pattern=f"^{NAME}$")
COMMAND_MISSING = "write command = [\"PROGRAM\", \"ARGUMENT\"] or script = '''...'''"


def job_table(config: Config, folder: str) -> Table[JobSpec]:
    """One job's table. `folder`: absolute; what relative paths are relative to, and the default `cwd`."""
    tables = {
        "resources": Field(resources_table(config), "What the job gets of the machine, and not more."),
        "network": Field(network_table(config), "The job's network."),
        "isolation": Field(isolation_table(config), "What the job sees of the host."),
        "preempt": Field(PREEMPT, "What may be done to the job when something more urgent needs its place."),
        "slurm": Field(SLURM, "What only a Slurm cluster heeds; on one machine it has no effect."),
    }
    return Table(
        make=lambda **values: _job(config, {"cwd": folder, **values}),
        fields={**_job_fields(config, folder), **_time_fields(), **tables},
        where="[job]",
        rules=(
            exactly_one("command", "script", missing=COMMAND_MISSING),
            no_shell_line,
            tasks_correspond,
            begins_before_its_deadline,
            retries_to_speak_of,
            warned_before_a_limit(config),
            within_its_queue(config),
        ),
        rules_schema={"oneOf": [{"required": ["command"]}, {"required": ["script"]}]},
    )


def _job(config: Config, values: dict[str, Any]) -> JobSpec:
    """The job that the keys say: some have a field of another name, and a queue may lower the usual priority."""
    for key in ("begin", "deadline"):
        if isinstance(when := values.get(key), After):
            values[key], values[f"{key}_after"] = None, when.seconds
    if "warn_signal" in values:
        values["warn"] = values.pop("warn_signal")
    queue = config.queues.get(values.get("queue", "normal"), Queue())
    values.setdefault("priority", min(PRIORITY, queue.max_priority))
    return JobSpec(**values)


def _job_fields(config: Config, folder: str) -> dict[str, Field]:
    output: Schema = {"minLength": 1, "not": {"pattern": "(^|/)\\.\\.(/|$)"}}
    env_name = text(check_variable, example="NAME", pattern=f"^{VARIABLE}$")
    env_name.schema["not"] = {"pattern": f"^{RESERVED_PREFIX}"}
    return {
        "name": Field(
            NAME_KIND,
            "The job's name: letters, digits, dots, dashes, underscores; unique among the files of one run.",
            required='write name = "train"',
        ),
        "command": Field(
            list_of(text(clean, example='"ARGUMENT"'), example='["PROGRAM", "ARGUMENT"]', least=1),
            "The program and its arguments, run without a shell.",
        ),
        "script": Field(
            text(_script, example="'''...'''", minLength=1),
            "The text of a script, run by /bin/sh or by its #! line; instead of `command`.",
        ),
        "cwd": Field(
            text(lambda value: path_in(folder, value), example='"/data/run7"', **output),
            "The working folder.",
            "the job file's folder",
        ),
        "env": Field(
            mapping_of(text(clean, example='"value"'), env_name, where="env"),
            "Environment variables. Nothing else of the submitter's environment reaches the job.",
        ),
        "queue": Field(
            text(lambda value: _queue(config, value), example='"normal"'), "A queue of batchns.toml.", '"normal"'
        ),
        "priority": Field(integer(0, 100, example="50"), "Larger starts first within the queue.", str(PRIORITY)),
        "time_limit": Field(
            duration(example='"2h30m"'),
            "How long the job may run; SIGTERM, then SIGKILL. Frozen time does not count.",
            "that of [defaults] in batchns.toml",
        ),
        "array": Field(
            text(parse_array, example='"0-99%10"', pattern="^[0-9,:-]+(%[0-9]+)?$"),
            "One task per index; %N lets at most N run at a time.",
        ),
        "dependency": Field(
            dependency_list(),
            "What the job waits for: after (started), afterok, afternotok, afterany (ended), "
            "aftercorr (task by task), singleton.",
        ),
        "max_retries": Field(integer(0, 100, example="2"), "How often it is started again after it failed.", "0"),
        "stdout": Field(
            text(lambda value: output_in(folder, value), example='"%x-%j.out"', **output),
            "File for standard output: %x name, %j job id, %A array's job id, %a array index, %r attempt, %% percent.",
            '"%x-%j.out" beside the job file',
        ),
        "stderr": Field(
            text(lambda value: output_in(folder, value), example='"%x-%j.err"', **output),
            "File for standard error, with the same patterns.",
            '"%x-%j.err" beside the job file',
        ),
        "notify": Field(
            list_of(choice(Notice), example='["failed"]'),
            "Of what the machine's [notify] tells, only these: started, frozen, requeued, ended, failed; []: nothing.",
            "all of it",
        ),
    }


def _time_fields() -> dict[str, Field]:
    """When the job may run, and what happens when it takes too long or fails."""
    return {
        "begin": Field(
            moment(),
            'Not to be started before: "2026-12-01T08:00", or "+2h" after it was submitted.',
            "as soon as there is room",
        ),
        "deadline": Field(
            moment(), "To be over by then, written as `begin`; a job that cannot be is cancelled.", "none"
        ),
        "hold": Field(boolean(), "Wait until it is released.", "false"),
        "warn_signal": Field(
            text(parse_warn_signal, example='"USR1@60s"', pattern=WARN_PATTERN),
            'A signal so long before the time limit: "USR1@60s".',
            "none",
        ),
        "retry_delay": Field(
            duration(example='"30s"', zero=True),
            "How long the first retry waits; each further one waits twice as long as the one before.",
            '"0s"',
        ),
        "retry_memory": Field(
            number(_retry_memory, example="1.5", minimum=1, maximum=16),
            "Factor, 1 to 16, for the memory of the attempt after one that ended as OUT_OF_MEMORY.",
            "1",
        ),
    }


def dependency_list() -> Kind[tuple[Any, ...]]:
    """A list of "afterok:a:b", flattened into single edges, none twice."""
    pattern = f"^(singleton|(after|afterok|afternotok|afterany|aftercorr)(:{NAME})+)$"
    groups = list_of(text(parse_dependency, example='"afterok:prep"', pattern=pattern), example='["afterok:prep"]')

    def read(value: Any) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(edge for group in groups.read(value) for edge in group))

    return evolve(groups, read=read)


def _script(value: str) -> str:
    if not value.strip():
        raise UserError("the script is empty", "write its commands between ''' and '''")
    return value


def _retry_memory(value: float) -> float:
    if not 1 <= value <= 16:
        raise UserError(f"{value:g} is out of range", "write 1 to 16")
    return value


def _queue(config: Config, value: str) -> str:
    if value not in config.queues:
        near = did_you_mean(value, config.queues)
        known = ", ".join(sorted(config.queues))
        raise UserError(f"there is no queue {quote(value)}", f'did you mean "{near}"?' if near else f"there is {known}")
    return value
