"""The small languages inside a job file's strings: names, paths, patterns, CPU lists, arrays, binds, dependencies.

1. Text to value, or `UserError` that says what to write; no I/O, nothing is looked up on this machine.
2. Whatever becomes part of a path, a file name or a kernel object's name is matched from end to end.
3. Counts are bounded before anything is expanded.
"""

from __future__ import annotations

import posixpath
import re

from batchns.errors import UserError
from batchns.model.job import Array, Bind, Condition, Dependency
from batchns.model.problems import did_you_mean
from batchns.units import quote

NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_WHAT = "a name"
NAME_HINT = "write 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit"
VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
RESERVED_PREFIX = "BATCHNS_"

SLURM_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,127}"
CONSTRAINT = r"[A-Za-z0-9_(\[][A-Za-z0-9_.:@+*&|()\[\]-]{0,255}"
DIGEST = re.compile("sha256:[0-9a-f]{64}")
EXAMPLE_DIGEST = f"sha256:{'9f86d081' * 8}"
MAX_TASKS = 10_000
MAX_INDEX = 999_999
MAX_CPUS = 8192  # CONFIG_NR_CPUS of the largest distribution kernels
MAX_PATH = 4095  # PATH_MAX less its NUL

_CPU_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_TASK_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6})(?::([0-9]{1,6}))?)?")
_PATTERN = re.compile(r"%(.?)", re.DOTALL)
# Mounts over these would hide what the sandbox itself puts there.
_NO_BIND_BELOW = ("/proc", "/sys", "/dev", "/run")


def check_digest(value: str) -> str:
    if not DIGEST.fullmatch(value):
        raise UserError(f"{quote(value)} is not a digest", 'write "sha256:" and what sha256sum says of the image')
    return value


def check_cpus(value: float) -> float:
    """Whole CPUs from 1, or a fraction below one with at most three decimals."""
    if value >= 1:
        if value != int(value):
            raise UserError(
                f"{value} is neither whole nor below 1",
                f"write {int(value)} or {int(value) + 1} for whole CPUs, or a fraction such as 0.5 for a shared one",
            )
        if value > MAX_CPUS:
            raise UserError(f"{value:.0f} CPUs are more than any kernel has", f"write 1 to {MAX_CPUS}")
        return value
    if value <= 0:
        raise UserError(f"{value:g} is not above 0", "write 1 or more whole CPUs, or a fraction such as 0.5")
    if round(value, 3) != value:
        raise UserError(f"{value} has more than three decimals", f"write {max(round(value, 3), 0.001)}")
    return value


def parse_cpuset(text: str) -> tuple[int, ...]:
    """CPU numbers in ascending order, from "0-3,8"."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = _CPU_RANGE.fullmatch(part)
        if match is None:
            raise UserError(f"{quote(text)} is not a list of CPUs", 'write numbers and ranges: "0-3,8"')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f'range "{part}" runs backwards', f'write "{last}-{first}"')
        if last >= MAX_CPUS:
            raise UserError(f"there is no CPU {last} in any kernel", f"write 0 to {MAX_CPUS - 1}")
        # Refusing repetition also bounds the work: 64 KiB of "0-8191," would take seconds.
        if twice := cpus.intersection(range(first, last + 1)):
            raise UserError(f"CPU {min(twice)} is there twice", "write each CPU once")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def parse_array(text: str) -> Array:
    """Indices and throttle, from "0-99%10" or "1,3,5-9:2%4"."""
    listed, percent, limit = text.partition("%")
    if percent and not re.fullmatch("[1-9][0-9]{0,5}", limit):
        raise UserError(f"{quote(text)} has no number of tasks behind %", 'write for example "0-99%10"')
    indices: set[int] = set()
    for part in listed.split(","):
        match = _TASK_RANGE.fullmatch(part)
        if match is None:
            raise UserError(
                f"{quote(text)} is not an array", 'write indices and ranges: "0-99", "1,3,5-9:2", "0-99%10"'
            )
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first:
            raise UserError(f'range "{part}" runs backwards', f'write "{last}-{first}"')
        if not step:
            raise UserError(f'range "{part}" has a step of 0', "write a step of 1 or more")
        tasks = range(first, last + 1, step)
        if len(tasks) + len(indices) > MAX_TASKS:
            raise UserError(f"more than {MAX_TASKS} array tasks", "split it into several jobs")
        if twice := indices.intersection(tasks):
            raise UserError(f"index {min(twice)} is there twice", "write each index once")
        indices.update(tasks)
    return Array(tuple(sorted(indices)), int(limit) if limit else None)


def parse_dependency(text: str) -> tuple[Dependency, ...]:
    """One edge per name, from "afterok:prep" or "afterany:a:b"; one without a name from "singleton"."""
    word, *names = text.split(":")
    conditions = [condition.value for condition in Condition]
    alone = Condition.SINGLETON.value
    if word not in conditions:
        near = did_you_mean(word, conditions)
        form = near if near == alone else f"{near}:NAME"
        hint = f'did you mean "{form}"?' if near else f'write one of {", ".join(conditions)}, as "afterok:NAME"'
        raise UserError(f"{quote(word)} is no condition", hint)
    if word == alone:
        if names:
            what = f"{quote(text)} names a job"
            raise UserError(what, f'write "{alone}": it waits for jobs of its own name and user')
        return (Dependency(Condition.SINGLETON, ""),)
    if not names:
        raise UserError(f"{quote(text)} names no job", f'write "{word}:NAME"')
    for name in names:
        check_name(name)
    return tuple(Dependency(Condition(word), name) for name in dict.fromkeys(names))


def check_name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise UserError(f"{quote(text)} is not {NAME_WHAT}", NAME_HINT)
    return text


def check_variable(text: str) -> str:
    """The name of an environment variable that a job may set."""
    if not re.fullmatch(VARIABLE, text):
        raise UserError(f"{quote(text)} is not a variable's name", "write letters, digits and _, no digit first")
    if text.startswith(RESERVED_PREFIX):
        raise UserError(f"{RESERVED_PREFIX}* variables are set by batchns", "choose another name")
    return text


def check_path(text: str) -> str:
    """An absolute path without "..", normalised."""
    if not text.startswith("/"):
        hint = "write the full path: ~ and $HOME are not expanded" if text[:1] in {"~", "$"} else "write the full path"
        raise UserError(f"{quote(text)} is not an absolute path", hint)
    return _plain_path(text)


def check_slurm_word(text: str, what: str) -> str:
    """A name of Slurm's, as one word of an option. `what`: it should be."""
    if not re.fullmatch(SLURM_WORD, text):
        raise UserError(f"{quote(text)} is not {what}", "write letters, digits, _, -, . and :")
    return text


