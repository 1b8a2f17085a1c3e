"""What a job finds in its sandbox, and what it does not: looked at from inside, and from the host."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
import trio

from batchns.launch import build
from batchns.model.job import Bind, Isolation

from .conftest import ID_START, in_launcher, make_plan

pytestmark = pytest.mark.kernel

# Part of a program: the mount flags of a path, as the kernel sees them (statvfs(3)).
FLAGS = """
import os
def flags(path):
    names = dict(ro=os.ST_RDONLY, nosuid=os.ST_NOSUID, nodev=os.ST_NODEV, noexec=os.ST_NOEXEC)
    return [name for name, bit in names.items() if os.statvfs(path).f_flag & bit]
"""


@pytest.mark.parametrize("code", [0, 1, 3, 125, 126, 127, 255])
def test_the_exit_code_arrives_unchanged(run, code):
    outcome = run(script=f"exit {code}")
    assert (outcome.exit_code, outcome.signal) == (code, None)


@pytest.mark.parametrize("number", [1, 6, 9, 11, 13, 15])
def test_the_signal_that_ends_the_command_arrives_unchanged(run, number):
    outcome = run(script=f"kill -{number} $$; sleep 5")
    assert (outcome.exit_code, outcome.signal) == (None, number)


def test_all_seven_namespaces_are_the_jobs_own(run):
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    outcome = run(script="".join(f"readlink /proc/self/ns/{kind}\n" for kind in kinds))
    inside = outcome.output.split()
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert len(inside) == 7
    assert not set(inside) & set(outside)


def test_the_command_has_no_capability_and_cannot_gain_one(run):
    """Root inside, and every set empty; a set-uid program gives nothing back (no_new_privs)."""
    outcome = run(script="id -u; grep -E '^(Cap|NoNewPrivs)' /proc/self/status; su -c id nobody")
    lines = outcome.output.splitlines()
    assert lines[0] == "0"
    sets = dict(line.split(":\t") for line in lines[1:7])
    assert sets.pop("NoNewPrivs") == "1"
    assert set(sets) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert set(sets.values()) == {"0" * 16}
    assert outcome.exit_code != 0


def test_the_job_is_never_host_root(run, folder):
    """What it makes in a folder of its own in /tmp belongs to its range; the host sees no uid 0 process."""
    outcome = run(script="cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups; id -G")
    numbers = outcome.output.split()
    assert numbers[:3] == ["0", str(ID_START), "65536"]
    assert numbers[3:6] == ["0", str(ID_START), "65536"]
    assert numbers[6:] == ["deny", "0"]


def test_the_working_folder_is_the_users_own(run, folder):
    """A folder of host root with mode 0700 is read and written; what the job makes there is host root's outside."""
    (folder / "input").write_text("42\n")
    (folder / "input").chmod(0o600)
    outcome = run(script="cat input; echo result > output; mkdir sub; stat -c %u input output sub")
    assert outcome.output.split() == ["42", "0", "0", "0"]
    made = (folder / "output").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (0, 0, 0o644)


def test_the_root_is_read_only_and_the_working_folder_is_not(run, folder):
    script = (
        "for d in / /etc /usr /usr/bin /var /var/lib /home /root /boot; do touch $d/bns 2>/dev/null && echo $d; done"
    )
    outcome = run(script=f"{script}; awk '$4 !~ /^ro/ {{print $2}}' /proc/mounts; touch here && echo written")
    words = outcome.output.split()
    writable = {"/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp", "/run", str(folder)}
    assert words[-1] == "written"
    assert set(words[:-1]) <= writable
    assert os.access("/etc", os.W_OK), "the host's own /etc is writable, or this shows nothing"


def test_nothing_of_the_hosts_mounts_can_be_reached_under_the_new_root(run):
    """Going up from the root stays in the root, and the old root is gone from the mount table."""
    outcome = run(
        script="cd /; cd ..; cd ../..; pwd -P; grep -c ' / / ' /proc/self/mountinfo; ls -di / | cut -d' ' -f1"
    )
    lines = outcome.output.split()
    assert lines[0] == "/"
    assert lines[1] == "1"


