"""Jobs in the host's own network: only where the administrator allows it, without any right over it, at their rates."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchns.kernel import bpf, landlock
from batchns.kernel.cgroups.detect import own_unified

from .conftest import batchns, start, until
from .test_network import etc, job_file, run

__all__ = ["etc"]  # a fixture

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

limits_rates = pytest.mark.skipif(own_unified() is None, reason="rates need a cgroup v2 tree")
MBIT = 1_000_000
THERE = "198.51.100.2"
POUR = """import socket, sys; s = socket.create_connection((sys.argv[1], 7000), 10)
s.sendall(bytes(int(sys.argv[2]))); s.shutdown(1); s.recv(1)"""


@pytest.fixture
def allowed(folder: Path) -> Path:
    """A folder whose batchns.toml lets jobs into the host's network."""
    (folder / "batchns.toml").write_text("[network]\nhost = true\n")
    return folder


SINK = """
import socket, sys, threading
subprocess = __import__("subprocess")
while len(socket.if_nameindex()) < 2: pass
subprocess.run("ip addr add 198.51.100.2/24 dev sink1; ip link set sink1 up; ip link set lo up", shell=True, check=True)
service = socket.create_server(("", 7000))
print("ready", flush=True)
def serve(connection):
    while connection.recv(1 << 20): pass
    connection.close()
while True:
    threading.Thread(target=serve, args=(service.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def machine() -> Iterator[str]:
    """Another machine, at the other end of a link of this corner's: it takes whatever it is sent at port 7000."""
    process = subprocess.Popen(["unshare", "-n", sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        run("ip", "link", "add", "sink0", "type", "veth", "peer", "name", "sink1", "netns", str(process.pid))
        run("ip", "address", "add", "198.51.100.1/24", "dev", "sink0")
        run("ip", "link", "set", "sink0", "up")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield THERE
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["ip", "link", "del", "sink0"], check=False, capture_output=True)


def test_without_permission_it_is_refused_with_what_to_type(folder: Path) -> None:
    """Root's own jobs, too: a job file may be somebody else's."""
    text = 'name = "a"\ncommand = ["touch", "started"]\nnetwork.mode = "host"\n'
    ran = batchns("run", job_file(folder, text), cwd=folder)
    assert ran.code == 2
    assert "jobs.toml:3: network.mode" in ran.stderr
    assert "the host's network is not allowed on this machine" in ran.stderr
    assert "have host = true written under [network] in batchns.toml" in ran.stderr
    assert not (folder / "started").exists()


def test_a_job_has_the_hosts_network_and_no_namespace_of_its_own(allowed: Path) -> None:
    code = "import os, socket; print(os.readlink('/proc/self/ns/net'), sorted(n for _, n in socket.if_nameindex()))"
    ran = batchns("run", "--config", "batchns.toml", "--network", "host", "--", "python3", "-c", code, cwd=allowed)
    names = sorted(name for _, name in socket.if_nameindex())
    assert ran.stdout == f"{os.readlink('/proc/self/ns/net')} {names}\n", ran.stderr
    assert not any(name.startswith("bns") for name in names)


@pytest.mark.skipif(landlock.version() < 6, reason="Landlock knows nothing of abstract sockets yet")
def test_it_connects_to_no_abstract_socket_of_the_host(allowed: Path) -> None:
    """They belong to the network namespace. Without the lock it does, so it is the lock that keeps it from that."""
    name = f"\0batchns-test-{os.getpid()}"
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
    open_ = "[isolation]\nlandlock = false\n"
    settings = allowed / "batchns.toml"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(name)
        service.listen()
        for text, expected in (("", "PermissionError"), (open_, "")):
            settings.write_text(settings.read_text() + text)
            words = ("--network", "host", "--", "python3", "-c", code)
            ran = batchns("run", "--config", str(settings), *words, cwd=allowed)
            assert (ran.code == 0) == (expected == ""), ran.stderr
            assert expected in ran.stderr


def test_it_reaches_services_of_the_host_at_its_loopback(allowed: Path) -> None:
    code = "import socket; print(socket.create_connection(('127.0.0.1', 7001), 5).recv(9))"
    with socket.create_server(("127.0.0.1", 7001)) as service:

        def greet() -> None:
            with contextlib.suppress(TimeoutError):
                service.settimeout(20)
                service.accept()[0].send(b"welcome")

        thread = threading.Thread(target=greet)
        thread.start()
        ran = batchns("run", "--config", "batchns.toml", "--network", "host", "--", "python3", "-c", code, cwd=allowed)
        thread.join()
    assert ran.stdout == "b'welcome'\n", ran.stderr


NO_RIGHTS = r"""
import ctypes, os, socket, subprocess
def refused(name, function):
    try: function()
    except OSError as error: print(name, "refused")
    else: print(name, "WORKED")
refused("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
refused("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
refused("port 1", lambda: socket.create_server(("127.0.0.1", 1)))
refused("sysctl", lambda: open("/proc/sys/net/ipv4/ip_forward", "w"))
refused("sysfs", lambda: open("/sys/class/net/lo/mtu", "w"))
done = subprocess.run(["ip", "link", "set", "lo", "mtu", "1400"], capture_output=True)
print("ip", "refused" if done.returncode else "WORKED")
print([line for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))])
"""


def test_the_probe_for_rights_sees_those_of_root() -> None:
    """The control of the next test, in a network namespace that nobody else is in."""
    command = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, "-c", NO_RIGHTS]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.rpartition(" ")[2] for line in told.splitlines()[:-1]] == ["WORKED"] * 6, told


