"""The few commands of bpf(2) that arrays and programs on cgroups need, and an assembler for short programs.

1. One function makes one call and raises `OSError` with the command's name and the kernel's errno.
2. Nothing is pinned: a program lives as long as the cgroup that it is attached to, or a socket that was made there.
3. Few imports: the launcher carries this module.

Sources: include/uapi/linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
NR_BPF = 321 if os.uname().machine == "x86_64" else 280

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _PROG_ATTACH, _MAP_BY_ID, _PROG_QUERY = 0, 1, 2, 5, 8, 14, 16
_ARRAY = 2
_ALLOW_MULTI = 2  # beside what systemd and others attach, whose word counts as well
_ATTRIBUTES = 128  # bytes: zeros beyond what a command knows are ignored

CGROUP_SKB, SOCK_OPS, CGROUP_DEVICE = 8, 13, 15  # types of programs
INET_INGRESS, INET_EGRESS, CGROUP_SOCK_OPS, DEVICES = 0, 1, 3, 6  # places of attachment
_MOST = 64  # programs that the kernel takes at one place of one cgroup

LOAD_MAP = 0x18  # the one instruction that takes the room of two
Instruction = tuple[int, int, int, int | str, int]  # opcode, destination, source, offset or label, immediate


def assemble(lines: Sequence[Instruction | str]) -> bytes:
    """The program in the kernel's form; a string is a label of what follows it."""
    labels, at = {}, 0
    for line in lines:
        if isinstance(line, str):
            labels[line] = at
        else:
            at += 2 if line[0] == LOAD_MAP else 1
    code = b""
    for line in lines:
        if isinstance(line, str):
            continue
        opcode, destination, source, offset, immediate = line
        if isinstance(offset, str):
            offset = labels[offset] - len(code) // 8 - 1
        code += struct.pack("=BBhi", opcode, _registers(destination, source), offset, immediate)
        code += bytes(8) if opcode == LOAD_MAP else b""
    return code


def _registers(destination: int, source: int) -> int:
    """Two bit fields in one byte, the first one in the lower half on little-endian machines."""
    return destination | source << 4 if sys.byteorder == "little" else destination << 4 | source


def make_array(size: int, entries: int) -> int:
    """A descriptor of an array of `entries` values of `size` bytes."""
    return _bpf("map create", _MAP_CREATE, struct.pack("=5I", _ARRAY, 4, size, entries, 0))


def map_id(array: int) -> int:
    """The number under which `open_map` finds it, for as long as a program or a descriptor holds it. bpf(2), fdinfo."""
    fd = os.open(f"/proc/self/fdinfo/{array}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(fd, 4096).decode().splitlines()
    finally:
        os.close(fd)
    return next(int(line.split()[1]) for line in lines if line.startswith("map_id:"))


def open_map(number: int) -> int:
    """Another descriptor of it. Raises OSError: ENOENT where it is gone."""
    return _bpf("map by id", _MAP_BY_ID, struct.pack("=3I", number, 0, 0))


def put(array: int, index: int, value: bytes) -> None:
    """Write an entry."""
    key, buffer = ctypes.c_uint32(index), ctypes.create_string_buffer(value, len(value))
    _bpf("map update", _MAP_UPDATE, _element(array, key, buffer))


def get(array: int, index: int, size: int) -> bytes:
    """Read an entry of `size` bytes."""
    key, buffer = ctypes.c_uint32(index), ctypes.create_string_buffer(size)
    _bpf("map lookup", _MAP_LOOKUP, _element(array, key, buffer))
    return buffer.raw


def load(kind: int, place: int, code: bytes, name: bytes) -> int:
    """A descriptor of the program, which the kernel has verified. `place`: where it will be attached.

    `name`: as bpftool shows it, at most 15 letters, digits and underscores.
    """
    buffer, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(kind, len(code) // 8, ctypes.addressof(buffer), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0, name, 0, place),
    )
    return _bpf("program load", _PROG_LOAD, attributes)


def attach(program: int, cgroup: int, place: int) -> None:
    """Have the program run for what the processes of the cgroup, a descriptor of its directory, do at `place`.

    Beside those that it has, and below those above it.
    """
    _bpf("program attach", _PROG_ATTACH, struct.pack("=5I", cgroup, program, place, _ALLOW_MULTI, 0))


def count(cgroup: int, place: int) -> int:
    """How many are attached to this very cgroup at `place`."""
    ids = (ctypes.c_uint32 * _MOST)()
    # target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt
    attributes = struct.pack("=IIIIQII", cgroup, place, 0, 0, ctypes.addressof(ids), len(ids), 0)
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    _call("program query", _PROG_QUERY, buffer)
    found: int = struct.unpack_from("=I", buffer, 24)[0]
    return found


def _element(array: int, key: ctypes.c_uint32, value: ctypes.Array[ctypes.c_char]) -> bytes:
    return struct.pack("=I4xQQQ", array, ctypes.addressof(key), ctypes.addressof(value), 0)


def _bpf(name: str, command: int, attributes: bytes) -> int:
    return _call(name, command, ctypes.create_string_buffer(attributes, _ATTRIBUTES))


def _call(name: str, command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    result: int = _libc.syscall(ctypes.c_long(NR_BPF), ctypes.c_int(command), buffer, ctypes.c_uint(_ATTRIBUTES))
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"bpf {name}: {os.strerror(errno)}")
    return result
