"""Attacks of one job on another: what judges each, and where it is shown to work."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from . import judges
from .scene import throwaway
from .table import Attack, Judge, Seen

MODULE = "interference"


def fails(what: str) -> Judge:
    """A neighbour could do it before the first attack, and cannot any more: of the same user, or of another."""

    def judge(seen: Seen) -> tuple[str, ...]:
        return tuple(whose for whose, failed in seen.scene.failures() if what in failed)

    return judge


def reached(what: str) -> Judge:
    """A neighbour has received something there."""
    return lambda seen: any(one.counts()[what] > 0 for one in seen.scene.neighbours)


def neighbour_gone(seen: Seen) -> bool:
    """It is not there, is stopped, or has less than it had."""
    for one in seen.scene.known["neighbours"]:
        try:
            state = Path(f"/proc/{one['pid']}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "TZX" or os.getpriority(os.PRIO_PROCESS, one["pid"]) != 0:
            return True
    return False


def neighbour_traced(seen: Seen) -> bool:
    statuses = [Path(f"/proc/{one['pid']}/status").read_text() for one in seen.scene.known["neighbours"]]
    return any("TracerPid:\t0\n" not in status for status in statuses)


def raw_socket(seen: Seen) -> bool:
    return judges.holds_socket(17)(seen) or judges.holds_socket(socket.AF_INET6, socket.SOCK_RAW)(seen)


def socket_memory(seen: Seen) -> bool:
    """The sockets of its namespaces hold more than the job may have (512 MiB; the kernel counts for all at once)."""
    return judges.tcp_pages() - seen.before["tcp_pages"] > (600 << 20) // 4096


_PIPES = "buffers of pipes are counted by the host's user, whatever namespace that is in"


def _whole_machine() -> str:
    return "" if throwaway() else "would take up the whole machine that it is shown on"


def _of_all() -> str:
    return "" if throwaway() else "would take it from everybody on the machine that it is shown on"


INTERFERENCE = (
    Attack(name="kill_the_neighbour", hidden=True, judge=neighbour_gone, disturbs=True),
    Attack(name="trace_the_neighbour", hidden=True, judge=neighbour_traced, disturbs=True),
    Attack(name="files_of_the_neighbour", hidden=True, judge=judges.loot),
    Attack(name="memory_of_the_neighbour", judge=judges.loot),
    Attack(name="messages_of_the_neighbour", hidden=True, judge=judges.loot),
    Attack(name="socket_of_the_neighbour", hidden=True, judge=reached("abstract")),
    Attack(name="port_of_the_neighbour", judge=reached("tcp")),
    Attack(name="datagrams_to_the_neighbour", judge=reached("udp")),
    Attack(name="answer_for_the_neighbour", judge=raw_socket, control="root"),
    Attack(name="use_up_inotify", judge=fails("inotify"), of_a_user=True),
    Attack(name="use_up_terminals", judge=fails("terminal"), lacks=_of_all),
    Attack(name="use_up_signals", judge=fails("timer"), of_a_user=True),
    Attack(name="use_up_messages", judge=fails("messages"), of_a_user=True),
    Attack(name="use_up_asynchronous_requests", judge=judges.asynchronous_requests, lacks=_of_all),
    Attack(name="use_up_shared_memory", judge=fails("shared_memory"), lacks=_of_all),
    Attack(name="use_up_pipes", judge=fails("pipes"), of_a_user=True, shared=_PIPES),
    Attack(name="use_up_socket_memory", judge=socket_memory, lacks=_whole_machine),
    Attack(name="use_up_files", judge=judges.files_taken, apart=True),
    Attack(name="use_up_processes", judge=judges.processes_taken, apart=True),
)
