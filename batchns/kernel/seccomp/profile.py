"""What a seccomp profile says: an OCI runtime-spec file, read strictly, and its meaning as a pure function.

1. What is not understood is refused, with file and path: a filter that was half read protects by half.
2. The order of entries means nothing. Of all entries that match a call the strictest decides, as the kernel decides
   between stacked filters; where none matches, the default action.
3. Nothing here knows system call numbers, libseccomp or the machine.

Format: https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp, and `comment` in an entry.
"""

from __future__ import annotations

import errno
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import TypeVar

from attrs import frozen

from batchns.errors import UserError
from batchns.units import quote

T = TypeVar("T")

# include/uapi/linux/seccomp.h; ERRNO carries an errno in its low 16 bits.
KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

_ACTIONS = {
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
}
_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_RISCV64": "riscv64",
    "SCMP_ARCH_PPC64LE": "ppc64le",
    "SCMP_ARCH_S390X": "s390x",
    "SCMP_ARCH_LOONGARCH64": "loongarch64",
    # What 32-bit programs would need: known, so that common files can be read, and never let in.
    "SCMP_ARCH_X86": "",
    "SCMP_ARCH_X32": "",
    "SCMP_ARCH_ARM": "",
    "SCMP_ARCH_S390": "",
}
EQ = "SCMP_CMP_EQ"
MASKED_EQ = "SCMP_CMP_MASKED_EQ"
COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "SCMP_CMP_NE": operator.ne,
    "SCMP_CMP_LT": operator.lt,
    "SCMP_CMP_LE": operator.le,
    EQ: operator.eq,
    "SCMP_CMP_GE": operator.ge,
    "SCMP_CMP_GT": operator.gt,
}
_MAX_ERRNO = 4095  # include/linux/err.h


@frozen
class Condition:
    """Argument `index` (0 to 5), as 64 bits, compared with `value`; MASKED_EQ: `argument & value == value_two`."""

    index: int
    op: str
    value: int
    value_two: int = 0

    def holds(self, arguments: Sequence[int]) -> bool:
        argument = arguments[self.index]
        if self.op == MASKED_EQ:
            return argument & self.value == self.value_two
        return COMPARISONS[self.op](argument, self.value)


@frozen
class Rule:
    """One system call of one entry: `action` (a SECCOMP_RET_* value) where all `conditions` hold."""

    name: str
    action: int
    conditions: tuple[Condition, ...] = ()


@frozen
class Profile:
    """A profile that was read from `source`. `machines` are as in uname(2); empty: any."""

    source: str
    default: int
    machines: tuple[str, ...]
    rules: tuple[Rule, ...]

    def by_name(self) -> dict[str, tuple[Rule, ...]]:
        """The rules of each system call."""
        found: dict[str, list[Rule]] = {}
        for rule in self.rules:
            found.setdefault(rule.name, []).append(rule)
        return {name: tuple(rules) for name, rules in found.items()}


def strictness(action: int) -> int:
    """The order in which actions win, smallest first: seccomp(2), as the kernel compares them."""
    kind = action & 0xFFFF0000
    return kind - (1 << 32) if kind & 1 << 31 else kind


def verdict(rules: Iterable[Rule], default: int, arguments: Sequence[int]) -> int:
    """What happens to a call with these six arguments, `rules` being those of its name."""
    matching = []
    for rule in rules:
        for condition in rule.conditions:
            if not condition.holds(arguments):
                break
        else:
            matching.append(rule.action)
    return min(matching, key=strictness, default=default)


def default() -> Profile:
    """The profile that comes with batchns."""
    file = resources.files(__package__) / "default.json"
    return parse(file.read_text(encoding="utf-8"), "default.json")


def parse(text: str, source: str) -> Profile:
    """Read a profile; `source` is how its file is called in messages.

    Raises:
        UserError: it is no JSON, or something in it is unknown, missing, of a wrong type or without a meaning here.
    """
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}:{error.lineno}: no JSON: {error.msg}", "write an OCI seccomp profile") from None
    except (_TwiceError, RecursionError) as error:
        raise UserError(f"{source}: {error}", "write an OCI seccomp profile") from None
    return _Reader(source).profile(document)


class _TwiceError(ValueError):
    pass


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(f"key {quote(next(key for key in keys if keys.count(key) > 1))} appears twice in one object")
    return table


