"""Attacks that would leave the sandbox. Each function is one, and its first line says what it would gain."""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

from kit import (
    buffer,
    call,
    climb,
    compat,
    descriptors,
    each,
    hold,
    iovec,
    libc,
    loot,
    number,
    pids,
    say,
    scene,
    tell,
)

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 1, 32, 4096, 8192, 16384, 1 << 18
AT_FDCWD = -100


# Files


def proc_1_root() -> None:
    """files of the host through init's root"""
    each(*(lambda way=way: loot(f"/proc/1/{way}/{climb(scene()['secret'])}") for way in ("root", "cwd")))


def proc_roots() -> None:
    """files of the host through the root or working folder of any process"""
    secret = scene()["secret"]
    ways = [f"/proc/{pid}/{way}/{climb(secret)}" for pid in [*pids(), scene()["victim"]] for way in ("root", "cwd")]
    each(*(lambda way=way: loot(way) for way in ways))


def inherited_descriptors() -> None:
    """files of the host through a folder that somebody left open"""
    path = climb(scene()["secret"])

    def through(fd: int) -> None:
        tell(os.read(os.open(path, os.O_RDONLY, dir_fd=fd), 4096))

    each(*(lambda fd=fd: through(fd) for fd in descriptors()))


def working_folder_outside() -> None:
    """files of the host from a working folder that lies outside of the root (CVE-2024-21626)"""
    each(lambda: loot(climb(scene()["secret"])), lambda: loot(f"/proc/self/cwd/{climb(scene()['secret'])}"))


def chroot_twice() -> None:
    """the host's root: a working folder above a second root"""
    secret = scene()["secret"]
    os.makedirs("deeper", exist_ok=True)
    os.chroot("deeper")
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    loot(secret)


def open_by_handle_at() -> None:
    """any file of a mounted file system, by its handle ("shocker")"""
    kind, handle = scene()["handle"]
    content = bytes.fromhex(handle)
    given = buffer(struct.pack("Ii", len(content), kind) + content)
    fd = call("open_by_handle_at", os.open(".", os.O_RDONLY), given, os.O_RDONLY)
    tell(os.read(fd, 4096))


def write_read_only_root() -> None:
    """changed files of the host, those that are the submitter's own"""
    path = scene()["canary"]

    def append(way: str) -> None:
        with Path(way).open("a") as file:
            file.write("changed")

    each(lambda: append(path), lambda: append(f"/proc/self/root{path}"), lambda: append(climb(path)))
    each(lambda: os.rename(path, path + "x"), lambda: os.link(path, "linked"), lambda: append("linked"))


def hidden_files() -> None:
    """what the host has in /tmp, /run and /dev/shm"""
    each(*(lambda path=path: loot(path) for path in (scene()["secret"], scene()["shared"], scene()["planted"])))


def own_program() -> None:
    """a changed launcher, through /proc/PID/exe or a descriptor of it (CVE-2019-5736)"""
    ways = ["/proc/self/fd/8", *(f"/proc/{pid}/exe" for pid in (1, os.getppid(), *pids()))]
    if each(*(lambda way=way: os.open(way, os.O_WRONLY) for way in ways)):
        hold()


# Mounts


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    call("mount", source, target, kind or 0, flags, data or 0)


def remount_writable() -> None:
    """a writable root"""
    each(*(lambda at=at: mount("none", at, flags=MS_REMOUNT | MS_BIND) for at in (scene()["visible"], "/")))
    with Path(scene()["canary"]).open("a") as file:
        file.write("changed")


def mount_setattr_writable() -> None:
    """a writable root, by mount_setattr"""
    attributes = buffer(struct.pack("QQQQ", 0, 1, 0, 0))  # clear MOUNT_ATTR_RDONLY
    each(*(lambda at=at: call("mount_setattr", AT_FDCWD, at, 0, attributes, 32) for at in (scene()["visible"], "/")))
    with Path(scene()["canary"]).open("a") as file:
        file.write("changed")


def bind_over() -> None:
    """other content in the place of a file of the system's"""
    mount("reports", "/etc", flags=MS_BIND)
    hold()


