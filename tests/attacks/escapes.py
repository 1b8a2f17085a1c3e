"""Attacks that would leave the sandbox: what judges each, and where it is shown to work."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

from batchns.kernel import landlock

from . import judges, scene
from .inside import kit
from .table import Attack

MODULE = "escapes"


def _without(path: str, what: str) -> str:
    return "" if Path(path).exists() else f"this kernel has no {what}"


def _file_systems(*names: str) -> str:
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    return "" if known & {*names} else f"this kernel has no {', '.join(names)}"


def _setting(path: str, wanted: str, why: str) -> str:
    there = Path(path)
    return why if there.exists() and there.read_text().strip() != wanted else ""


def _socket(family: int, what: str) -> str:
    kind = socket.SOCK_SEQPACKET if family == 38 else socket.SOCK_STREAM
    try:
        socket.socket(family, kind).close()
    except OSError:
        return f"this kernel has no {what}"
    return ""


def _disk() -> str:
    return "" if scene.disk_opens() else "no disk of this machine can be opened"


def _no_x32() -> str:
    try:
        kit.number(39 | 0x40000000)  # getpid
    except OSError:
        return "this kernel has no x32 calls"
    return ""


def _ia32() -> str:
    symbols = Path("/proc/kallsyms").read_text() if platform.machine() == "x86_64" else ""
    return "" if "entry_INT80" in symbols or "int80_emulation" in symbols else "this kernel has no 32-bit calls"


def _perf() -> str:
    return _without("/proc/sys/kernel/perf_event_paranoid", "perf events")


def _modules() -> str:
    return _without("/proc/modules", "modules")


def _not_here() -> str:
    return "" if scene.throwaway() else "would change the machine that it is shown on"


def _socket_gap() -> str:
    """Why services of the host's root are reached by their sockets here; "" where Landlock keeps from it."""
    why = "a read-only mount does not keep from connecting, nor this kernel's Landlock"
    return "" if landlock.version() >= 9 else why


_NO_CODE = "needs a module that this kernel would take"