def test_proc_shows_the_jobs_processes_only(run):
    outcome = run(script="ls /proc | grep -cE '^[0-9]+$'; ps ax -o pid= | wc -l")
    assert int(outcome.output.split()[0]) <= 5
    assert len([name for name in os.listdir("/proc") if name.isdigit()]) > 5


def test_dangerous_parts_of_proc_are_hidden_or_read_only(run):
    """Each masked file gives nothing, each read-only tree refuses; the host's own are open to host root."""
    masked = [path for path in build.MASKED if os.path.exists(path)]
    assert masked
    read = "; ".join(f"(cat {path}; ls -A {path} | grep -v ^{path}$) 2>/dev/null" for path in masked)
    outcome = run(script=read)
    assert outcome.output == ""
    outcome = run(script="echo x > /proc/sys/kernel/core_pattern; echo h > /proc/sysrq-trigger; true")
    assert outcome.output.count("cannot create") == 2
    assert os.access("/proc/sys/kernel/core_pattern", os.W_OK)


def test_read_only_trees_of_proc_are_mounts_of_their_own(run):
    """Whoever owns the files inside: no write gets as far as asking for permission."""
    trees = [path for path in build.READ_ONLY if os.path.exists(path)]
    assert trees
    outcome = run("/usr/bin/python3", "-c", f"{FLAGS}\nfor path in {trees}: print(path, *flags(path))")
    assert outcome.output.splitlines() == [f"{path} ro nosuid nodev noexec" for path in trees]
    assert not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY


def test_sys_shows_the_jobs_network_devices_only_and_no_cgroups(run):
    outcome = run(script="ls /sys/class/net; ls -A /sys/fs/cgroup")
    assert outcome.output.split() == ["lo"]
    assert len(os.listdir("/sys/class/net")) > 1


def test_dev_is_fresh_and_minimal(run):
    outcome = run(script="ls /dev; head -c 4 /dev/zero | wc -c; echo x > /dev/null; head -c 3 /dev/urandom | wc -c")
    *names, zeros, randoms = outcome.output.split()
    assert set(names) == {
        *("null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr"),
        *("ptmx", "pts", "shm", "mqueue"),
    }
    assert (zeros, randoms) == ("4", "3")


def test_a_pseudo_terminal_can_be_opened(run):
    outcome = run("/usr/bin/python3", "-c", "import os; a, b = os.openpty(); print(os.ttyname(b))")
    assert outcome.output == "/dev/pts/0\n"


def test_tmp_is_private_and_bounded(run):
    """1 MiB of scratch: what is larger does not fit. What the host has in /tmp is not seen, and nothing is left."""
    marker = Path("/tmp") / f"bns-marker-{os.getpid()}"
    marker.touch()
    try:
        script = f"ls /tmp/{marker.name} 2>/dev/null; head -c 900000 /dev/zero > /tmp/fits && echo fits; "
        outcome = run(script=script + "head -c 3000000 /dev/zero > /tmp/large 2>/dev/null || echo full; ls /var/tmp")
        assert outcome.output.split() == ["fits", "full"]
        assert not os.path.exists("/tmp/fits")
    finally:
        marker.unlink()


def test_run_is_the_jobs_own(run):
    """No socket of the host is in /run; a script's text is there, and only it."""
    outcome = run(script="find /run -mindepth 1")
    assert outcome.output.split() == ["/run/batchns", "/run/batchns/script"]


