"""`batchns run` by an ordinary user: a real second user of this machine, whose processes have no right of root's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchns.kernel.cgroups.detect import parse_mountinfo
from batchns.kernel.cgroups.v2 import CONTROLLERS

from ..alone import end_with_parent
from ..people import way_for_all
from .conftest import Ran, until

pytestmark = pytest.mark.kernel

UID = 31001


@pytest.fixture
def way() -> Iterator[None]:
    with way_for_all():
        yield


@pytest.fixture
def home(way, tmp_path) -> Iterator[Path]:
    """ada's home: she is in this machine's user database, as this test run sees it."""
    passwd = tmp_path / "passwd"
    passwd.write_text(f"{Path('/etc/passwd').read_text()}ada:x:{UID}:{UID}::/srv/ada:/bin/sh\n")
    passwd.chmod(0o644)
    mounts = [["-t", "tmpfs", "-o", "mode=755", "batchns-test", "/srv"], ["--bind", str(passwd), "/etc/passwd"]]
    done = []
    try:
        for mount in mounts:
            subprocess.run(["mount", *mount], check=True)
            done.append(mount[-1])
        folder = Path("/srv/ada")
        for path in (folder, Path("/srv/runtime")):
            path.mkdir(mode=0o700)
            os.chown(path, UID, UID)
        secret = Path("/srv/secret")
        secret.write_text("root's")
        secret.chmod(0o600)
        yield folder
    finally:
        for point in reversed(done):
            subprocess.run(["umount", "-l", point], check=True)


def as_ada(home: Path, *arguments: str, **more: Any) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "batchns", *arguments], capture_output=True, text=True, timeout=90, **ada(home, **more)
    )
    return Ran(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def ada(home: Path, **more: Any) -> dict[str, Any]:
    """What subprocess needs to start something as ada."""
    return {
        "cwd": home,
        "user": UID,
        "group": UID,
        "extra_groups": [],
        "stdin": subprocess.DEVNULL,
        "preexec_fn": end_with_parent,
        "env": {"HOME": str(home), "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": "/srv/runtime"},
        **more,
    }


def job(home: Path, name: str, text: str) -> str:
    path = home / f"{name}.toml"
    path.write_text(f'name = "{name}"\n{text}')
    return path.name


def processes_of_ada() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == UID:
                found.append((entry / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def test_a_users_job_has_the_users_rights_and_is_alone(home, nothing_left):
    script = (
        "id -u; id -g; echo $USER; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; "
        "cat /srv/secret; touch made; "
        "echo x > /dev/null && echo null; ls /proc | grep -c '^[0-9]'; hostname"
    )
    ran = as_ada(home, "run", "--name", "mine", "--", "sh", "-c", script)
    lines = ran.stdout.splitlines()
    assert lines[:3] == [str(UID), str(UID), "ada"]
    status = dict(line.split(":\t") for line in lines[3:10])
    assert {status.pop(f"Cap{name}") for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status == {"NoNewPrivs": "1", "Seccomp": "2"}
    assert lines[10] == "null"
    assert int(lines[11]) < 8
    assert lines[12] == "mine"
    assert "Permission denied" in ran.stderr
    assert (home / "made").stat().st_uid == UID
    assert ran.code == 0


def test_every_namespace_is_the_jobs_own(home):
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    ran = as_ada(home, "run", "--", "sh", "-c", "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds))
    inside = ran.stdout.split()
    assert len(inside) == 7
    assert not set(inside) & {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}


def test_init_is_out_of_the_commands_reach_though_it_has_the_same_id(home):
    """Not dumpable, so neither traced nor read; and what a job sends its own PID 1 never kills or stops it."""
    program = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())\n"  # PTRACE_ATTACH
        "for name in ('mem', 'environ', 'exe', 'fd', 'root'):\n"
        "    try:\n"
        "        look = os.listdir if name in ('fd', 'root') else open\n"
        "        print(name, look(f'/proc/1/{name}'))\n"
        "    except PermissionError:\n"
        "        pass\n"
        "os.kill(1, 9), os.kill(1, 19)\n"
        "print('alive')\n"
    )
    ran = as_ada(home, "run", "--", "python3", "-c", program)
    assert ran.stdout == "-1 1\nalive\n"


def test_what_a_user_cannot_have_is_named(home):
    job(home, "limited", 'command = ["true"]\n[resources]\nmemory = "64MiB"\n[network]\negress = "10mbit"\n')
    ran = as_ada(home, "run", "--json", "limited.toml")
    limits = ran.jobs["limited"]["limits"]
    for name in ("memory", "cpu_shares", "pids"):
        assert limits[name]["value"] is None
        assert "no cgroup is delegated to you" in limits[name]["why"]
    for name in ("network", "egress"):
        assert "loopback only" in limits[name]["why"]
    assert "memory" in ran.stderr
    assert "are not in force: no cgroup is delegated to you" in " ".join(ran.stderr.split())
    assert ran.code == 0
    strict = job(home, "strict", 'command = ["true"]\n[resources]\nmemory = "64MiB"\nstrict = true\n')
    ran = as_ada(home, "run", "--json", strict)
    assert ran.code == 1
    assert "no cgroup is delegated" in ran.jobs["strict"]["reason"]


def test_identities_and_roots_of_a_user(home):
    system = home / "system"
    (system / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", system / "bin/sh")
    for path in (system, *system.rglob("*")):
        os.chown(path, UID, UID)
    text = f'script = "id -u; echo x > /new; ls /"\n[isolation]\nrootfs = "{system}"\n'
    job(home, "rooted", text + 'overlay = "1MiB"\nidentity = "root"\n')
    job(home, "other", 'command = ["true"]\nisolation.identity = "private"\n')
    (home / "image").write_bytes(bytes(4096))
    job(home, "image", f'command = ["true"]\nisolation.rootfs = "{home}/image"\n')
    ran = as_ada(home, "run", "--json", "rooted.toml")
    assert ran.code == 0, ran.stderr
    out = Path(ran.jobs["rooted"]["stdout"])
    assert out.read_text().split()[0] == "0"
    assert "new" in out.read_text().split()
    assert out.stat().st_uid == UID
    assert not (system / "new").exists()
    ran = as_ada(home, "run", "--json", "other.toml", "image.toml")
    assert 'write identity = "self" or "root"' in ran.jobs["other"]["reason"]
    assert "only root attaches images: unpack it into a folder" in ran.jobs["image"]["reason"]


def test_exit_codes_signals_time_limits_and_interrupts(home, nothing_left):
    assert as_ada(home, "run", "--", "sh", "-c", "exit 7").code == 7
    assert as_ada(home, "run", "--", "sh", "-c", "kill -9 $$").code == 137
    assert as_ada(home, "run", "--", "no-such-program").code == 127
    stubborn = "trap '' TERM; (sleep 60 &); while true; do sleep 0.1; done"
    job(home, "long", f'script = "{stubborn}"\ntime_limit = "300ms"\npreempt.grace_time = "200ms"\n')
    ran = as_ada(home, "run", "--json", "long.toml")
    assert ran.jobs["long"]["state"] == "TIMEOUT"
    process = subprocess.Popen(
        [sys.executable, "-m", "batchns", "run", "--", "sleep", "60"], stderr=subprocess.PIPE, **ada(home)
    )
    until(lambda: "sleep" in processes_of_ada())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM  # what the command ended by
    assert processes_of_ada() == []


def test_a_killed_run_of_a_user_leaves_no_process_and_the_next_one_sweeps(home, nothing_left):
    job(home, "many", 'script = "touch ready; (sleep 60 &) ; sleep 60"\narray = "1-4"\nresources.cpus = 0.1\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "batchns", "run", "many.toml"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        **ada(home),
    )
    until((home / "ready").exists)
    process.kill()
    process.communicate()
    until(lambda: processes_of_ada() == [])
    folder = Path("/srv/runtime/batchns")
    assert [path.name for path in folder.glob("run-*")]
    assert as_ada(home, "run", "--", "true").code == 0
    assert list(folder.glob("run-*")) == list((folder / "slots").iterdir()) == []


def test_a_users_job_has_its_loopback_and_nothing_else(home):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept(), daemon=True).start()
        program = (
            "import socket\n"
            "own = socket.create_server(('127.0.0.1', 0))\n"
            "socket.create_connection(own.getsockname()).close()\n"
            "print('own')\n"
            f"for place in (('127.0.0.1', {server.getsockname()[1]}), ('192.0.2.1', 9)):\n"
            "    try:\n"
            "        socket.create_connection(place, 1)\n"
            "        print('reached', place)\n"
            "    except OSError:\n"
            "        pass\n"
        )
        ran = as_ada(home, "run", "--", "python3", "-c", program)
        assert ran.stdout == "own\n"
        socket.create_connection(server.getsockname()).close()


@pytest.mark.parametrize("made", ["by another", "for all", "a link"])
def test_a_run_folder_that_is_not_the_users_alone_is_refused(home, made):
    """Without XDG_RUNTIME_DIR its place is open to all."""
    folder = Path(f"/tmp/batchns-{UID}")
    assert not folder.exists()
    try:
        if made == "a link":
            folder.symlink_to("/srv/runtime")
            os.lchown(folder, UID, UID)
        else:
            folder.mkdir(mode=0o777)
            folder.chmod(0o777)
            os.chown(folder, 0 if made == "by another" else UID, UID)
        ran = as_ada(home, "run", "--", "true", env={"PATH": os.environ["PATH"], "HOME": str(home)})
        assert ran.code == 125
        assert f"{folder}: others can write there, or have made it - set XDG_RUNTIME_DIR" in ran.stderr
    finally:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)


def test_doctor_tells_a_user_what_there_is_and_what_is_not(home):
    ran = as_ada(home, "doctor", "--json")
    facts = {fact["name"]: fact for fact in json.loads(ran.stdout)["facts"]}
    assert ran.code == 0
    assert facts["user"]["status"] == facts["cgroups"]["status"] == facts["network"]["status"] == "limited"
    assert "Delegate=yes" in facts["cgroups"]["hint"]
    assert facts["run folder"]["found"].startswith("/srv/runtime/batchns")
    assert facts["state folder"]["found"].startswith(f"{home}/.local/state/batchns")


@pytest.fixture
def delegated(home) -> Iterator[Path]:
    """A cgroup v2 subtree of ada's, as systemd's Delegate=yes makes one."""
    mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(), "/sys/fs/cgroup")
    tops = [Path(mount.point) for mount in mounts if mount.version == 2]
    if not tops or "memory" not in (tops[0] / "cgroup.controllers").read_text().split():
        pytest.skip("no cgroup v2 controllers on this host")
    (tops[0] / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS if name != "io"))
    group = tops[0] / "test-delegated"
    group.mkdir()
    try:
        for path in (group, *(group / name for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))):
            os.chown(path, UID, UID)
        yield group
    finally:
        for folder in sorted(group.rglob("*"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        group.rmdir()


def test_limits_are_in_force_where_a_cgroup_is_delegated(home, delegated):
    """The run was started inside of it, as by systemd-run --user --scope. Strict jobs run there, too."""
    eat = "x = bytearray(200 << 20); print(len(x))"
    job(home, "small", f"command = ['python3', '-c', '{eat}']\n[resources]\nmemory = \"64MiB\"\n")
    rest = 'memory = "400MiB"\nstrict = true\n[network]\nmode = "none"\n'
    job(home, "large", f"command = ['python3', '-c', '{eat}']\n[resources]\n{rest}")
    change = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]

    def enter() -> None:
        end_with_parent()
        leaf = delegated / "batchns.caller"  # where the caller of the first run is by now
        ((leaf if leaf.exists() else delegated) / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-m", "batchns", "run", "--json", "small.toml", "large.toml"]
    settings = {name: ada(home)[name] for name in ("cwd", "env", "stdin")}
    for _ in range(2):  # the second run finds what the first one has made
        done = subprocess.run(
            [*change, *command], capture_output=True, text=True, timeout=90, preexec_fn=enter, **settings
        )
        ran = Ran(code=done.returncode, stdout=done.stdout, stderr=done.stderr)
        assert ran.jobs["small"]["state"] == "OUT_OF_MEMORY", ran.stderr
        assert ran.jobs["large"]["state"] == "COMPLETED"
        assert ran.jobs["large"]["limits"]["memory"]["value"] == 400 << 20
        assert ran.jobs["large"]["memory_peak_bytes"] > 200 << 20
        assert [path.name for path in delegated.iterdir() if path.is_dir()] == ["batchns.caller"]


def test_devices_of_the_machine_are_not_a_users_to_give(home):
    """Refused by name before anything starts; without them the missing rules are named in the result."""
    settings = home / "batchns.toml"
    settings.write_text('[node.resources]\nfpga = { devices = ["/dev/kmsg"] }\nseats = 2\n')
    job(home, "asks", 'command = ["true"]\nresources.fpga = 1\n')
    ran = as_ada(home, "run", "--config", "batchns.toml", "asks.toml")
    assert ran.code == 2
    assert "job asks: fpga: its devices can be given to jobs by root only" in ran.stderr
    job(home, "plain", 'command = ["true"]\nresources.seats = 1\n')
    ran = as_ada(home, "run", "--config", "batchns.toml", "--json", "plain.toml")
    assert ran.jobs["plain"]["state"] == "COMPLETED"
    assert ran.jobs["plain"]["limits"]["devices"] == {"value": None, "why": "device rules are root's to set"}
