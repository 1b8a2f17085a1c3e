"""The program that stands for device rules: run here, instruction by instruction, against the list itself."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.kernel.bpf import assemble
from batchns.kernel.cgroups import device_program
from batchns.kernel.cgroups.interface import Device

MASK = (1 << 64) - 1
kinds = st.sampled_from("bc")
# Few and close, so that many match in part; and the largest that the kernel has (12 and 20 bits).
majors = st.integers(0, 3) | st.sampled_from([136, (1 << 12) - 1])
minors = st.integers(0, 3) | st.sampled_from([(1 << 20) - 1])
devices = st.builds(Device, kinds, majors, st.none() | minors)
accesses = st.integers(1, 7)  # any of mknod, read, write: as the kernel asks


def run(code: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """What the kernel would get back. Instruction set of linux/bpf.h; registers that were not set are an error."""
    context = struct.pack("=III", access << 16 | kind, major, minor)
    registers: dict[int, int] = {}
    position = steps = 0
    while True:
        steps += 1
        assert steps <= len(code) // 8, "a jump backwards"
        op, pair, offset, value = struct.unpack_from("=BBhi", code, position * 8)
        dst, src = (pair & 15, pair >> 4) if sys.byteorder == "little" else (pair >> 4, pair & 15)
        position += 1
        match op:
            case 0x61:
                assert src == 1, "loads are from the context only"
                assert offset in (0, 4, 8)
                registers[dst] = struct.unpack_from("=I", context, offset)[0]
            case 0xB7:
                registers[dst] = value & MASK
            case 0xBF:
                registers[dst] = registers[src]
            case 0x57:
                registers[dst] &= value & MASK
            case 0x77:
                registers[dst] >>= value
            case 0x55:
                assert offset >= 0
                position += offset if registers[dst] != value & MASK else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown instruction {op:#x}")


def allowed(rules: list[Device], kind: str, access: int, major: int, minor: int) -> bool:
    """The rule list, read literally."""
    if access & device_program.MKNOD:
        return False
    return any((rule.kind, rule.major) == (kind, major) and rule.minor in (None, minor) for rule in rules)


@given(st.lists(devices, max_size=12), kinds, accesses, majors, minors)
def test_a_program_says_what_its_rules_say(rules: list[Device], kind: str, access: int, major: int, minor: int) -> None:
    code = assemble(device_program.program(rules))
    assert run(code, device_program.KINDS[kind], access, major, minor) == allowed(rules, kind, access, major, minor)


@given(st.lists(devices, min_size=1, max_size=12), st.data())
def test_every_rule_is_heeded(rules: list[Device], data: st.DataObject) -> None:
    """What random questions seldom hit: each device of the list is allowed, wherever it stands."""
    rule = data.draw(st.sampled_from(rules))
    minor = data.draw(minors) if rule.minor is None else rule.minor
    code = assemble(device_program.program(rules))
    for access in (device_program.READ, device_program.WRITE, device_program.READ | device_program.WRITE):
        assert run(code, device_program.KINDS[rule.kind], access, rule.major, minor) == 1
        assert run(code, device_program.KINDS[rule.kind], access | device_program.MKNOD, rule.major, minor) == 0


def test_without_rules_everything_is_refused() -> None:
    code = assemble(device_program.program(()))
    assert {run(code, kind, access, 1, 3) for kind in (1, 2) for access in range(8)} == {0}


def test_instructions_are_encoded_as_the_kernel_has_them() -> None:
    """r0 = 1; exit: of the kernel's own samples. And two registers in one byte."""
    if sys.byteorder != "little":
        pytest.skip("the bytes are those of a little-endian machine")
    yes = device_program.Instruction(device_program.Op.MOVE, 0, value=1)
    code = assemble((yes, device_program.Instruction(device_program.Op.EXIT)))
    assert code == bytes.fromhex("b7000000010000009500000000000000")
    load = device_program.Instruction(device_program.Op.LOAD_WORD, 2, 1, offset=4)
    assert assemble((load,)) == bytes.fromhex("6112040000000000")