def test_only_three_descriptors_are_open(run):
    outcome = run("/usr/bin/python3", "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    assert outcome.output == "[0, 1, 2, 3]\n"  # 3 is listdir's own


def test_the_environment_is_built_afresh(run, monkeypatch):
    monkeypatch.setenv("BATCHNS_TEST_SECRET", "leak")
    monkeypatch.setenv("LD_PRELOAD", "")
    outcome = run("/usr/bin/env", env={"OMP_NUM_THREADS": "4"})
    names = {line.partition("=")[0] for line in outcome.output.splitlines()}
    assert names == {"PATH", "HOME", "TMPDIR", "SHELL", "USER", "LOGNAME", "LANG", "PWD", "OMP_NUM_THREADS"}


def test_init_cannot_be_signalled_traced_or_read(run):
    """init is another user inside, not dumpable: its descriptors, and so the exit record, are out of reach."""
    program = (
        "import os, ctypes\n"
        "for what in (lambda: os.kill(1, 9), lambda: os.kill(1, 19), lambda: os.listdir('/proc/1/fd'),\n"
        "             lambda: open('/proc/1/environ').read(), lambda: os.readlink('/proc/1/cwd')):\n"
        "    try: what(); print('done')\n"
        "    except PermissionError: print('denied')\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())\n"  # PTRACE_ATTACH
    )
    outcome = run("/usr/bin/python3", "-c", program)
    assert outcome.output.split() == ["denied"] * 5 + ["-1", "1"]


def test_orphans_are_reaped(run):
    """Processes whose parent has ended become init's, and do not stay as zombies."""
    outcome = run(script="for i in 1 2 3 4 5; do (true &) ; done; sleep 0.5; ps ax -o stat= | grep -c Z")
    assert outcome.output.strip() == "0"


def test_what_the_command_leaves_running_ends_with_it(run, folder):
    outcome = run(script="(while :; do date +%N >> alive; sleep 0.02; done) & sleep 0.5; test -s alive")
    assert outcome.exit_code == 0
    before = (folder / "alive").stat().st_size
    time.sleep(0.3)
    assert (folder / "alive").stat().st_size == before


def test_the_command_has_a_session_of_its_own_and_no_core_dumps(run):
    outcome = run(script="ps -o sid=,pid= $$; ulimit -c; ulimit -Hc; cat /proc/self/oom_score_adj; hostname; umask")
    sid, pid, soft, hard, score, hostname, mask = outcome.output.split()
    assert sid == pid
    assert (soft, hard, score, hostname, mask) == ("0", "0", "500", "test", "0022")


def test_limits_are_the_same_whoever_started_batchns(run):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4000, hard), hard))
    try:
        text = run(script="cat /proc/self/limits").output
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = {line[:26].strip(): tuple(line[26:].split()[:2]) for line in text.splitlines()}
    assert found["Max core file size"] == ("1", "1")
    assert found["Max locked memory"] == ("8388608", "8388608")
    assert found["Max open files"][0] == "1024"
    assert (found["Max nice priority"], found["Max realtime priority"]) == (("0", "0"), ("0", "0"))


@pytest.fixture
def core_program(tmp_path):
    """A program that the kernel of a virtual machine starts for each core: the file says whether it has been."""
    if "User Mode Linux" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("core_pattern is everybody's: it is changed in a virtual machine only")
    program, started, pattern = tmp_path / "core", tmp_path / "started", Path("/proc/sys/kernel/core_pattern")
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    before = pattern.read_text()
    pattern.write_text(f"|{program}")
    yield started
    pattern.write_text(before)


def test_a_crash_starts_no_program_of_the_hosts(run, core_program):
    """With no limit but the usual one of 0 the kernel does: it runs as root, outside of the job."""
    subprocess.run(["sh", "-c", "ulimit -c 0; sh -c 'kill -SEGV $$'; exit 0"], check=True)
    time.sleep(1)
    shown = core_program.exists()
    core_program.unlink(missing_ok=True)
    assert run(script="sh -c 'kill -SEGV $$'; exit 0").exit_code == 0
    time.sleep(1)
    assert (shown, core_program.exists()) == (True, False)


def may_lower_scores():
    return int(re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1], 16) >> 24 & 1


