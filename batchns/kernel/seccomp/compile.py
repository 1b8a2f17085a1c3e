"""From a profile to the BPF program that the kernel takes: compiled by libseccomp, then checked against the profile.

1. Two filters make the program: first all entries that refuse, then those that allow. libseccomp keeps one tree for
   each system call, in which an entry without conditions drops all others: one filter of both kinds would lose rules.
2. The native architecture only. A call of another one (32-bit, x32) ends the process: its numbers mean other calls.
3. Nothing is taken on trust: the program is run, in simulation, at both sides of every comparison of the profile.

Nothing is cached. Compiling takes some 40 ms: do it once, keep the bytes, load them with `batchns.kernel.seccomp.load`.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from batchns.errors import HostError, UserError
from batchns.kernel.seccomp import simulate
from batchns.kernel.seccomp.load import INSTRUCTION, MAX_INSTRUCTIONS
from batchns.kernel.seccomp.profile import ALLOW, EQ, KILL_PROCESS, LOG, MASKED_EQ, Condition, Profile, Rule, verdict

_SPAWN = 0x4111  # CLONE_VM | CLONE_VFORK | SIGCHLD: what posix_spawn(3) gives to clone(2)

# What a job's init, a Python process, calls after the filter is loaded; in clone's first argument are its flags.
_NEEDED = """brk capset chdir clock_gettime close close_range dup2 execve exit_group fcntl futex getpid getrandom ioctl
    kill lseek madvise mmap mprotect mremap munmap newfstatat openat prctl prlimit64 pwrite64 read rt_sigaction
    rt_sigprocmask rt_sigreturn rt_sigtimedwait sendto setresgid setresuid setsid umask wait4 write"""
INIT_NEEDS: Mapping[str, tuple[int, ...]] = dict.fromkeys(_NEEDED.split(), ()) | {"clone": (_SPAWN,)}

_ALL_BITS = 2**64 - 1
_HIGH_BIT = 1 << 32  # the lowest one that a comparison of 32 bits would not see
_UNKNOWN_CALL = 1_000_000  # no kernel has it


def compiled(profile: Profile) -> bytes:
    """The program for this machine, for `load`. System calls that this libseccomp does not know keep the default.

    Raises:
        UserError: the profile is not for this machine, refuses what every job's init needs, or is one that libseccomp
            compiles to something else than it says.
        HostError: libseccomp is missing or fails.
    """
    machine = os.uname().machine
    if profile.machines and machine not in profile.machines:
        raise UserError(f"{profile.source}: $.architectures: not for this machine ({machine})", "add its architecture")
    library = _library()
    numbers = _numbers(profile, library)
    _check_init(profile, library)
    _check_inequalities(profile)
    refusing = [rule for rule in profile.rules if rule.action not in (ALLOW, LOG)]
    allowing = [rule for rule in profile.rules if rule.action in (ALLOW, LOG) and rule.action != profile.default]
    try:
        first = _export(library, ALLOW, refusing, numbers)
        second = _export(library, profile.default, allowing, numbers)
    except OSError as error:
        raise HostError(f"{profile.source}: libseccomp: {error.strerror}", "apt-get install libseccomp2") from None
    program = [*_fall_through(first), *second]
    if len(program) > MAX_INSTRUCTIONS:
        raise UserError(f"{profile.source}: {len(program)} instructions, {MAX_INSTRUCTIONS} at most", "write less")
    _verify(profile, program, numbers, library)
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in program)


def _library() -> ModuleType:
    try:
        return importlib.import_module("pyseccomp")
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: it found no libseccomp
        missing = "pyseccomp" if isinstance(error, ImportError) else "libseccomp"
        hint = "pip install pyseccomp" if isinstance(error, ImportError) else "apt-get install libseccomp2"
        raise HostError(f"no seccomp filter can be compiled: {missing} is missing", hint) from None


def _numbers(profile: Profile, library: ModuleType) -> dict[str, int]:
    """The numbers of the profile's system calls. Negative ones exist on other architectures, or nowhere."""
    found = {rule.name: library.resolve_syscall(library.Arch.NATIVE, rule.name) for rule in profile.rules}
    return {name: number for name, number in found.items() if number >= 0}