@pytest.mark.parametrize("submitter", ["private", "root"])
def test_it_has_no_right_over_that_network(submitter: str) -> None:
    """Not even as uid 0 inside: its user namespace owns no network."""
    before = Path("/sys/class/net/lo/mtu").read_text()
    user = () if submitter == "private" else ("--user", "nobody")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "batchns.toml").write_text("[network]\nhost = true\n")
        (folder / "probe.py").write_text(NO_RIGHTS)
        text = (
            'name = "a"\ncommand = ["python3", "probe.py"]\nnetwork.mode = "host"\nstdout = "out"\nstderr = "err"\n'
            f'isolation.identity = "{submitter}"\n'
        )
        ran = batchns("run", "--config", "batchns.toml", *user, job_file(folder, text), cwd=folder)
        assert ran.code == 0, ran.stderr + (folder / "err").read_text()
        *answers, capabilities = (folder / "out").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in answers] == ["refused"] * 6, answers
    assert capabilities.count("0000000000000000") == 2
    assert Path("/sys/class/net/lo/mtu").read_text() == before


def test_it_sees_no_process_and_no_cgroup_of_the_hosts(allowed: Path) -> None:
    script = "ls /sys/fs/cgroup; ls /proc | grep -c '^[0-9]'; kill -0 $PPID 2>/dev/null && echo PARENT; true"
    ran = batchns("run", "--config", "batchns.toml", "--network", "host", "--", "sh", "-c", script, cwd=allowed)
    assert int(ran.stdout) < 8, ran.stdout


def test_it_asks_the_hosts_own_name_servers(allowed: Path, etc: Path) -> None:
    """The one on the loopback, too, wherever the file is a link to: the host's /run is not the sandbox's."""
    stub = Path("/run/systemd/resolve")
    stub.mkdir(parents=True)
    (stub / "stub-resolv.conf").write_text("nameserver 127.0.0.53\n")
    path = etc / "resolv.conf"
    path.unlink(missing_ok=True)
    path.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    arguments = ("run", "--config", "batchns.toml", "--network", "host", "--")
    assert batchns(*arguments, "cat", "/etc/resolv.conf", cwd=allowed).stdout == "nameserver 127.0.0.53\n"


def test_allow_means_nothing_there(allowed: Path) -> None:
    text = 'name = "a"\ncommand = ["true"]\n[network]\nmode = "host"\nallow = ["jobs"]\n'
    ran = batchns("check", "--config", "batchns.toml", job_file(allowed, text), cwd=allowed)
    assert ran.code == 2
    assert 'there is nothing to allow with mode = "host"' in ran.stdout + ran.stderr


@limits_rates
def test_the_rates_are_in_the_result_as_the_kernel_holds_them_and_so_is_what_was_sent(
    allowed: Path, machine: str
) -> None:
    text = (
        f'name = "a"\ncommand = ["python3", "-c", """{POUR}""", "{machine}", "6000000"]\n'
        'network = { mode = "host", egress = "16mbit", ingress = "32mbit" }\nresources.strict = true\n'
    )
    ran = batchns("run", "--config", "batchns.toml", "--json", job_file(allowed, text), cwd=allowed)
    result = ran.jobs["a"]
    assert result["state"] == "COMPLETED", ran.stderr
    assert result["limits"]["egress"] == {"value": 16 * MBIT, "source": "bpf"}
    assert result["limits"]["ingress"] == {"value": 32 * MBIT, "source": "bpf"}
    assert 6_000_000 < result["net_sent_bytes"] < 7_000_000
    assert 0 < result["net_received_bytes"] < 1_000_000
    # 48 Mbit at 16 Mbit/s, less the bucket and what the socket holds at the end.
    assert 2.0 < result["running_seconds"] < 15.0