def move_mount_away() -> None:
    """what lies below a mount"""
    each(*(lambda at=at: mount(at, "reports", flags=MS_MOVE) for at in (scene()["visible"], "/proc/sys", "/tmp")))
    hold()


def mount_tmpfs() -> None:
    """a file system of its own"""
    mount("attack", "reports", "tmpfs")
    hold()


def mount_cgroups() -> None:
    """cgroups: release_agent of v1, limits of both"""
    each(lambda: mount("attack", "reports", "cgroup2"), lambda: mount("attack", "reports", "cgroup", data="memory"))
    hold()


def mount_proc() -> None:
    """a /proc without masks"""
    mount("attack", "reports", "proc")
    hold()


def mount_debug() -> None:
    """debugfs, tracefs, securityfs"""
    each(*(lambda kind=kind: mount("attack", "reports", kind) for kind in ("debugfs", "tracefs", "securityfs")))
    hold()


def mount_by_new_calls() -> None:
    """a file system of its own, by fsopen, fsmount and move_mount"""
    fs = call("fsopen", "tmpfs", 0)
    call("fsconfig", fs, 6, 0, 0, 0)  # FSCONFIG_CMD_CREATE
    made = call("fsmount", fs, 0, 0)
    call("move_mount", made, "", AT_FDCWD, "reports", 4)  # MOVE_MOUNT_F_EMPTY_PATH
    hold()


def clone_a_tree() -> None:
    """a mount of the host's once more, by open_tree"""
    tree = call("open_tree", AT_FDCWD, "/etc", 1)  # OPEN_TREE_CLONE
    call("move_mount", tree, "", AT_FDCWD, "reports", 4)
    hold()


def unmount() -> None:
    """what the masks hide"""
    each(*(lambda at=at: call("umount2", at, 2) for at in scene()["masks"]))
    hold()


def pivot() -> None:
    """another root"""

    def to(folder: str) -> None:
        os.chdir(folder)
        call("pivot_root", ".", ".")

    if each(*(lambda folder=folder: to(folder) or True for folder in (scene()["visible"], "/tmp", "/"))):
        hold()


def make_devices() -> None:
    """the host's disk, through a node of its own"""
    major, minor = scene()["disk"]

    def make(folder: str) -> int:
        path = f"{folder}/{scene()['key']}"
        os.mknod(path, 0o666 | stat.S_IFBLK, os.makedev(major, minor))
        try:
            return os.open(path, os.O_RDONLY)
        finally:
            os.unlink(path)

    if each(*(lambda folder=folder: make(folder) for folder in (".", "/tmp", "/dev/shm", "/run"))):
        hold()


def device_in_a_bind() -> None:
    """the host's disk, through a node that lies in a folder of the job's"""
    os.open("disk", os.O_RDONLY)
    hold()


def devices_of_the_host() -> None:
    """devices of the host: kernel log, memory, loop, fuse, virtual machines"""
    names = ("kmsg", "mem", "port", "fuse", "kvm", "loop-control", "loop0", "vda", "ubda", "net/tun", "userfaultfd")
    got = each(*(lambda name=name: os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK) for name in names))
    if got:
        hold()


# Rights


def set_uid_program() -> None:
    """another user's rights, by a set-uid program in a bind"""
    tell(subprocess.run(["./set-uid-cat", "others"], capture_output=True, check=False).stdout)


def file_capabilities() -> None:
    """rights over all files, by a program with capabilities in a bind"""
    tell(subprocess.run(["./capable-cat", "others"], capture_output=True, check=False).stdout)


def leave_a_set_uid_file() -> None:
    """a set-uid program of the submitter's outside of the sandbox"""
    shutil.copy("/usr/bin/python3", "made-copy")
    how = buffer(struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0))
    each(
        lambda: os.chmod("made-copy", 0o4755),
        lambda: os.chmod("made-copy", 0o2755),
        lambda: os.close(os.open("made-open", os.O_CREAT | os.O_WRONLY, 0o4755)),
        lambda: os.close(call("openat2", AT_FDCWD, "made-openat2", how, 24)),
        lambda: os.mknod("made-mknod", 0o4755 | stat.S_IFREG),
        lambda: call("fchmodat2", AT_FDCWD, "made-copy", 0o4755, 0),
        lambda: os.mkdir("made-folder", 0o2755),
        lambda: libc.creat(b"made-creat", 0o4755),
        lambda: fcntl.fcntl(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o4755), fcntl.F_GETFD) and None,
    )