@pytest.mark.skipif(not may_lower_scores(), reason="needs CAP_SYS_RESOURCE")
def test_no_process_of_a_job_lowers_the_score_that_it_was_given(folder):
    """Also where batchns itself is one that the kernel hardly ever kills, as its unit says."""
    score = Path("/proc/self/oom_score_adj")
    lower = "for n in -900 -1 0 499; do (echo $n > /proc/self/oom_score_adj) 2> /dev/null && echo lowered; done; "
    plan = make_plan(folder, script=f"{lower} cat /proc/self/oom_score_adj; touch told; sleep 60")

    async def work(launcher):
        memory = os.memfd_create("output")
        null = os.open("/dev/null", os.O_RDONLY)
        started = await launcher.launch(plan, null, memory, memory)
        while not (folder / "told").exists():
            await trio.sleep(0.05)
        await launcher.signal(plan.attempt, signal.SIGKILL)
        found = os.pread(memory, 1000, 0).decode().split(), Path(f"/proc/{started.pid}/oom_score_adj").read_text()
        os.close(null)
        os.close(memory)
        return found

    score.write_text("-900")
    try:
        assert in_launcher(work) == (["500"], "0\n")
    finally:
        score.write_text("0")


def test_a_script_runs_by_its_interpreter_line(run):
    outcome = run(script="#!/usr/bin/python3\nimport sys\nprint(sys.version_info[0])\n")
    assert outcome.output == "3\n"


def test_binds_are_mapped_and_read_only_where_asked(run, tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "file").write_text("secret")
    (data / "file").chmod(0o600)
    binds = (Bind(str(data), "/tmp/rw"), Bind(str(data), "/tmp/ro", read_only=True))
    script = "cat /tmp/ro/file; echo; echo changed > /tmp/rw/file && cat /tmp/ro/file; echo x > /tmp/ro/file"
    outcome = run(script=script, isolation=Isolation(binds=binds))
    assert outcome.output.splitlines()[:2] == ["secret", "changed"]
    assert "Read-only file system" in outcome.output
    assert (data / "file").stat().st_uid == 0


def test_a_job_cannot_leave_a_set_uid_file_on_the_host(run, folder):
    """What it makes in root's folder is root's outside: with the set-uid bit it would be a root shell for everybody."""
    outcome = run(script="cp /usr/bin/id s; chmod 4755 s; chmod 2755 s; mkdir -m 2755 d; install -m 4755 s t; ls -l s")
    assert outcome.output.count("Operation not permitted") >= 3
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes["s"] == 0o755
    assert not [name for name, mode in modes.items() if mode & 0o6000]


def test_a_filter_is_in_force(run):
    assert run(script="grep Seccomp: /proc/self/status").output.split() == ["Seccomp:", "2"]


def test_a_set_uid_program_in_a_bind_has_no_effect(run, folder):
    """Binds are nosuid, and devices in them are dead (nodev)."""
    (folder / "id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chown(folder / "id", 1000, 1000)
    (folder / "id").chmod(0o4755)
    os.mknod(folder / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (folder / "null").chmod(0o666)
    outcome = run(script="./id -u; cat null")
    assert outcome.output.startswith("0\n")
    assert "Permission denied" in outcome.output


def test_every_bind_is_nosuid_and_nodev(run, folder, tmp_path):
    """Each is one of two guards (no_new_privs, and a device controller where there is one)."""
    binds = (Bind(str(tmp_path), "/tmp/rw"), Bind(str(tmp_path), "/tmp/ro", read_only=True))
    paths = [str(folder), "/tmp/rw", "/tmp/ro", "/"]
    program = f"{FLAGS}\nfor path in {paths}: print(*flags(path))"
    outcome = run("/usr/bin/python3", "-c", program, isolation=Isolation(binds=binds))
    found = outcome.output.splitlines()
    assert found == ["nosuid nodev", "nosuid nodev", "ro nosuid nodev", "ro nosuid nodev"]


def test_nothing_can_be_mounted_unmounted_or_renamed(run):
    program = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "calls = [lambda: libc.mount(b'none', b'/tmp', b'tmpfs', 0, None), lambda: libc.umount2(b'/proc/sys', 2),\n"
        "         lambda: libc.sethostname(b'x', 1), lambda: libc.mount(None, b'/', None, 32 | 4096, None),\n"
        "         lambda: libc.chroot(b'/tmp'), lambda: libc.unshare(0x20000)]\n"
        "for call in calls: print(call(), ctypes.get_errno())\n"
    )
    outcome = run("/usr/bin/python3", "-c", program)
    assert re.findall(r"(-?\d+) (\d+)", outcome.output) == [("-1", "1")] * 6