def _check_init(profile: Profile, library: ModuleType) -> None:
    rules = profile.by_name()
    for name, arguments in INIT_NEEDS.items():
        if library.resolve_syscall(library.Arch.NATIVE, name) < 0:
            continue  # such as dup2 on aarch64, which has dup3
        padded = (*arguments, *(0,) * (6 - len(arguments)))
        if verdict(rules.get(name, ()), profile.default, padded) not in (ALLOW, LOG):
            raise UserError(f"{profile.source}: {name} is refused: the job's init needs it", f'allow "{name}"')


def _check_inequalities(profile: Profile) -> None:
    """libseccomp 2.5.4 does not return from adding some sets of rules. All that were found, by trying thousands of
    random ones, have an inequality in an argument before another that is compared too.
    """
    for rule in profile.rules:
        last = max((condition.index for condition in rule.conditions), default=0)
        if any(condition.index < last and condition.op not in (EQ, MASKED_EQ) for condition in rule.conditions):
            raise UserError(
                f"{profile.source}: an entry for {rule.name} has an inequality before its last argument",
                "write it with EQ or MASKED_EQ",
            )


def _export(
    library: ModuleType, default: int, rules: Iterable[Rule], numbers: Mapping[str, int]
) -> list[simulate.Instruction]:
    """One filter, exported by libseccomp."""
    made = library.SyscallFilter(default)
    made.set_attr(library.Attr.ACT_BADARCH, KILL_PROCESS)
    made.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree of numbers instead of a list
    for rule in rules:
        if rule.name in numbers:
            arguments = [_argument(library, condition) for condition in rule.conditions]
            made.add_rule_exactly(rule.action, numbers[rule.name], *arguments)
    with os.fdopen(os.memfd_create("seccomp"), "rb") as file:
        made.export_bpf(file)
        file.seek(0)
        return simulate.instructions(file.read())


def _argument(library: ModuleType, condition: Condition) -> Any:
    op = getattr(library, condition.op.removeprefix("SCMP_CMP_"))
    return library.Arg(condition.index, op, condition.value, condition.value_two)


def _fall_through(program: Sequence[simulate.Instruction]) -> Iterator[simulate.Instruction]:
    """Where the filter would allow it goes on behind its end instead."""
    for position, instruction in enumerate(program):
        allows = instruction[0] == simulate.RET_K and instruction[3] == ALLOW
        yield (simulate.JA, 0, 0, len(program) - position - 1) if allows else instruction


def _verify(
    profile: Profile, program: Sequence[simulate.Instruction], numbers: Mapping[str, int], library: ModuleType
) -> None:
    arch = library.system_arch()
    rules = {**profile.by_name(), "": ()}
    for name, number in {**numbers, "": _UNKNOWN_CALL}.items():
        for arguments in samples(rules[name]):
            if simulate.run(program, arch, number, arguments) != verdict(rules[name], profile.default, arguments):
                shown = ", ".join(map(hex, arguments))
                raise UserError(
                    f"{profile.source}: {name}({shown}): libseccomp makes something else of the entries than they say",
                    f"write entries for {name} that do not overlap",
                )


def samples(rules: Sequence[Rule]) -> Iterator[tuple[int, ...]]:
    """Arguments at both sides of every comparison, in all combinations of those of different arguments."""
    values: dict[int, set[int]] = {index: set() for index in range(6)}
    for condition in (condition for rule in rules for condition in rule.conditions):
        if condition.op == MASKED_EQ:
            near = {condition.value_two, condition.value_two | ~condition.value, condition.value_two ^ condition.value}
        else:
            near = {condition.value, condition.value - 1, condition.value + 1, condition.value | _HIGH_BIT}
        values[condition.index] |= {value & _ALL_BITS for value in near}
    yield from itertools.product(*(sorted(values[index]) or [0] for index in range(6)))
