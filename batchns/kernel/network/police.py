"""The rates of a job in the host's own network: a token bucket for what the sockets of its cgroup send and receive.

1. BPF programs on the job's cgroup v2: no link, queue or rule of the host's is touched, nobody else's packet is looked
   at, and nothing has to be undone: the programs go with the cgroup, and with the last socket that was made in it.
2. What goes over the rate is dropped, as a policer does; there is no queue. TCP is told to pace itself besides.
3. A rate means what it means on a link of a job's own (`shaper`): payload of full-size segments. The headers of every
   segment of an offloaded packet count.
4. What does not leave the host (its loopback, its own addresses) is neither limited nor counted.

The bucket: a sender whose packet is dropped before it leaves has nothing on the way whose acknowledgement could tell
it to go on, and tries again after TCP's shortest timeout, 200 ms. A bucket of less holds it below its rate: measured
with one connection, 50 ms give 0.25 to 0.28 of the rate, 100 ms 0.5, 300 ms 0.93 to 1.01. With pacing the one
connection's egress is 0.995 to 1.002 of it at any size.

Sources: include/uapi/linux/bpf.h (struct __sk_buff, struct bpf_sock_ops), kernel/bpf/cgroup.c on what a program's
answers mean: egress 2 is a congested queue, which TCP understands, where 0 would be EPERM for the program that sends.
"""

from __future__ import annotations

import os
import struct

from batchns.kernel import bpf
from batchns.kernel.network.shaper import ETHERNET_HEADER, SEGMENT_HEADERS, frame_rate, payload_rate
from batchns.kernel.network.types import Counters, NetworkPlan, Shapers

NO_TREE = (
    "rates in the host's network need a cgroup v2 tree, and none is mounted here: "
    "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
)
NAME = b"batchns_rates"  # of the programs, as bpftool shows them
_BUCKET_NS = 300_000_000
_LOOPBACK = 1  # its index in every network namespace
_WIDEST_PACE = 0xFFFFFFFF  # bytes per second: what is not below this means "as fast as it goes"

# One entry for each direction: bytes of frames per second (0: no limit), ns of the bucket, the moment (ktime) up to
# which all that has passed is paid for, bytes passed, packets dropped.
_BUCKET = struct.Struct("=5Q")
_RATE, _DEPTH, _PAID, _PASSED, _DROPPED = range(0, 40, 8)
_INGRESS, _EGRESS = 0, 1

# struct __sk_buff, struct bpf_sock_ops
_LEN, _IFINDEX, _GSO_SEGS = 0, 40, 164
_OP, _FAMILY, _REMOTE_IP4, _LOCAL_IP4, _REMOTE_IP6, _LOCAL_IP6 = 0, 20, 24, 28, 32, 48
_ESTABLISHED = (4, 5)  # BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, ..._PASSIVE_...
_AF_INET = 2
_SOL_SOCKET, _SO_MAX_PACING_RATE = 1, 47
_LOOKUP, _KTIME, _SETSOCKOPT = 1, 5, 49  # enum bpf_func_id

# Opcodes that are used: 64 bits wide but for loads and stores of other widths.
_MOV, _MOVI, _ADD, _ADDI, _SUB, _DIV, _MULI = 0xBF, 0xB7, 0x0F, 0x07, 0x1F, 0x3F, 0x27
_LDW, _LDD, _STW, _STWI, _ATOMIC = 0x61, 0x79, 0x63, 0x62, 0xDB
_JMP, _JEQ, _JEQI, _JNE, _JNEI, _JLEI, _JSGE, _JSGT = 0x05, 0x1D, 0x15, 0x5D, 0x55, 0xB5, 0x7D, 0x6D
_CALL, _EXIT = 0x85, 0x95
_CMPXCHG = 0xF1
_MAP_FD = 1  # "source" of the instruction that loads a map


def attach(directory: str, plan: NetworkPlan) -> int:
    """Limit and count what the sockets of the cgroup v2 at `directory` do: a descriptor for `rates` and `counters`.

    Raises:
        OSError: the call and errno: a kernel without it (CONFIG_CGROUP_BPF), no right to it, or a program of somebody
            else's above that wants to be alone. Nothing is left, but for what goes with the cgroup.
    """
    array = _make(plan)
    try:
        cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for kind, place, code in _programs(array, plan):
                program = bpf.load(kind, place, code, NAME)
                try:
                    bpf.attach(program, cgroup, place)
                finally:
                    os.close(program)
        finally:
            os.close(cgroup)
    except BaseException:
        os.close(array)
        raise
    return array


def attempt() -> None:
    """Have the kernel verify the programs, and attach none.

    Raises:
        OSError: it does not take them.
    """
    plan = NetworkPlan("host", egress=8000, ingress=8000)
    array = _make(plan)
    try:
        for kind, place, code in _programs(array, plan):
            os.close(bpf.load(kind, place, code, NAME))
    finally:
        os.close(array)


def rates(array: int, mtu: int) -> Shapers:
    """The rates that the programs in the kernel hold to."""
    found = [_read(array, direction)[0] for direction in (_EGRESS, _INGRESS)]
    egress, ingress = (payload_rate(frames, mtu) if frames else None for frames in found)
    return Shapers(egress=egress, ingress=ingress)


def counters(array: int) -> Counters:
    """What has passed so far: bytes of frames, as they are counted on a link of a job's own."""
    return Counters(sent_bytes=_read(array, _EGRESS)[3], received_bytes=_read(array, _INGRESS)[3])


def _read(array: int, direction: int) -> tuple[int, ...]:
    return _BUCKET.unpack(bpf.get(array, direction, _BUCKET.size))