def become_another() -> None:
    """another user's or group's rights"""
    other = scene()["other"]
    each(
        lambda: os.setgroups([other]),
        lambda: os.setresgid(other, other, other),
        lambda: os.setresuid(other, other, other),
    )
    hold()


def user_namespace() -> None:
    """capabilities in namespaces of its own, by unshare"""
    call("unshare", NEWUSER)
    hold()


def user_namespace_by_clone() -> None:
    """the same by clone and clone3"""

    def clone(done: int) -> None:
        if done == 0:
            hold()

    arguments = buffer(struct.pack("QQQQQQQQ", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
    each(lambda: clone(call("clone3", arguments, 64)), lambda: clone(number(56, NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)))
    hold()


def user_namespace_by_32_bits() -> None:
    """the same by a 32-bit call, whose number means another one to a filter of 64-bit calls"""
    compat(310, NEWUSER)  # unshare of the 32-bit table
    hold()


def user_namespace_by_x32() -> None:
    """the same by a call of x32"""
    number(272 | 0x40000000, NEWUSER)
    hold()


def other_namespaces() -> None:
    """namespaces of its own without a user namespace"""
    each(*(lambda kind=kind: call("unshare", kind) for kind in (NEWNS, NEWNET, NEWIPC, NEWUTS, NEWCGROUP)))
    hold()


def enter_namespaces() -> None:
    """the namespaces of other processes"""
    victims = [1, scene()["victim"], *pids()]
    paths = [f"/proc/{pid}/ns/{kind}" for pid in victims for kind in ("user", "mnt", "uts", "ipc", "net", "cgroup")]
    before = {path: os.readlink(path) for path in (f"/proc/self/ns/{kind}" for kind in os.listdir("/proc/self/ns"))}

    def enter(path: str) -> None:
        if os.readlink(path) not in before.values():
            call("setns", os.open(path, os.O_RDONLY), 0)

    each(*(lambda path=path: enter(path) for path in paths))
    hold()


def parents_of_namespaces() -> None:
    """a descriptor of the host's user namespace, by its children"""
    kinds = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
    fds = each(*(lambda kind=kind: os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in kinds))
    each(*(lambda fd=fd, ask=ask: call("ioctl", fd, ask) for fd in fds for ask in (0xB701, 0xB702)))
    hold()


# Processes of the host


def trace_a_process() -> None:
    """a process of the host, by ptrace"""
    call("ptrace", 0x4206, scene()["victim"], 0, 0)  # PTRACE_SEIZE
    hold()


def read_memory() -> None:
    """the memory of a process of the host"""
    pid, (address, length) = scene()["victim"], scene()["memory"]
    room = buffer(bytes(length))
    read = lambda: call(  # noqa: E731
        "process_vm_readv", pid, iovec(ctypes.addressof(room), length), 1, iovec(address, length), 1, 0
    )
    each(read, lambda: tell(os.pread(os.open(f"/proc/{pid}/mem", os.O_RDONLY), length, address)))
    tell(room.raw)


def write_memory() -> None:
    """changed memory of a process of the host"""
    pid, (address, length) = scene()["victim"], scene()["scribble"]
    room = buffer(b"X" * length)
    write = lambda: call(  # noqa: E731
        "process_vm_writev", pid, iovec(ctypes.addressof(room), length), 1, iovec(address, length), 1, 0
    )
    each(write, lambda: os.pwrite(os.open(f"/proc/{pid}/mem", os.O_WRONLY), room.raw, address))


def take_a_descriptor() -> None:
    """an open file of a process of the host, by pidfd_getfd and /proc"""
    pid, fd = scene()["victim"], scene()["open"]
    each(
        lambda: tell(os.pread(call("pidfd_getfd", call("pidfd_open", pid, 0), fd, 0), 4096, 0)),
        lambda: loot(f"/proc/{pid}/fd/{fd}"),
    )


def compare_processes() -> None:
    """kernel addresses of a process of the host, in order, by kcmp"""
    say("order", *(call("kcmp", os.getpid(), scene()["victim"], kind, 0, 0) for kind in (1, 2, 3, 4, 5, 6)))
    hold()


def environment_of_a_process() -> None:
    """command line and environment of a process of the host"""
    each(*(lambda pid=pid: loot(f"/proc/{pid}/environ") for pid in [scene()["victim"], *pids()]))


def kill_a_process() -> None:
    """the end of a process of the host"""
    each(lambda: os.kill(scene()["prey"], signal.SIGKILL))


def renice_a_user() -> None:
    """less CPU for the submitter's other processes"""
    each(
        lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19),
        lambda: os.setpriority(os.PRIO_USER, 0, 19),
        lambda: os.setpriority(os.PRIO_PROCESS, scene()["victim"], 19),
    )


# Communication


def abstract_socket() -> None:
    """a service of the host on an abstract socket"""
    socket.socket(socket.AF_UNIX).connect("\0" + scene()["abstract"])


def socket_in_tmp() -> None:
    """a service of the host on a socket in /tmp, which passes a descriptor"""
    one = socket.socket(socket.AF_UNIX)
    one.connect(scene()["socket"])
    _, ancillary, _, _ = one.recvmsg(1, socket.CMSG_LEN(4))
    tell(os.pread(array.array("i", ancillary[0][2])[0], 4096, 0))


def socket_in_the_root() -> None:
    """a service of the host on a socket elsewhere that everybody may write to"""
    socket.socket(socket.AF_UNIX).connect(scene()["public_socket"])


def service_of_the_host() -> None:
    """a network service of the host, by any of its addresses"""
    for family, address in ((socket.AF_INET, one) for one in scene()["addresses"]):
        with socket.socket(family) as one:
            one.settimeout(0.3)
            each(lambda one=one, address=address: one.connect((address, scene()["port"])))
    with socket.socket(socket.AF_INET6) as one:
        one.settimeout(0.3)
        each(lambda: one.connect(("::1", scene()["port"])))


def shared_memory() -> None:
    """System V shared memory of the host"""
    libc.shmat.restype = ctypes.c_void_p
    found = libc.shmat(scene()["shm"], None, 0o10000)  # SHM_RDONLY
    if found not in (None, ctypes.c_void_p(-1).value):
        tell(ctypes.string_at(found, 64))


def message_queue() -> None:
    """messages of the host"""
    queue = libc.mq_open(scene()["queue"].encode(), os.O_RDONLY | os.O_NONBLOCK)
    room = ctypes.create_string_buffer(64)
    if queue >= 0 and libc.mq_receive(queue, room, 64, None) > 0:
        tell(room.raw)


def keys() -> None:
    """keys of the submitter's, which belong to no namespace"""
    found = call("keyctl", 10, -4, "user", scene()["key"], 0)  # KEYCTL_SEARCH in KEY_SPEC_USER_KEYRING
    room = ctypes.create_string_buffer(256)
    call("keyctl", 11, found, room, 256)
    tell(room.raw)


def request_a_key() -> None:
    """the same by request_key"""
    found = call("request_key", "user", scene()["key"], 0, -4)
    room = ctypes.create_string_buffer(256)
    call("keyctl", 11, found, room, 256)
    tell(room.raw)


def leave_a_key() -> None:
    """a key among the submitter's"""
    call("add_key", "user", scene()["key"] + "-left", "x", 1, -4)


def sniff() -> None:
    """packets of the network, by AF_PACKET"""
    socket.socket(17, socket.SOCK_RAW, socket.htons(3)).fileno()
    one = socket.socket(17, socket.SOCK_RAW, socket.htons(3))
    one.fileno()
    hold()


def raw_socket() -> None:
    """packets with any content, by raw sockets"""
    each_socket((socket.AF_INET, socket.SOCK_RAW, 255), (socket.AF_INET6, socket.SOCK_RAW, 255))


def kernel_cryptography() -> None:
    """a seldom used part of the kernel: AF_ALG"""
    each_socket((38, socket.SOCK_SEQPACKET, 0), (1 << 32 | 38, socket.SOCK_SEQPACKET, 0))


def hypervisor_socket() -> None:
    """the hypervisor, past the network namespace: AF_VSOCK"""
    each_socket((40, socket.SOCK_STREAM, 0))


def netlink() -> None:
    """other parts of the kernel by netlink: audit, netfilter, devices' events"""
    each_socket(*((socket.AF_NETLINK, socket.SOCK_RAW, protocol) for protocol in (9, 12, 15, 16, 4)))


def each_socket(*kinds: tuple[int, int, int]) -> None:
    if each(*(lambda kind=kind: number(41, *kind) for kind in kinds)):
        hold()


def change_the_network() -> None:
    """another address, another route"""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        address = struct.pack("BBBBI", 2, 32, 0, 0, 1) + struct.pack("HH4s", 8, 2, socket.inet_aton("10.99.99.99"))
        one.send(struct.pack("IHHII", 16 + len(address), 20, 0x605, 1, 0) + address)  # RTM_NEWADDR
        say(one.recv(4096)[16:20])
    hold()


# Terminals


def type_on_the_terminal() -> None:
    """a command typed for whoever reads the terminal next: TIOCSTI, with bits above the 32 that the kernel looks at"""
    for request in (0x5412, 1 << 32 | 0x5412, 0xFFFFFFFF00005412):
        for letter in b"attack":
            each(lambda letter=letter, request=request: call("ioctl", 0, request, buffer(bytes([letter]))))
    each(
        lambda: call("ioctl", 0, 0x541C, buffer(b"\3attack")), lambda: call("ioctl", 0, 1 << 32 | 0x541C, buffer(b"\3"))
    )


# Parts of the kernel


def io_uring() -> None:
    """calls past the filter: io_uring"""
    call("io_uring_setup", 4, buffer(bytes(120)))
    hold()


def userfaultfd() -> None:
    """stopped kernel code, a tool of exploits: userfaultfd"""
    call("userfaultfd", 1)  # UFFD_USER_MODE_ONLY
    hold()


def load_bpf() -> None:
    """programs in the kernel: bpf"""
    call("bpf", 0, buffer(struct.pack("IIII", 2, 4, 8, 1) + bytes(56)), 72)  # BPF_MAP_CREATE of an array
    hold()


def perf_events() -> None:
    """perf_event_open"""
    attributes = buffer(struct.pack("IIQ", 1, 64, 0) + struct.pack("QQQQ", 0, 0, 0, 1 << 5) + bytes(16))
    call("perf_event_open", attributes, 0, -1, -1, 0)
    hold()


def fanotify() -> None:
    """every opened file of the host: fanotify"""
    each(lambda: call("fanotify_init", 0, 0), lambda: call("fanotify_init", 0x200, 0))
    hold()


def kernel_log() -> None:
    """the kernel's log"""
    room = ctypes.create_string_buffer(1 << 16)

    def read() -> bytes:
        length = number(103, 3, room, 1 << 16)  # syslog, SYSLOG_ACTION_READ_ALL
        return room.raw[:length]

    each(
        lambda: tell(read()),
        lambda: tell(os.read(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), 8192)),
        lambda: tell(os.read(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK), 8192)),
    )


