"""Device rules as a program for the kernel: a cgroup v2 has no files for them. Pure.

1. Deny by default: the last instructions refuse, and only a whole match before them allows.
2. Loads, comparisons with constants, jumps ahead: every program of this form passes the kernel's verifier.

The program is run for each open and mknod of a device node, with a `struct bpf_cgroup_dev_ctx` (linux/bpf.h) in
register 1: access and kind in one word, major, minor. It returns 1 to allow, 0 to refuse with EPERM. Encoding: the
kernel's Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from batchns.kernel.cgroups.interface import Device


class Op(IntEnum):
    """The few that are needed: class, operation and source in one byte (linux/bpf_common.h, linux/bpf.h)."""

    LOAD_WORD = 0x61  # BPF_LDX | BPF_MEM | BPF_W: dst = *(u32 *)(src + offset)
    MOVE = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K: dst = value
    COPY = 0xBF  # BPF_ALU64 | BPF_MOV | BPF_X: dst = src
    AND = 0x57  # BPF_ALU64 | BPF_AND | BPF_K: dst &= value
    SHIFT_RIGHT = 0x77  # BPF_ALU64 | BPF_RSH | BPF_K: dst >>= value
    JUMP_UNLESS_EQUAL = 0x55  # BPF_JMP | BPF_JNE | BPF_K: skip `offset` instructions unless dst == value
    EXIT = 0x95  # BPF_JMP | BPF_EXIT: return register 0


class Instruction(NamedTuple):
    """As `kernel.bpf.assemble` takes it. `value` is sign-extended by the kernel, so never above 2^31 - 1."""

    op: Op
    dst: int = 0
    src: int = 0
    offset: int = 0
    value: int = 0


KINDS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
MKNOD, READ, WRITE = 1, 2, 4  # BPF_DEVCG_ACC_*
_RESULT, _CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR = range(6)


def program(devices: Sequence[Device]) -> tuple[Instruction, ...]:
    """Reading and writing `devices` is allowed, all else refused."""
    return (
        Instruction(Op.LOAD_WORD, _KIND, _CONTEXT, offset=0),
        Instruction(Op.LOAD_WORD, _MAJOR, _CONTEXT, offset=4),
        Instruction(Op.LOAD_WORD, _MINOR, _CONTEXT, offset=8),
        Instruction(Op.COPY, _ACCESS, _KIND),
        Instruction(Op.AND, _KIND, value=0xFFFF),
        Instruction(Op.SHIFT_RIGHT, _ACCESS, value=16),
        # Making a node is in no rule, so it is refused once for all of them.
        Instruction(Op.AND, _ACCESS, value=MKNOD),
        *_only(_ACCESS, 0, then=tuple(step for device in devices for step in _allow(device))),
        Instruction(Op.MOVE, _RESULT, value=0),
        Instruction(Op.EXIT),
    )


def _allow(device: Device) -> tuple[Instruction, ...]:
    """Leave the program with "yes" for this device; go on behind it for any other."""
    allowed: tuple[Instruction, ...] = (Instruction(Op.MOVE, _RESULT, value=1), Instruction(Op.EXIT))
    if device.minor is not None:
        allowed = _only(_MINOR, device.minor, then=allowed)
    return _only(_KIND, KINDS[device.kind], then=_only(_MAJOR, device.major, then=allowed))


def _only(register: int, value: int, *, then: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """Go through `then` where `register` is `value`, else past it."""
    return (Instruction(Op.JUMP_UNLESS_EQUAL, register, offset=len(then), value=value), *then)
