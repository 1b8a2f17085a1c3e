"""One job from the options of a command line: the job file's checks, with errors that name the option.

Options are first put where the job file has them, then read by the same tables; the path of a mistake leads back
to its option.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

from batchns.errors import UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.job_table import job_table
from batchns.model.kinds import Table
from batchns.model.problems import Finding, JobFileErrors, Path, Problem, Refusals, path_text
from batchns.model.values import NAME
from batchns.units import quote

# Where the job file has what an option says. Named resources are added per node.
PLACES: Mapping[str, tuple[str, ...]] = {
    **{key: (key,) for key in ("name", "command", "script", "cwd", "env", "queue", "priority", "time_limit")},
    **{key: (key,) for key in ("max_retries", "stdout", "stderr", "array", "dependency")},
    **{key: (key,) for key in ("begin", "deadline", "hold", "warn_signal", "retry_delay", "retry_memory")},
    "notify": ("notify",),
    **{key: ("resources", key) for key in ("cpus", "cpuset", "cpu_shares", "memory", "blkio_weight", "pids")},
    **{key: ("resources", key) for key in ("scratch", "scratch_on", "strict")},
    "network": ("network", "mode"),
    "egress": ("network", "egress"),
    "ingress": ("network", "ingress"),
    "allow": ("network", "allow"),
    "bind": ("isolation", "binds"),
    "rootfs": ("isolation", "rootfs"),
    "rootfs_digest": ("isolation", "rootfs_digest"),
    "identity": ("isolation", "identity"),
    "account": ("slurm", "account"),
    "preempt": ("preempt", "mode"),
    "grace_time": ("preempt", "grace_time"),
}
NUMBERS = frozenset({"priority", "max_retries", "retry_memory", "cpus", "cpu_shares", "blkio_weight", "pids"})


def job_from_options(
    table: Mapping[str, object], *, config: Config, folder: str, keys: Table[JobSpec] | None = None
) -> JobSpec:
    """One job from options: keys are the long options' names with underscores (`time_limit` for `--time-limit`).

    Values are as the command line has them: strings also for numbers; `bind` a list of "SRC:DST[:ro]"; `env` a mapping
    or a list of "NAME=VALUE"; `resource` a list of "NAME=COUNT" for the node's named resources. None and empty lists
    mean "not given". Without `name` the job is called after its program. `folder`: absolute, the default `cwd`.
    `keys`: the `job_table` of `config` and `folder`, for who reads many.

    Raises:
        JobFileErrors: all that is wrong, each as "--option: what - hint", without file and line.
    """
    raw: dict[str, Any] = {}
    origins, problems = override(raw, table, config)
    raw.setdefault("name", _program_name(raw.get("command")))
    try:
        job = (keys or job_table(config, folder)).read(raw)
    except Refusals as refusals:
        problems += [_problem(_option_of(path, origins) or _missing(path), error) for path, error in refusals.found]
    if problems:
        raise JobFileErrors(problems)
    return job


def override(raw: dict[str, Any], table: Mapping[str, object], config: Config) -> tuple[dict[Path, str], list[Problem]]:
    """Put options into the values of one job, instead of what is there. Where a table should be and is none, it stays.

    Returns which option each path of `raw` has its value from, and what is wrong with options themselves.
    """
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
            parent = raw if len(path) == 1 else raw.setdefault(path[0], {})
            if isinstance(parent, dict):
                origins[path] = option
                parent[path[-1]] = part
    return origins, problems


def _places(option: str, value: Any, config: Config) -> dict[tuple[str, ...], Any]:
    """The job file's values for one option, by path."""
    if option == "resource":
        counts = _pairs(value, "NAME=COUNT")
        return {("resources", name): _number(count) for name, count in counts.items()}
    if option == "env" and not isinstance(value, Mapping):
        return {("env",): _pairs(value, "NAME=VALUE")}
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


def _pairs(items: Any, form: str) -> dict[str, str]:
    if not isinstance(items, (list, tuple)):
        raise UserError("a list is wanted", f'write ["{form}"]')
    pairs = {}
    for item in items:
        if not isinstance(item, str):
            raise UserError("a list of texts is wanted", f'write ["{form}"]')
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{quote(item)} has no =", f"write {form}")
        pairs[name] = value
    return pairs


def _program_name(command: Any) -> str:
    """The program's file name, as far as it can be a job's name."""
    program = command[0] if isinstance(command, list) and command and isinstance(command[0], str) else ""
    name = re.sub("[^A-Za-z0-9._-]", "_", posixpath.basename(program)).lstrip("._-")[:64]
    return name if re.fullmatch(NAME, name) else "job"


def by_option(found: Iterable[Finding], origins: Mapping[Path, str]) -> tuple[list[Problem], list[Finding]]:
    """What is wrong with values that come from an option, and the rest. `origins`: as of `override`."""
    problems: list[Problem] = []
    left: list[Finding] = []
    for path, error in found:
        option = _option_of(path, origins)
        if option is None:
            left.append((path, error))
        else:
            problems.append(_problem(option, error))
    return problems, left


def _option_of(path: Path, origins: Mapping[Path, str]) -> str | None:
    return next((origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origins), None)


def _missing(path: Path) -> str:
    """The option that would have given it."""
    return next((option for option, place in PLACES.items() if place == path), path_text(path))


def _problem(option: str, error: UserError) -> Problem:
    name = "COMMAND" if option == "command" else "--" + option.replace("_", "-")
    return Problem("", 0, name, error.what, error.hint)