@limits_rates
def test_a_job_beside_it_in_the_same_network_is_not_slowed(allowed: Path, machine: str) -> None:
    fast, slow = (
        f'[[job]]\nname = "{name}"\ncommand = ["python3", "-c", """{POUR}""", "{machine}", "{size}"]\n'
        f'resources.cpus = 0.5\nnetwork.mode = "host"\n{rate}\n'
        for name, size, rate in (("fast", 100_000_000, ""), ("slow", 2_000_000, 'network.egress = "4mbit"'))
    )
    ran = batchns("run", "--config", "batchns.toml", "--json", job_file(allowed, slow + fast), cwd=allowed)
    seconds = {name: job["running_seconds"] for name, job in ran.jobs.items()}
    assert {job["state"] for job in ran.jobs.values()} == {"COMPLETED"}, ran.stdout
    assert seconds["slow"] > 2.5
    assert 800 / seconds["fast"] > 40, "Mbit/s, beside one of 4"


@limits_rates
def test_nothing_is_left_of_a_run_that_is_killed(allowed: Path, machine: str) -> None:
    """`nothing_left` looks after the next start has swept."""
    code = (
        f"import socket, time; s = socket.create_connection(('{machine}', 7000), 10); open('up', 'w'); time.sleep(60)"
    )
    text = f'name = "a"\ncommand = ["python3", "-c", """{code}"""]\n[network]\nmode = "host"\negress = "1mbit"\n'
    process = start("run", "--config", "batchns.toml", job_file(allowed, text), cwd=allowed)
    until((allowed / "up").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    assert batchns("run", "--network", "none", "--", "true", cwd=allowed).code == 0


@pytest.fixture
def alone_above() -> Iterator[None]:
    """Somebody's program on the cgroup above the jobs', attached without a wish to share."""
    code = bpf.assemble([(0xB7, 0, 0, 0, 1), (0x95, 0, 0, 0, 0)])
    program = bpf.load(bpf.CGROUP_SKB, bpf.INET_EGRESS, code, b"tests")
    cgroup = os.open(str(own_unified()), os.O_RDONLY)

    def call(command: int) -> None:
        buffer = ctypes.create_string_buffer(struct.pack("=5I", cgroup, program, bpf.INET_EGRESS, 0, 0), 128)
        assert ctypes.CDLL(None).syscall(bpf.NR_BPF, command, buffer, 128) == 0

    call(8)  # BPF_PROG_ATTACH
    try:
        yield
    finally:
        call(9)  # BPF_PROG_DETACH
        os.close(cgroup)
        os.close(program)


@limits_rates
def test_rates_that_the_kernel_refuses_are_named_and_strict_refuses_the_job(allowed: Path, alone_above: None) -> None:
    text = 'name = "a"\ncommand = ["touch", "started"]\n[network]\nmode = "host"\negress = "1mbit"\n'
    strict = job_file(allowed, text + "[resources]\nstrict = true\n")
    ran = batchns("run", "--config", "batchns.toml", "--json", strict, cwd=allowed)
    assert ran.jobs["a"]["state"] == "FAILED"
    assert "network: rates" in ran.jobs["a"]["reason"]
    assert not (allowed / "started").exists()
    ran = batchns("run", "--config", "batchns.toml", "--json", job_file(allowed, text), cwd=allowed)
    assert ran.jobs["a"]["state"] == "COMPLETED"
    reading = ran.jobs["a"]["limits"]["egress"]
    assert (reading["value"], reading["why"]) == (None, "bpf program attach: Operation not permitted")


@pytest.mark.skipif(own_unified() is not None, reason="there is a cgroup v2 tree")
def test_without_a_v2_tree_the_result_says_so_and_strict_refuses(allowed: Path) -> None:
    text = 'name = "a"\ncommand = ["true"]\n[network]\nmode = "host"\negress = "1mbit"\n'
    ran = batchns("run", "--config", "batchns.toml", "--json", job_file(allowed, text), cwd=allowed)
    reading = ran.jobs["a"]["limits"]["egress"]
    assert (ran.jobs["a"]["state"], reading["value"]) == ("COMPLETED", None)
    assert "cgroup v2 tree" in reading["why"]
    ran = batchns(
        "run",
        "--config",
        "batchns.toml",
        "--json",
        job_file(allowed, text + "[resources]\nstrict = true\n"),
        cwd=allowed,
    )
    assert ran.jobs["a"]["state"] == "FAILED"
    assert "strict: egress" in ran.jobs["a"]["reason"]
