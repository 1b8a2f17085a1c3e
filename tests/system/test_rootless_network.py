"""The way out of an ordinary user's jobs through pasta(1), to a machine that the test makes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import until
from .test_rootless import UID, ada, as_ada, home, job, processes_of_ada, way

__all__ = ["home", "way"]  # fixtures

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("pasta") is None, reason="pasta is not installed: apt-get install passt"),
    pytest.mark.skipif(not Path("/sys/class/misc/tun").exists(), reason="this kernel has no tun device"),
]

HERE, THERE = "198.51.100.1", "198.51.100.2"
PASTA = "passt"  # how the name of the process begins

SERVER = """
import socket, subprocess
while len(socket.if_nameindex()) < 2: pass
subprocess.run("ip addr add 198.51.100.2/24 dev far1; ip link set far1 up; ip link set lo up", shell=True, check=True)
service = socket.create_server(("", 7000))
print("ready", flush=True)
while True:
    connection, peer = service.accept()
    connection.send(b"hello")
    connection.close()
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def tun() -> Iterator[None]:
    """The device as udev makes it everywhere: for all users."""
    Path("/dev/net").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "mode=755,dev", "batchns-test", "/dev/net")
    try:
        os.mknod("/dev/net/tun", 0o20666, os.makedev(10, 200))
        os.chmod("/dev/net/tun", 0o666)
        yield
    finally:
        run("umount", "-l", "/dev/net")


@pytest.fixture
def machine(tun: None) -> Iterator[str]:
    """Another machine, at the other end of a link, over which the default route leads."""
    process = subprocess.Popen(["unshare", "-n", sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        run("ip", "link", "add", "far0", "type", "veth", "peer", "name", "far1", "netns", str(process.pid))
        run("ip", "address", "add", f"{HERE}/24", "dev", "far0")
        run("ip", "link", "set", "far0", "up")
        run("ip", "route", "add", "default", "via", THERE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield THERE
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["ip", "link", "del", "far0"], check=False, capture_output=True)


ASK = """
import socket, sys
for place in sys.argv[1:]:
    address, _, port = place.rpartition(":")
    try:
        print(place, socket.create_connection((address, int(port)), 3).recv(9).decode())
    except OSError as error:
        print(place, type(error).__name__)
"""


def pastas() -> list[str]:
    return [name for name in processes_of_ada() if name.startswith(PASTA)]


def test_a_job_reaches_the_outside_and_it_ends_with_the_job(home, machine, nothing_left):
    ran = as_ada(home, "run", "--", "python3", "-c", ASK, f"{machine}:7000")
    assert ran.stdout == f"{machine}:7000 hello\n", ran.stderr
    assert ran.code == 0
    until(lambda: not processes_of_ada(), 5)


def test_it_reaches_no_service_of_the_host(home, machine):
    """Neither on the loopback nor at an address of the host, nor by the gateway's."""
    with socket.create_server(("0.0.0.0", 0)) as service:
        service.settimeout(0.2)
        port = service.getsockname()[1]
        places = [f"{address}:{port}" for address in ("127.0.0.1", HERE, machine)]
        ran = as_ada(home, "run", "--", "python3", "-c", ASK, *places)
        with pytest.raises(TimeoutError):
            service.accept()
    answers = [line.split()[1] for line in ran.stdout.splitlines()]
    assert len(answers) == 3 and set(answers) <= {"ConnectionRefusedError", "TimeoutError"}, ran.stdout


def test_at_another_address_of_the_host_it_is_any_program_of_the_users(home, machine):
    """The documented gap: pasta copies one address only. What a user's job reaches there the user reaches anyway."""
    with socket.create_server(("192.0.2.1", 0)) as service:
        place = f"192.0.2.1:{service.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "batchns", "run", "--", "python3", "-c", ASK, place],
            stdout=subprocess.PIPE,
            text=True,
            **ada(home),
        )
        service.settimeout(20)
        service.accept()[0].send(b"hello")
        assert process.communicate(timeout=20)[0] == f"{place} hello\n"


def test_nobody_outside_reaches_what_a_job_listens_on(home, machine):
    code = "import socket, time; s = socket.create_server(('', 7654)); open('up', 'w'); time.sleep(2)"
    process = subprocess.Popen([sys.executable, "-m", "batchns", "run", "--", "python3", "-c", code], **ada(home))
    until((home / "up").exists)
    for address in ("127.0.0.1", HERE):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, 7654), 1)
    assert process.wait(20) == 0