def _make(plan: NetworkPlan) -> int:
    array = bpf.make_array(_BUCKET.size, 2)
    for direction, rate in ((_INGRESS, plan.ingress), (_EGRESS, plan.egress)):
        frames = frame_rate(rate, plan.mtu) if rate else 0
        bpf.put(array, direction, _BUCKET.pack(frames, _BUCKET_NS, 0, 0, 0))
    return array


def _programs(array: int, plan: NetworkPlan) -> list[tuple[int, int, bytes]]:
    """(type, place, code) of what this plan needs."""
    found = [
        (bpf.CGROUP_SKB, bpf.INET_EGRESS, bpf.assemble(_bucket(array, _EGRESS, refusal=2))),
        (bpf.CGROUP_SKB, bpf.INET_INGRESS, bpf.assemble(_bucket(array, _INGRESS, refusal=0))),
    ]
    if plan.egress and plan.egress // 8 < _WIDEST_PACE:
        found.append((bpf.SOCK_OPS, bpf.CGROUP_SOCK_OPS, bpf.assemble(_pacer(plan.egress // 8))))
    return found


def _bucket(array: int, direction: int, *, refusal: int) -> list[bpf.Instruction | str]:
    """One packet: it passes while all before it is paid for, and then has to be paid for itself.

    Two CPUs at a time may both let one pass, and both are charged: the debt is kept, so the rate holds.
    """
    return [
        *((_MOV, 6, 1, 0, 0), (_LDW, 2, 6, _IFINDEX, 0), (_JEQI, 2, 0, "let go", _LOOPBACK)),
        *((_STWI, 10, 0, -4, direction), (bpf.LOAD_MAP, 1, _MAP_FD, 0, array), (_MOV, 2, 10, 0, 0)),
        *((_ADDI, 2, 0, 0, -4), (_CALL, 0, 0, 0, _LOOKUP), (_JEQI, 0, 0, "let go", 0), (_MOV, 7, 0, 0, 0)),
        # r8: bytes of its frames
        *((_LDW, 8, 6, _LEN, 0), (_ADDI, 8, 0, 0, ETHERNET_HEADER)),
        *((_LDW, 2, 6, _GSO_SEGS, 0), (_JLEI, 2, 0, "counted", 1)),
        *((_ADDI, 2, 0, 0, -1), (_MULI, 2, 0, 0, ETHERNET_HEADER + SEGMENT_HEADERS), (_ADD, 8, 2, 0, 0)),
        "counted",
        *((_LDD, 9, 7, _RATE, 0), (_JEQI, 9, 0, "pass", 0)),
        # r6: now; r4: the moment from which on an idle job's bucket is full; r3: paid up to
        *((_CALL, 0, 0, 0, _KTIME), (_MOV, 6, 0, 0, 0), (_MOV, 4, 6, 0, 0)),
        *((_LDD, 2, 7, _DEPTH, 0), (_SUB, 4, 2, 0, 0), (_LDD, 3, 7, _PAID, 0), (_JSGE, 3, 4, "not idle", 0)),
        *((_MOV, 0, 3, 0, 0), (_ATOMIC, 7, 4, _PAID, _CMPXCHG), (_LDD, 3, 7, _PAID, 0)),
        "not idle",
        (_JSGT, 3, 6, "refuse", 0),
        *((_MOV, 4, 8, 0, 0), (_MULI, 4, 0, 0, 1_000_000_000), (_DIV, 4, 9, 0, 0), (_ATOMIC, 7, 4, _PAID, 0)),
        "pass",
        (_ATOMIC, 7, 8, _PASSED, 0),
        "let go",
        *((_MOVI, 0, 0, 0, 1), (_EXIT, 0, 0, 0, 0)),
        "refuse",
        *((_MOVI, 1, 0, 0, 1), (_ATOMIC, 7, 1, _DROPPED, 0), (_MOVI, 0, 0, 0, refusal), (_EXIT, 0, 0, 0, 0)),
    ]


def _pacer(pace: int) -> list[bpf.Instruction | str]:
    """Every TCP connection of the job's to another machine sends no faster than `pace` bytes per second."""
    six: list[bpf.Instruction | str] = []
    for word in range(0, 16, 4):
        six += [(_LDW, 2, 6, _REMOTE_IP6 + word, 0), (_LDW, 3, 6, _LOCAL_IP6 + word, 0), (_JNE, 2, 3, "pace", 0)]
    return [
        *((_MOV, 6, 1, 0, 0), (_LDW, 2, 6, _OP, 0)),
        *((_JEQI, 2, 0, "established", _ESTABLISHED[0]), (_JNEI, 2, 0, "end", _ESTABLISHED[1])),
        "established",
        *((_LDW, 2, 6, _FAMILY, 0), (_JNEI, 2, 0, "six", _AF_INET)),
        *((_LDW, 2, 6, _REMOTE_IP4, 0), (_LDW, 3, 6, _LOCAL_IP4, 0), (_JEQ, 2, 3, "end", 0), (_JMP, 0, 0, "pace", 0)),
        "six",
        *six,
        (_JMP, 0, 0, "end", 0),
        "pace",
        *((_MOVI, 1, 0, 0, pace - (1 << 32 if pace >> 31 else 0)), (_STW, 10, 1, -4, 0), (_MOV, 1, 6, 0, 0)),
        *((_MOVI, 2, 0, 0, _SOL_SOCKET), (_MOVI, 3, 0, 0, _SO_MAX_PACING_RATE), (_MOV, 4, 10, 0, 0)),
        *((_ADDI, 4, 0, 0, -4), (_MOVI, 5, 0, 0, 4), (_CALL, 0, 0, 0, _SETSOCKOPT)),
        "end",
        *((_MOVI, 0, 0, 0, 1), (_EXIT, 0, 0, 0, 0)),
    ]
