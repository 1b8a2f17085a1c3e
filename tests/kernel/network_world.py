"""A small world for network tests: a "host", an "outside" and jobs, each in a network namespace of its own.

The test process itself moves into a fresh namespace and is the host there, so no test touches the machine's own links,
firewall or forwarding, and everything vanishes with the namespaces. Jobs and the outside are forked children that
perform functions of `network_programs` on request.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import network_programs
from pyroute2 import IPRoute

from batchns.errors import StepError
from batchns.kernel import syscalls
from batchns.kernel.network import link
from batchns.kernel.network.addresses import job_address, network_plan
from batchns.kernel.network.types import NetworkPlan

POOL = "10.213.0.0/16"
HOST = "198.51.100.1"  # TEST-NET-2, RFC 5737
OUTSIDE = "198.51.100.2"
UPLINK = "out0"
CLONE_NEWNET = 0x40000000

# An exception is pickled as the arguments of Exception.__init__, which are not those of StepError.
copyreg.pickle(StepError, lambda error: (StepError, (error.step, error.path, error.errno, error.hint)))


def slow_kernel() -> bool:
    """User Mode Linux: a system call costs 12 us, timers are coarse, and time that others take from it goes unseen.

    Above 50 Mbit/s the kernel would be measured there, not the shaper.
    """
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text()


class Place:
    """A forked child somewhere else: it runs `prepare`, then one function after the other."""

    def __init__(self, prepare: Callable[..., Any], *arguments: Any) -> None:
        self._pipe, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self._pipe.close()
            _serve(theirs, prepare, arguments)
        theirs.close()
        self._waiting = True
        try:
            self.prepared = self.result()
        except BaseException:
            self.close()
            raise

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        assert not self._waiting
        _send(self._pipe, (function, arguments))
        self._waiting = True

    def result(self, timeout: float = 30.0) -> Any:
        """What the function returned; what it raised is raised here."""
        self._pipe.settimeout(timeout)
        raised, value = _receive(self._pipe)
        self._waiting = False
        if raised:
            raise value
        return value

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.begin(function, *arguments)
        return self.result()

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self._pipe.close()


def _serve(pipe: socket.socket, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The child's life; never returns."""
    try:
        signal.alarm(100)  # no test is longer: a test process that was killed leaves nobody behind
        while True:
            try:
                answer = (False, function(*arguments))
            except Exception as error:
                answer = (True, error)
            _send(pipe, answer)
            function, arguments = _receive(pipe)
    finally:
        os._exit(0)


def _send(pipe: socket.socket, value: Any) -> None:
    data = pickle.dumps(value)
    pipe.sendall(struct.pack("=I", len(data)) + data)


def _receive(pipe: socket.socket) -> Any:
    (length,) = struct.unpack("=I", _exactly(pipe, 4))
    return pickle.loads(_exactly(pipe, length))


def _exactly(pipe: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = pipe.recv(count - len(data))
        if not part:
            raise EOFError("the other side has ended")
        data += part
    return data


class World:
    """The host's side; make one with `open_world`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._slots = 0
        with IPRoute() as ipr:
            ipr.link("set", index=1, state="up")
        self.outside = self.neighbour(UPLINK, HOST, OUTSIDE)

    def neighbour(self, name: str, host_address: str, address: str) -> Place:
        """Another machine, at the other end of the host's new link `name`."""
        place = self.place(syscalls.unshare, CLONE_NEWNET)
        with IPRoute() as ipr:
            ipr.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_pid": place.pid})
            index = ipr.link_lookup(ifname=name)[0]
            ipr.addr("add", index=index, address=host_address, prefixlen=24)
            ipr.link("set", index=index, state="up")
        place.call(_configure, address)
        return place

    def place(self, prepare: Callable[..., Any], *arguments: Any) -> Place:
        place = Place(prepare, *arguments)
        self._stack.callback(place.close)
        return place

    def plan(self, egress: int | None = None, ingress: int | None = None) -> NetworkPlan:
        """The plan of a fresh job."""
        slot = self._slots
        self._slots += 1
        return network_plan("private", f"t{slot}", job_address(POOL, slot), egress, ingress, 1500)

    def job(self, plan: NetworkPlan) -> Place:
        """A job: root in its namespace, which makes it stronger than a real one."""
        return self.place(link.set_up, plan)


def _configure(address: str) -> None:
    with IPRoute() as ipr:
        ipr.link("set", index=1, state="up")
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.addr("add", index=index, address=address, prefixlen=24)
        ipr.link("set", index=index, state="up")


@contextmanager
def open_namespace() -> Iterator[None]:
    """The test process in a fresh network namespace, and back."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(CLONE_NEWNET)
        yield
    finally:
        syscalls.setns(before, CLONE_NEWNET)
        os.close(before)


@contextmanager
def open_world() -> Iterator[World]:
    with open_namespace(), ExitStack() as stack:
        stack.callback(network_programs.close_all)
        yield World(stack)


def nft(*arguments: str) -> str:
    """Run nft in the host; what it prints."""
    return subprocess.run(["/usr/sbin/nft", " ".join(arguments)], capture_output=True, text=True, check=True).stdout


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether `condition` holds at some moment of the next `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
