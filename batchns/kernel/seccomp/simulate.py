"""What a seccomp program answers, found out without a kernel: the few classic BPF instructions that filters use.

Source: include/uapi/linux/bpf_common.h, Documentation/networking/filter.rst; struct seccomp_data in
include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from batchns.kernel.seccomp.load import INSTRUCTION

Instruction = tuple[int, int, int, int]  # code, jt, jf, k

LD_ABS, AND_K, JA, JEQ, JGT, JGE, JSET, RET_K = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06


def instructions(program: bytes) -> list[Instruction]:
    """The instructions of `program`."""
    return list(INSTRUCTION.iter_unpack(program))


def run(program: Sequence[Instruction], arch: int, number: int, arguments: Sequence[int]) -> int:
    """The SECCOMP_RET_* value for system call `number` (32 bits) with six arguments (64 bits each).

    `arch` is an AUDIT_ARCH_* value.

    Raises:
        ValueError: an instruction that libseccomp does not generate.
    """
    words = struct.unpack("=16I", struct.pack("=IIQ6Q", number, arch, 0, *arguments))
    accumulator = position = 0
    while True:
        code, if_true, if_false, k = program[position]
        position += 1
        if code == JEQ:
            position += if_true if accumulator == k else if_false
        elif code == LD_ABS:
            accumulator = words[k // 4]
        elif code == JGE:
            position += if_true if accumulator >= k else if_false
        elif code == RET_K:
            return k
        elif code == JA:
            position += k
        elif code == AND_K:
            accumulator &= k
        elif code == JGT:
            position += if_true if accumulator > k else if_false
        elif code == JSET:
            position += if_true if accumulator & k else if_false
        else:
            raise ValueError(f"BPF instruction {code:#x}")