def load_a_module() -> None:
    """code in the kernel: init_module, finit_module"""
    each(
        lambda: call("init_module", buffer(bytes(64)), 64, ""),
        lambda: call("finit_module", os.open("scene.json", os.O_RDONLY), "", 0),
    )


def swap() -> None:
    """memory of others, by a swap file of its own"""
    call("swapon", "swap-file", 0)


def set_the_clock() -> None:
    """another time on the host"""
    each(
        lambda: time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600),
        lambda: call("settimeofday", buffer(struct.pack("QQ", int(time.time()) + 3600, 0)), 0),
    )


def host_name() -> None:
    """another host name"""
    call("sethostname", "attack", 6)
    hold()


def weak_memory_layout() -> None:
    """memory that may be executed wherever it may be read: personality, with bits above the 32"""
    each(lambda: call("personality", 0x400000), lambda: call("personality", 1 << 32 | 0x400000))
    hold()


# Settings of the kernel


def open_for_writing(*paths: str) -> None:
    """Whatever opens is held, and nothing is written."""
    if each(*(lambda path=path: os.open(path, os.O_WRONLY | os.O_NONBLOCK) for path in paths)):
        hold()


def core_pattern() -> None:
    """a program that the kernel starts as root: core_pattern"""
    open_for_writing("/proc/sys/kernel/core_pattern")