class _Reader:
    """Each method reads one kind of thing at `path` of the file."""

    def __init__(self, source: str) -> None:
        self._source = source

    def profile(self, document: object) -> Profile:
        optional = {"defaultErrnoRet", "architectures", "syscalls"}
        table = self._table(document, "$", {"defaultAction"}, optional)
        default = self._action(table, "$", "defaultAction", "defaultErrnoRet")
        machines = tuple(
            self._one_of(name, f"$.architectures[{number}]", _ARCHITECTURES)
            for number, name in enumerate(self._list(table.get("architectures", []), "$.architectures"))
        )
        rules = tuple(
            rule
            for number, entry in enumerate(self._list(table.get("syscalls", []), "$.syscalls"))
            for rule in self._entry(entry, f"$.syscalls[{number}]")
        )
        return Profile(self._source, default, machines, rules)

    def _entry(self, entry: object, path: str) -> list[Rule]:
        table = self._table(entry, path, {"names", "action"}, {"errnoRet", "args", "comment"})
        action = self._action(table, path, "action", "errnoRet")
        conditions = tuple(
            self._condition(condition, f"{path}.args[{number}]")
            for number, condition in enumerate(self._list(table.get("args", []), f"{path}.args"))
        )
        if len({condition.index for condition in conditions}) < len(conditions):
            raise self._wrong(f"{path}.args", "an argument is compared twice", "write an entry for each comparison")
        names = self._list(table["names"], f"{path}.names")
        if not names:
            raise self._wrong(f"{path}.names", "no system call is named", "name one, or remove the entry")
        for number, name in enumerate(names):
            if not isinstance(name, str) or not name.isidentifier():
                raise self._wrong(f"{path}.names[{number}]", "no name of a system call", 'write one like "openat"')
        return [Rule(str(name), action, conditions) for name in names]

    def _condition(self, condition: object, path: str) -> Condition:
        table = self._table(condition, path, {"index", "value", "op"}, {"valueTwo"})
        op = self._one_of(table["op"], f"{path}.op", {name: name for name in (*COMPARISONS, MASKED_EQ)})
        if op == MASKED_EQ and "valueTwo" not in table:
            raise self._wrong(path, "a mask without valueTwo", "write what the masked argument is compared with")
        value = self._integer(table["value"], f"{path}.value", 0, 2**64 - 1)
        two = self._integer(table.get("valueTwo", 0), f"{path}.valueTwo", 0, 2**64 - 1)
        if op == MASKED_EQ and two & ~value:
            raise self._wrong(path, "valueTwo has bits outside the mask: never true", "write bits of the mask only")
        return Condition(self._integer(table["index"], f"{path}.index", 0, 5), op, value, two if op == MASKED_EQ else 0)

    def _action(self, table: Mapping[str, object], path: str, key: str, errno_key: str) -> int:
        action = self._one_of(table[key], f"{path}.{key}", _ACTIONS)
        if action == ERRNO:
            return ERRNO | self._integer(table.get(errno_key, errno.EPERM), f"{path}.{errno_key}", 1, _MAX_ERRNO)
        if errno_key in table:
            raise self._wrong(f"{path}.{errno_key}", f"{table[key]} returns no errno", f"remove {errno_key}")
        return action

    def _table(self, value: object, path: str, needed: set[str], optional: set[str]) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self._wrong(path, "not an object", f"write {{...}} with {', '.join(sorted(needed))}")
        if missing := sorted(needed - set(value)):
            raise self._wrong(path, f"{missing[0]} is missing", "add it")
        if unknown := sorted(set(value) - needed - optional):
            known = ", ".join(sorted(needed | optional))
            raise self._wrong(path, f"unknown key {quote(unknown[0])}", f"remove it, or write one of {known}")
        return value

    def _list(self, value: object, path: str) -> list[object]:
        if not isinstance(value, list):
            raise self._wrong(path, "not a list", "write [...]")
        return value

    def _one_of(self, value: object, path: str, known: Mapping[str, T]) -> T:
        if not isinstance(value, str) or value not in known:
            shown = quote(value) if isinstance(value, str) else type(value).__name__
            raise self._wrong(path, f"unknown: {shown}", f"write one of {', '.join(known)}")
        return known[value]

    def _integer(self, value: object, path: str, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:  # True is an int for isinstance
            raise self._wrong(path, f"no integer from {low} to {high}", "write one in decimal digits")
        return value

    def _wrong(self, path: str, what: str, hint: str) -> UserError:
        return UserError(f"{self._source}: {path}: {what}", hint)