ESCAPES = (
    # Files
    Attack(name="proc_1_root", hidden=True, judge=judges.loot, control="namespaces"),
    Attack(name="proc_roots", hidden=True, judge=judges.loot),
    Attack(name="inherited_descriptors", hidden=True, judge=judges.loot, control="chroot"),
    Attack(name="working_folder_outside", hidden=True, judge=judges.loot, control="chroot"),
    Attack(name="chroot_twice", hidden=True, judge=judges.loot, control="chroot"),
    Attack(name="open_by_handle_at", hidden=True, judge=judges.loot, control="root"),
    Attack(name="write_read_only_root", judge=judges.canary_changed),
    Attack(name="hidden_files", hidden=True, judge=judges.loot),
    Attack(name="own_program", hidden=True, judge=judges.holds_for_writing("python|launcher"), control="launcher"),
    # Mounts
    Attack(name="remount_writable", judge=judges.canary_changed, control="namespaces"),
    Attack(name="mount_setattr_writable", judge=judges.canary_changed, control="namespaces"),
    Attack(name="bind_over", judge=judges.mounts_changed, control="namespaces"),
    Attack(name="move_mount_away", judge=judges.mounts_changed, control="namespaces"),
    Attack(name="mount_tmpfs", judge=judges.mounts_changed, control="namespaces"),
    Attack(name="mount_cgroups", judge=judges.mounts_changed, control="namespaces"),
    Attack(name="mount_proc", judge=judges.mounts_changed, control="namespaces"),
    Attack(
        name="mount_debug",
        judge=judges.mounts_changed,
        control="namespaces",
        lacks=lambda: _file_systems("debugfs", "tracefs", "securityfs"),
    ),
    Attack(name="mount_by_new_calls", judge=judges.mounts_changed, control="namespaces"),
    Attack(name="clone_a_tree", judge=judges.mounts_changed, control="namespaces"),
    Attack(name="unmount", judge=judges.mounts_changed, control="namespaces"),
    Attack(name="pivot", judge=judges.mounts_changed, control="namespaces"),
    # Devices
    Attack(name="make_devices", judge=judges.holds_device(), control="root", lacks=_disk),
    Attack(name="device_in_a_bind", judge=judges.holds_device(), lacks=_disk),
    Attack(name="devices_of_the_host", hidden=True, judge=judges.holds_device(), control="root"),
    # Rights
    Attack(name="set_uid_program", hidden=True, judge=judges.loot),
    Attack(name="file_capabilities", judge=judges.loot),
    Attack(name="leave_a_set_uid_file", judge=judges.set_uid_left),
    Attack(name="become_another", judge=judges.another_user, control="root"),
    Attack(name="user_namespace", judge=judges.namespace("user")),
    Attack(name="user_namespace_by_clone", judge=judges.namespace("user")),
    Attack(name="user_namespace_by_32_bits", judge=judges.namespace("user"), lacks=_ia32),
    Attack(name="user_namespace_by_x32", judge=judges.namespace("user"), lacks=_no_x32),
    Attack(name="other_namespaces", judge=judges.namespace("mnt", "net", "ipc", "uts", "cgroup"), control="root"),
    Attack(name="enter_namespaces", hidden=True, judge=judges.namespace("mnt", "net", "user"), control="root"),
    Attack(name="parents_of_namespaces", judge=judges.holds_host_namespace, control="root"),
    # Processes
    Attack(name="trace_a_process", hidden=True, judge=judges.victim_traced),
    Attack(name="read_memory", hidden=True, judge=judges.loot),
    Attack(name="write_memory", hidden=True, judge=judges.victim_changed),
    Attack(name="take_a_descriptor", hidden=True, judge=judges.loot),
    Attack(name="compare_processes", judge=judges.order_known),
    Attack(name="environment_of_a_process", hidden=True, judge=judges.loot),
    Attack(name="kill_a_process", judge=judges.prey_gone),
    Attack(name="renice_a_user", judge=judges.victim_niced),
    # Communication
    Attack(name="abstract_socket", hidden=True, judge=judges.accepted("abstract")),
    Attack(name="socket_in_tmp", hidden=True, judge=judges.accepted("socket")),
    Attack(
        name="socket_in_the_root",
        judge=judges.accepted("public_socket"),
        gap=_socket_gap(),
    ),
    Attack(name="service_of_the_host", judge=judges.accepted("port")),
    Attack(name="shared_memory", judge=judges.loot),
    Attack(name="message_queue", hidden=True, judge=judges.loot),
    Attack(name="keys", hidden=True, judge=judges.loot),
    Attack(name="request_a_key", hidden=True, judge=judges.loot),
    Attack(name="leave_a_key", judge=judges.key_left),
    Attack(name="sniff", judge=judges.holds_socket(17), control="root"),
    Attack(name="raw_socket", judge=judges.holds_raw_socket, control="root"),
    Attack(
        name="kernel_cryptography",
        judge=judges.holds_socket(38),
        lacks=lambda: _socket(38, "AF_ALG"),
    ),
    Attack(
        name="hypervisor_socket",
        judge=judges.holds_socket(40),
        lacks=lambda: _socket(40, "AF_VSOCK"),
    ),
    Attack(name="netlink", judge=judges.holds_socket(16)),
    Attack(name="change_the_network", judge=judges.address_added, control="namespaces"),
    # Parts of the kernel
    Attack(
        name="io_uring",
        judge=judges.holds(r"\[io_uring\]"),
        lacks=lambda: _setting("/proc/sys/kernel/io_uring_disabled", "0", "io_uring is switched off on this machine"),
    ),
    Attack(name="userfaultfd", judge=judges.holds(r"\[userfaultfd\]")),
    Attack(name="load_bpf", judge=judges.holds("bpf-map"), control="root"),
    Attack(name="perf_events", judge=judges.holds(r"\[perf_event\]"), lacks=_perf),
    Attack(name="fanotify", judge=judges.holds(r"\[fanotify\]"), control="root"),
    Attack(name="kernel_log", hidden=True, judge=judges.log_read, control="root"),
    Attack(name="load_a_module", judge=judges.modules_changed, lacks=lambda: _modules() or _NO_CODE),
    Attack(name="swap", judge=judges.swap_on, control="root", lacks=_not_here),
    Attack(name="set_the_clock", judge=judges.clock_set, control="root", lacks=_not_here),
    Attack(name="host_name", judge=judges.host_name_changed, control="namespaces"),
    Attack(name="weak_memory_layout", judge=judges.personality),
    # Settings
    Attack(name="core_pattern", hidden=True, judge=judges.holds_for_writing("core_pattern"), control="root"),
    Attack(
        name="modprobe_path",
        hidden=True,
        judge=judges.holds_for_writing("sys/kernel"),
        control="root",
        lacks=lambda: "" if any(map(os.path.exists, _HELPERS)) else "this kernel starts no such programs",
    ),
    Attack(
        name="binary_formats",
        hidden=True,
        judge=judges.holds_for_writing("binfmt_misc"),
        control="root",
        lacks=lambda: _without("/proc/sys/fs/binfmt_misc/register", "binfmt_misc mounted"),
    ),
    Attack(
        name="system_request",
        hidden=True,
        judge=judges.holds_for_writing("sysrq-trigger"),
        control="root",
        lacks=lambda: _without("/proc/sysrq-trigger", "sysrq"),
    ),
    Attack(name="kernel_settings", hidden=True, judge=judges.holds_for_writing("^/proc/sys/"), control="root"),
    Attack(name="devices_settings", hidden=True, judge=judges.holds_for_writing("^/sys/"), control="root"),
    Attack(
        name="cgroup_files",
        hidden=True,
        judge=judges.holds_for_writing("/(release_agent|cgroup|tasks|memory)"),
        control="root",
    ),
    Attack(name="move_between_cgroups", judge=judges.moved, control="root", hidden=True),
    Attack(name="freeze_itself", judge=judges.holds_for_writing("freez|cgroup.kill"), control="root", hidden=True),
    Attack(
        name="hidden_information",
        hidden=True,
        judge=judges.holds("^/proc/(kcore|kallsyms|keys|iomem|slabinfo|timer_list|vmallocinfo|interrupts)|DMI"),
        control="root",
    ),
)
_HELPERS = (
    *(f"/proc/sys/kernel/{name}" for name in ("modprobe", "hotplug")),
    "/sys/kernel/uevent_helper",
)
