"""One job from the options of a command line: the job file's checks, with errors that name the option.

Options are first put where the job file has them, then read by the same tables; the path of a mistake leads back
to its option.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.job_table import job_table
from batchns.model.problems import JobFileErrors, Path, Problem, Refusals, path_text
from batchns.model.values import NAME
from batchns.units import quote

# Where the job file has what an option says. Named resources are added per node.
PLACES: Mapping[str, tuple[str, ...]] = {
    **{key: (key,) for key in ("name", "command", "script", "cwd", "env", "queue", "priority", "time_limit")},
    **{key: (key,) for key in ("max_retries", "stdout", "stderr", "array", "dependency")},
    **{key: (key,) for key in ("begin", "deadline", "hold", "warn_signal", "retry_delay", "retry_memory")},
    **{key: ("resources", key) for key in ("cpus", "cpuset", "cpu_shares", "memory", "blkio_weight", "pids")},
    **{key: ("resources", key) for key in ("scratch", "strict")},
    "network": ("network", "mode"),
    "egress": ("network", "egress"),
    "ingress": ("network", "ingress"),
    "allow": ("network", "allow"),
    "bind": ("isolation", "binds"),
    "rootfs": ("isolation", "rootfs"),
    "identity": ("isolation", "identity"),
    "preempt": ("preempt", "mode"),
    "grace_time": ("preempt", "grace_time"),
}
NUMBERS = frozenset({"priority", "max_retries", "retry_memory", "cpus", "cpu_shares", "blkio_weight", "pids"})


def job_from_options(table: Mapping[str, object], *, config: Config, folder: str) -> JobSpec:
    """One job from options: keys are the long options' names with underscores (`time_limit` for `--time-limit`).

    Values are as the command line has them: strings also for numbers; `bind` a list of "SRC:DST[:ro]"; `env` a mapping
    or a list of "NAME=VALUE"; `resource` a list of "NAME=COUNT" for the node's named resources. None and empty lists
    mean "not given". Without `name` the job is called after its program. `folder`: absolute, the default `cwd`.

    Raises:
        JobFileErrors: all that is wrong, each as "--option: what - hint", without file and line.
    """
    raw: dict[str, Any] = {}
    origins: dict[Path, str] = {}
    problems = []
    for key, value in table.items():
        option = key.replace("-", "_")
        if value is None or (isinstance(value, (list, tuple, dict)) and not value and option != "command"):
            continue
        try:
            placed = _places(option, value, config)
        except UserError as error:
            problems.append(_problem(option, error))
            continue
        for path, part in placed.items():
            origins[path] = option
            parent = raw if len(path) == 1 else raw.setdefault(path[0], {})
            parent[path[-1]] = part
    raw.setdefault("name", _program_name(raw.get("command")))
    try:
        job = job_table(config, folder).read(raw)
    except Refusals as refusals:
        problems += [_problem(_origin(path, origins), error) for path, error in refusals.found]
    if problems:
        raise JobFileErrors(problems)
    return job


def _places(option: str, value: Any, config: Config) -> dict[tuple[str, ...], Any]:
    """The job file's values for one option, by path."""
    if option == "resource":
        counts = dict(_pair(item, "NAME=COUNT") for item in value)
        return {("resources", name): _number(count) for name, count in counts.items()}
    if option == "env" and not isinstance(value, Mapping):
        return {("env",): dict(_pair(item, "NAME=VALUE") for item in value)}
    if option in config.node.resources:
        return {("resources", option): _number(value)}
    if option not in PLACES:
        raise UserError("unknown option", "see batchns run --help")
    if isinstance(value, tuple):
        value = list(value)
    return {PLACES[option]: _number(value) if option in NUMBERS else value}


def _number(value: Any) -> Any:
    """The number that an option's text is, or the text itself, which the table then refuses by its own words."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{0,18}\.[0-9]{1,18}", value):
        return float(value)
    return value


def _pair(item: str, form: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise UserError(f"{quote(item)} has no =", f"write {form}")
    return name, value


def _program_name(command: Any) -> str:
    """The program's file name, as far as it can be a job's name."""
    program = command[0] if isinstance(command, list) and command and isinstance(command[0], str) else ""
    name = re.sub("[^A-Za-z0-9._-]", "_", posixpath.basename(program)).lstrip("._-")[:64]
    return name if re.fullmatch(NAME, name) else "job"


def _origin(path: Path, origins: Mapping[Path, str]) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return next((option for option, place in PLACES.items() if place == path), path_text(path))


def _problem(option: str, error: UserError) -> Problem:
    name = "COMMAND" if option == "command" else "--" + option.replace("_", "-")
    return Problem("", 0, name, error.what, error.hint)