def modprobe_path() -> None:
    """a program that the kernel starts as root: modprobe, hotplug, uevent_helper"""
    names = ("modprobe", "hotplug")
    open_for_writing(*(f"/proc/sys/kernel/{name}" for name in names), "/sys/kernel/uevent_helper")


def binary_formats() -> None:
    """an interpreter for others' programs: binfmt_misc"""
    open_for_writing("/proc/sys/fs/binfmt_misc/register")


def system_request() -> None:
    """a crash: sysrq-trigger"""
    open_for_writing("/proc/sysrq-trigger")


def kernel_settings() -> None:
    """any setting of the kernel"""
    found = [os.path.join(folder, name) for folder, _, names in os.walk("/proc/sys") for name in names]
    each(*(lambda path=path: os.open(path, os.O_WRONLY | os.O_NONBLOCK) for path in found[:900]))
    hold()


def devices_settings() -> None:
    """settings of devices and modules in /sys"""
    paths = ["/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/profiling"]
    for top in ("/sys/module", "/sys/block", "/sys/kernel/mm", "/sys/bus"):
        for folder, _, names in os.walk(top):
            paths += [os.path.join(folder, name) for name in names]
            if len(paths) > 600:
                break
    each(*(lambda path=path: os.open(path, os.O_WRONLY | os.O_NONBLOCK) for path in paths[:900]))
    hold()


