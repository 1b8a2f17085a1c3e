"""One job as the launcher has it: its descriptors, and the few things that are done with them."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import ExitStack, suppress

from batchns.errors import StepError
from batchns.kernel.cgroups.interface import CgroupPlan
from batchns.launch.init import Record
from batchns.launch.plan import Base, Plan

NO_RECORD = {"exit_code": None, "signal": None}


class Job:
    """One job's descriptors and what has been learnt of it so far. It has a plan from the moment it is launched."""

    def __init__(self, attempt: str, base: Base, into: str) -> None:
        self.attempt = attempt
        self.base = base
        self.into = into  # the cgroup v2 directory that its init is born in, "" for none
        self.plan: Plan | None = None
        self.asked = 0.0
        self.born_at = time.monotonic()  # when it was asked for
        self.pid = 0  # until it is born
        self.pidfd = -1
        self.status: socket.socket | None = None
        self.netns = -1
        self.police = -1  # what `police.attach` returned, in the host's network
        self.unshaped = ""  # why rates are not in force
        self.values: dict[str, str | int] = {}
        self.failure: StepError | None = None
        self.running = False
        self.interrupted: bool | None = None  # its launch, by the launcher's end: whether the command may have run
        self.adopted = False  # its init is another launcher's child

    def last_to_go(self) -> None:
        """In a job that runs out of memory its init is."""
        fd = os.open(f"/proc/{self.pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def receive(status: socket.socket) -> bytes:
    """The next message, b"" after the last. A reset says that init ended with a message of ours unread: once, and
    before its own last word.
    """
    try:
        return status.recv(1 << 16, socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return status.recv(1 << 16, socket.MSG_DONTWAIT)


def make_cgroup(directory: str, acquired: ExitStack, passing: ExitStack) -> int:
    """A descriptor of a new cgroup, for the time of the clone."""
    try:
        os.mkdir(directory, 0o755)
        acquired.callback(os.rmdir, directory)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StepError("cgroup", directory, error.errno or 0) from None
    passing.callback(os.close, fd)
    return fd


def read_record(path: str) -> dict[str, int | None]:
    """The exit record that init has left at `path`; both values None where it left none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # swept away, because the client is dead
        return dict(NO_RECORD)
    text = os.read(fd, Record.TOLD).rstrip(b"\0")
    os.close(fd)
    if not text.endswith(b"\n"):
        return dict(NO_RECORD)  # init was killed before it could write
    record: dict[str, int | None] = json.loads(text)
    return record


def thaw(cgroup: CgroupPlan) -> None:
    """SIGKILL does nothing to a process frozen by the v1 freezer until it is thawed."""
    for folder in cgroup.directories:
        try:
            fd = os.open(f"{folder}/freezer.state", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        os.write(fd, b"THAWED")
        os.close(fd)


def remove_record(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