def check_constraint(text: str) -> str:
    """What sbatch takes for --constraint: names of features with &, |, counts and brackets."""
    if not re.fullmatch(CONSTRAINT, text):
        raise UserError(f"{quote(text)} is no constraint", 'write features as sbatch has them: "intel&ssd"')
    return text


def path_in(folder: str, text: str) -> str:
    """An absolute path, from one that may be relative to `folder`."""
    if not text:
        raise UserError("the path is empty", "write a path, or remove the key")
    if text[0] in {"~", "$"}:
        raise UserError(f"{quote(text)} begins with {text[0]}", "write the full path: ~ and $HOME are not expanded")
    return posixpath.join(folder, _plain_path(text)) if text != "." else folder


def output_in(folder: str, text: str) -> str:
    """The pattern of an output file's path, absolute; %x, %j, %A, %a, %r and %% are filled in later."""
    path = path_in(folder, text)
    if text.endswith("/") or path == folder:
        raise UserError(f"{quote(text)} is a folder", "write a file's name: logs/%x-%j.out")
    for match in _PATTERN.finditer(text):
        if match[1] not in {"x", "j", "A", "a", "r", "%"}:
            raise UserError(
                f"{quote(match[0])} is no pattern",
                "write %x (name), %j (job id), %A (array's job id), %a (array index), %r (attempt) or %%",
            )
    return path


def parse_bind(text: str) -> Bind:
    """From "SRC:DST" or "SRC:DST:ro"."""
    source, colon, rest = text.partition(":")
    target, mode_colon, mode = rest.partition(":")
    if not colon or not target:
        raise UserError(
            f"{quote(text)} names no place inside the job", f'write "SRC:DST", for example "{_same(source)}"'
        )
    if mode_colon and mode not in {"ro", "rw"}:
        raise UserError(f"{quote(mode)} is no option of a bind", 'write "SRC:DST" or "SRC:DST:ro"')
    bind = Bind(check_path(source), check_path(target), mode == "ro")
    if bind.target == "/":
        raise UserError(f"{quote(text)} would cover the job's root", "bind it to a folder below /")
    for folder in _NO_BIND_BELOW:
        if bind.target == folder or bind.target.startswith(folder + "/"):
            raise UserError(
                f"{quote(text)} would cover the job's own {folder}", "bind it to another folder, such as /mnt"
            )
    return bind


def _same(source: str) -> str:
    path = source if source.startswith("/") else "/data"
    return quote(f"{path}:{path}").strip('"')


def _plain_path(text: str) -> str:
    if not text.isprintable() and any(not c.isprintable() and c < "\u0080" for c in text):
        raise UserError(f"{quote(text)} holds a control character", "write a path without it")
    if ".." in text.split("/"):
        raise UserError(f'{quote(text)} holds ".."', "write the path that it leads to")
    if len(text.encode()) > MAX_PATH:
        raise UserError(f"a path of more than {MAX_PATH} bytes", "no kernel takes it: write a shorter one")
    # normpath keeps two leading slashes, which POSIX allows to be special.
    return "/" + posixpath.normpath(text).lstrip("/") if text.startswith("/") else posixpath.normpath(text)
