"""The network of jobs as a user has it: names are looked up, jobs and services that were asked for are reached."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import batchns
from .dns_server import ADDRESS, NAME

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

SERVER, SERVER6 = "198.51.100.53", "2001:db8:53::53"
LOOK_UP = f"import socket; print(socket.getaddrinfo('{NAME}', 80, socket.AF_INET)[0][4][0])"


@pytest.fixture
def name_server() -> Iterator[str]:
    """Its address; it is a machine of its own, at the other end of a link."""
    program = Path(__file__).with_name("dns_server.py")
    process = subprocess.Popen(
        ["unshare", "-n", sys.executable, str(program), "dns1", SERVER, SERVER6], stdout=subprocess.PIPE, text=True
    )
    try:
        while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            assert process.poll() is None
        run("ip", "link", "add", "dns0", "type", "veth", "peer", "name", "dns1", "netns", str(process.pid))
        run("ip", "address", "add", "198.51.100.1/24", "dev", "dns0")
        run("ip", "address", "add", "2001:db8:53::1/64", "dev", "dns0", "nodad")
        run("ip", "link", "set", "dns0", "up")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield SERVER
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["ip", "link", "del", "dns0"], check=False, capture_output=True)


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[Path]:
    """A copy of /etc in its place, and an empty /run: what a test does there, it does there only."""
    copy = tmp_path / "etc"
    shutil.copytree("/etc", copy, symlinks=True, ignore_dangling_symlinks=True)
    run("mount", "--bind", str(copy), "/etc")
    run("mount", "-t", "tmpfs", "batchns-test", "/run")
    try:
        yield copy
    finally:
        run("umount", "-l", "/run")
        run("umount", "-l", "/etc")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def job_file(folder: Path, text: str) -> str:
    path = folder / "jobs.toml"
    path.write_text(text)
    return str(path)


def test_a_job_looks_names_up_at_the_server_of_the_settings(folder: Path, name_server: str) -> None:
    (folder / "batchns.toml").write_text(f'[network]\ndns = ["{name_server}"]\n')
    ran = batchns("run", "--config", "batchns.toml", "--", "python3", "-c", LOOK_UP, cwd=folder)
    assert ran.stdout.strip() == ADDRESS, ran.stderr
    ran = batchns("run", "--config", "batchns.toml", "--", "getent", "ahostsv4", NAME, cwd=folder)
    assert ADDRESS in ran.stdout


def test_where_the_host_has_a_way_out_by_ipv6_jobs_have_it_too(folder: Path, name_server: str) -> None:
    (folder / "batchns.toml").write_text(f'[network]\ndns = ["{SERVER6}"]\n')
    code = f"import os; print(os.environ.get('BATCHNS_ADDRESS6')); {LOOK_UP}"
    arguments = ("run", "--config", "batchns.toml", "--", "python3", "-c", code)
    before = batchns(*arguments, cwd=folder)
    assert (before.code, before.stdout) == (1, "None\n")
    run("ip", "-6", "route", "add", "default", "via", SERVER6, "dev", "dns0")
    after = batchns(*arguments, cwd=folder)
    address, answer = after.stdout.split()
    assert address.startswith("fd62:6e73:d5::")
    assert answer == ADDRESS


def test_a_job_looks_names_up_where_the_host_does(folder: Path, name_server: str, etc: Path) -> None:
    """With short names and all: the search list is the host's."""
    path = etc / "resolv.conf"
    path.unlink(missing_ok=True)
    path.write_text(f"search batchns.test\nnameserver {name_server}\n")
    ran = batchns("run", "--", "python3", "-c", LOOK_UP.replace(NAME, "service"), cwd=folder)
    assert ran.stdout.strip() == ADDRESS, ran.stderr


def test_behind_a_resolver_of_the_hosts_own_jobs_ask_those_whom_it_asks(
    folder: Path, name_server: str, etc: Path
) -> None:
    """As systemd-resolved has it: a link into /run, which in a sandbox is another one."""
    stub = Path("/run/systemd/resolve")
    stub.mkdir(parents=True)
    (stub / "stub-resolv.conf").write_text("nameserver 127.0.0.53\n")
    (stub / "resolv.conf").write_text(f"nameserver {name_server}\n")
    path = etc / "resolv.conf"
    path.unlink(missing_ok=True)
    path.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    ran = batchns("run", "--", "python3", "-c", LOOK_UP, cwd=folder)
    assert ran.stdout.strip() == ADDRESS, ran.stderr
    assert Path("/etc/resolv.conf").read_text() == "nameserver 127.0.0.53\n", "the host's own is as it was"