def test_it_has_no_right_over_its_network(home, machine):
    script = "ip link set eth0 down || echo refused; ip addr add 203.0.113.1/32 dev eth0 || echo refused"
    ran = as_ada(home, "run", "--", "sh", "-c", script)
    assert ran.stdout == "refused\nrefused\n"


def test_the_result_says_what_a_user_cannot_have(home, machine):
    text = 'command = ["true"]\n[network]\negress = "10mbit"\nallow = ["jobs"]\n'
    ran = as_ada(home, "run", "--json", job(home, "limited", text))
    limits = ran.jobs["limited"]["limits"]
    assert ran.code == 0, ran.stderr
    assert "pasta holds no rate" in limits["egress"]["why"]
    assert "neither other jobs" in limits["allow"]["why"]
    assert "network" not in limits
    strict = job(home, "strict", text + "[resources]\nstrict = true\n")
    ran = as_ada(home, "run", "--json", strict)
    assert "strict:" in ran.jobs["strict"]["reason"] and "egress" in ran.jobs["strict"]["reason"]


def test_the_name_servers_are_those_that_it_can_reach(home, machine):
    ran = as_ada(home, "run", "--", "cat", "/etc/resolv.conf")
    assert ran.stdout.startswith("# batchns, from")
    assert "127.0.0." not in ran.stdout


def test_mode_none_has_no_way_out(home, machine):
    ran = as_ada(home, "run", "--network", "none", "--", "python3", "-c", ASK, f"{machine}:7000")
    assert ran.stdout == f"{machine}:7000 OSError\n"


def test_a_killed_run_leaves_none(home, machine, nothing_left):
    job(home, "many", 'script = "touch up-$BATCHNS_ARRAY_TASK_ID; sleep 60"\narray = "1-3"\nresources.cpus = 0.1\n')
    command = [sys.executable, "-m", "batchns", "run", "many.toml"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **ada(home))
    until(lambda: len([*home.glob("up-*")]) == 3)
    assert len(pastas()) == 3
    process.kill()
    process.communicate()
    until(lambda: processes_of_ada() == [])
    assert as_ada(home, "run", "--network", "none", "--", "true").code == 0


def launchers() -> list[int]:
    """The pids of ada's launchers."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if entry.name.isdigit() and entry.stat().st_uid == UID:
                found += [int(entry.name)] * ((entry / "comm").read_text() == "batchns-launch\n")
    return found


def test_a_killed_launcher_takes_it_along(home, machine):
    process = subprocess.Popen(
        [sys.executable, "-m", "batchns", "run", "--", "sh", "-c", "touch up; sleep 60"],
        stderr=subprocess.DEVNULL,
        **ada(home),
    )
    until((home / "up").exists)
    (launcher,) = launchers()
    assert len(pastas()) == 1
    os.kill(launcher, signal.SIGKILL)
    until(lambda: not pastas(), 5)
    process.wait(20)


def test_one_that_cannot_start_fails_the_job_with_what_it_says(home, machine, tmp_path):
    """A default route over an interface without an address is nothing that pasta can use."""
    run("ip", "address", "del", f"{HERE}/24", "dev", "far0")
    run("ip", "route", "add", "default", "dev", "far0")
    began = time.monotonic()
    ran = as_ada(home, "run", "--", "true")
    assert ran.code == 125 and time.monotonic() - began < 15
    assert "network: pasta" in ran.stderr and 'network.mode = "none"' in " ".join(ran.stderr.split())


def facts(home: Path) -> dict[str, dict[str, str]]:
    return {fact["name"]: fact for fact in json.loads(as_ada(home, "doctor", "--json").stdout)["facts"]}


def test_doctor_says_what_is_there_and_what_is_missing(home, machine):
    assert "pasta" in facts(home)["network"]["found"]
    os.chmod("/dev/net/tun", 0o600)
    closed = facts(home)["network"]
    assert "loopback only" in closed["found"] and "chmod 666 /dev/net/tun" in closed["hint"]
    os.chmod("/dev/net/tun", 0o666)
    pasta = str(shutil.which("pasta"))
    run("mount", "-t", "tmpfs", "batchns-test", "/mnt")
    try:
        Path("/mnt/none").touch(0o644)
        run("mount", "--bind", "/mnt/none", pasta)
        try:
            gone = facts(home)["network"]
            assert "pasta is not installed" in gone["found"] and "apt-get install passt" in gone["hint"]
            ran = as_ada(home, "run", "--json", job(home, "alone", 'command = ["true"]\n'))
            assert "apt-get install passt" in ran.jobs["alone"]["limits"]["network"]["why"]
        finally:
            run("umount", pasta)
    finally:
        run("umount", "/mnt")