def cgroup_files() -> None:
    """its own limits, and release_agent: cgroup files that are in sight"""
    found = []
    for folder, _, names in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(folder, name) for name in names if name in CGROUP_FILES]
        if len(found) > 200:
            break
    with contextlib.suppress(OSError):
        open_for_writing(*found)


def move_between_cgroups() -> None:
    """another cgroup, and no limit: by cgroup.procs and tasks of whatever is in sight"""
    found = cgroup_paths("cgroup.procs", "tasks")
    each(*(lambda path=path: Path(path).write_text("0") for path in found or ["/sys/fs/cgroup/cgroup.procs"]))
    hold()


def freeze_itself() -> None:
    """to be frozen, or to thaw, when it likes: freezer.state, cgroup.freeze and cgroup.kill of whatever is in sight"""
    open_for_writing(
        *(cgroup_paths("freezer.state", "cgroup.freeze", "cgroup.kill") or ["/sys/fs/cgroup/cgroup.freeze"])
    )


def cgroup_paths(*names: str) -> list[str]:
    found: list[str] = []
    for folder, _, there in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(folder, name) for name in there if name in names]
        if len(found) > 100:
            break
    return found


CGROUP_FILES = ("release_agent", "notify_on_release", "cgroup.procs", "memory.limit_in_bytes", "memory.max", "tasks")


def hidden_information() -> None:
    """memory of the kernel, addresses, others' keys and interrupts: /proc/kcore and its like"""
    names = ("kcore", "kallsyms", "keys", "iomem", "slabinfo", "timer_list", "vmallocinfo", "interrupts", "sched_debug")
    paths = [*(f"/proc/{name}" for name in names), "/sys/firmware/dmi/tables/DMI"]

    def look(path: str) -> int:
        fd = os.open(path, os.O_RDONLY)
        if not os.read(fd, 64):
            raise OSError(0, "empty", path)
        return fd

    if each(*(lambda path=path: look(path) for path in paths)):
        hold()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    for done in sys.argv[2:]:
        Path(done).touch()