def test_the_jobs_resolv_conf_cannot_be_written(folder: Path) -> None:
    ran = batchns("run", "--", "sh", "-c", "echo nameserver 192.0.2.1 > /etc/resolv.conf", cwd=folder)
    assert ran.code != 0
    assert "Read-only" in ran.stderr


def test_without_a_network_the_hosts_resolv_conf_is_left_as_it_is(folder: Path) -> None:
    ran = batchns("run", "--network", "none", "--", "cat", "/etc/resolv.conf", cwd=folder)
    assert ran.stdout == Path("/etc/resolv.conf").read_text()


SERVE = "import socket; s = socket.create_server(('', 7000)); s.settimeout(20); c, p = s.accept(); c.send(b'hello')"
ASK = """
import socket, sys, time
for _ in range(200):
    try:
        print(socket.create_connection((sys.argv[1], 7000), 2).recv(9)); break
    except OSError as error:
        print(error, file=sys.stderr); time.sleep(0.1)
"""


def test_a_job_finds_another_one_by_its_name(folder: Path) -> None:
    jobs = "".join(
        f"""
        [[job]]
        name = "{name}"
        time_limit = "60s"
        {more}
        command = ["python3", "-c", '''{code}''', "server"]
        network.allow = ["jobs"]
        """
        for name, code, more in (("server", SERVE, ""), ("client", ASK, 'dependency = ["after:server"]'))
    )
    ran = batchns("run", "--json", job_file(folder, jobs), cwd=folder)
    assert {name: job["state"] for name, job in ran.jobs.items()} == {"server": "COMPLETED", "client": "COMPLETED"}
    (output,) = folder.glob("client-*.out")
    assert output.read_text() == "b'hello'\n"


def test_names_go_with_their_jobs_and_tasks_have_their_own(folder: Path) -> None:
    """A job that runs on sees others come and go: the file is the same one all the time."""
    text = """
        [[job]]
        name = "watcher"
        time_limit = "60s"
        network.allow = ["jobs"]
        script = '''
        until getent -s files hosts task-1 task-2; do sleep 0.05; done
        getent -s files ahostsv4 task | grep -c STREAM
        touch seen
        while getent -s files hosts task-1; do sleep 0.05; done > /dev/null
        getent -s files hosts watcher > /dev/null && echo task-1 is over
        '''
        [[job]]
        name = "task"
        array = "1-2"
        time_limit = "60s"
        network.allow = ["jobs"]
        resources.cpus = 0.1
        script = "until [ -e seen ]; do sleep 0.05; done"
    """
    ran = batchns("run", "--json", job_file(folder, text), cwd=folder)
    assert ran.code == 0, ran.stderr
    (output,) = folder.glob("watcher-*.out")
    lines = output.read_text().splitlines()
    assert lines[-2:] == ["2", "task-1 is over"]


def test_a_service_of_the_host_is_reached_at_the_gateway_by_a_job_that_asks(folder: Path) -> None:
    (folder / "batchns.toml").write_text('[network]\nallow = ["host:7000-7009"]\n')
    code = "import os, socket; print(socket.create_connection((os.environ['BATCHNS_GATEWAY'], 7001), 1).recv(9))"
    with socket.create_server(("0.0.0.0", 7001)) as service:
        service.settimeout(20)
        arguments = ("run", "--config", "batchns.toml", "--allow", "host:7001", "--", "python3", "-c")
        greet = "import os; os.environ['BATCHNS_ADDRESS']; " + code
        process = subprocess.Popen(
            [sys.executable, "-m", "batchns", *arguments, greet], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        connection, _ = service.accept()
        with connection:
            connection.send(b"welcome")
        assert process.communicate(timeout=30)[0] == "b'welcome'\n"
        ran = batchns("run", "--config", "batchns.toml", "--", "python3", "-c", code, cwd=folder)
        assert ran.code == 1 and "Error" in ran.stderr, "a job that does not ask"


def test_what_the_machine_does_not_allow_is_refused_before_anything_starts(folder: Path) -> None:
    text = 'name = "a"\ncommand = ["touch", "started"]\nnetwork.allow = ["jobs", "host:22", "169.254.169.254"]\n'
    ran = batchns("run", job_file(folder, text), cwd=folder)
    assert ran.code == 2
    for index, asked in ((1, "host:22"), (2, "169.254.169.254/32")):
        assert f"jobs.toml:3: network.allow[{index}]" in ran.stderr
        assert f'have "{asked}" added to allow under [network] in batchns.toml' in ran.stderr
    assert not (folder / "started").exists()
