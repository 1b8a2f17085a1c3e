"""The zygote: a process that does nothing but fork, so that the launcher never does.

A fork leaves its parent with every page write-protected, and a process that runs Python between forks copies hundreds
of them each time. This one touches few. What it forks is the launcher's child (CLONE_PARENT), not its own: the launcher
waits for it, and the kernel ends it with the launcher (unless that is kept).

On the socket come packets of JSON, a `Base`, with one or two descriptors: the init's end of its status socket and the
cgroup v2 directory that it is born in. For each goes back, in order, two integers, pid and errno, with the pidfd.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import struct
import sys
from typing import NoReturn

from batchns.errors import StepError
from batchns.kernel import syscalls
from batchns.launch import init
from batchns.launch.plan import Base, base_from

_NAMESPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
_ANSWER = struct.Struct("=ii")
_LARGEST = 1 << 16  # bytes of a base
NAME = "batchns-zygote"  # what ps calls it


def start(*, kept: bool = False) -> tuple[socket.socket, int]:
    """Fork the zygote: the launcher's end of the socket to it, and its pid. It ends when that end is closed.

    `kept`: as of `init.main`, for all that it forks.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        init.close_others(theirs.fileno())
        _serve(theirs, kept=kept)
    theirs.close()
    return ours, pid


def ask(zygote: socket.socket, base: Base, status: int, cgroup: int) -> None:
    """Ask for an init that begins with `base`. `cgroup`: a descriptor of the directory it is born in, or -1.

    Raises:
        OSError: the zygote is gone.
    """
    socket.send_fds(zygote, [json.dumps(base).encode()], [status] if cgroup < 0 else [status, cgroup])


def born(zygote: socket.socket, *, wait: bool = True) -> tuple[int, int]:
    """The (pid, pidfd) of the init that was asked for first. Waits for it, if asked to: a clone's time.

    Raises:
        StepError: step "clone3", the kernel's errno.
        EOFError: the zygote is gone.
        BlockingIOError: it has not answered yet.
    """
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    try:
        message, ancillary, _, _ = zygote.recvmsg(_ANSWER.size, socket.CMSG_LEN(4), flags)
    except ConnectionResetError:
        message = b""
    if not message:
        raise EOFError
    pid, errno = _ANSWER.unpack(message)
    if errno:
        raise StepError("clone3", "", errno)
    ((_, _, pidfd),) = ancillary
    return pid, int.from_bytes(pidfd, sys.byteorder)


def _serve(launcher: socket.socket, *, kept: bool) -> NoReturn:
    syscalls.set_name(NAME)
    # Of an init's, but done here, once: what an init does itself costs it pages.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.umask(0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    known = b""
    base = Base()
    room = socket.CMSG_LEN(2 * 4)
    while True:
        text, ancillary, _, _ = launcher.recvmsg(_LARGEST, room, socket.MSG_CMSG_CLOEXEC)
        if not text:
            os._exit(0)
        if text != known:
            known, base = text, base_from(json.loads(text))
        fds = array.array("i", b"".join(data for _, _, data in ancillary)).tolist()
        try:
            cgroup = fds[1] if len(fds) > 1 else -1
            pid, pidfd = syscalls.clone3(_NAMESPACES | syscalls.CLONE_PARENT, cgroup=cgroup)
        except OSError as error:
            launcher.send(_ANSWER.pack(0, error.errno or 0))
        else:
            if pid == 0:
                init.main(base, socket.socket(fileno=fds[0]), kept=kept)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", pidfd))
            launcher.sendmsg((_ANSWER.pack(pid, 0),), (rights,))
            os.close(pidfd)
        for fd in fds:
            os.close(fd)
