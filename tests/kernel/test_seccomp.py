"""The default filter on a real kernel: each refused call is tried with and without it; what programs need works."""

from __future__ import annotations

import errno
import os
import platform
import pty
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from seccomp_calls import call, clone_with, getpid_by_int_0x80, in_child

from batchns.kernel import syscalls
from batchns.kernel.seccomp.compile import compiled
from batchns.kernel.seccomp.load import load
from batchns.kernel.seccomp.profile import default

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, so that only the filter can refuse"),
]
pyseccomp = pytest.importorskip("pyseccomp", exc_type=RuntimeError, reason="needs libseccomp2")

OK = 0
x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64 has calls of 32 bits")


def number(name: str) -> int:
    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


@pytest.fixture(scope="module")
def program() -> bytes:
    return compiled(default())


@pytest.fixture
def file(tmp_path: Path) -> bytes:
    path = tmp_path / "file"
    path.touch()
    return os.fsencode(path)


SUID, SGID = 0o4755, 0o2755
CREATE, TMPFILE = os.O_CREAT | os.O_WRONLY, os.O_TMPFILE | os.O_WRONLY
ON_FILES: dict[str, Callable[[bytes], int]] = {
    "chmod set-uid": lambda file: call(number("chmod"), file, SUID),
    "chmod set-gid": lambda file: call(number("chmod"), file, SGID),
    "fchmod": lambda file: call(number("fchmod"), os.open(file, os.O_RDONLY), SUID),
    "fchmodat": lambda file: call(number("fchmodat"), -100, file, SUID),
    "fchmodat with high bits": lambda file: call(number("fchmodat"), -100, file, SUID | 1 << 40),
    "creat": lambda file: call(number("creat"), file + b"2", SUID),
    "open": lambda file: call(number("open"), file + b"2", CREATE, SUID),
    "openat": lambda file: call(number("openat"), -100, file + b"2", CREATE, SGID),
    "openat with O_TMPFILE": lambda file: call(number("openat"), -100, os.path.dirname(file), TMPFILE, SUID),
    "mkdir": lambda file: call(number("mkdir"), file + b"2", SGID),
    "mkdirat": lambda file: call(number("mkdirat"), -100, file + b"2", SGID),
    "mknod": lambda file: call(number("mknod"), file + b"2", 0o100000 | SUID, 0),
    "mknodat": lambda file: call(number("mknodat"), -100, file + b"2", 0o100000 | SGID, 0),
}


@pytest.mark.parametrize("attempt", ON_FILES.values(), ids=ON_FILES)
def test_no_set_uid_file_can_be_made(attempt: Callable[[bytes], int], file: bytes, program: bytes) -> None:
    assert in_child(lambda: attempt(file), program) == errno.EPERM
    modes = [os.stat(os.path.join(os.path.dirname(file), name)).st_mode for name in os.listdir(os.path.dirname(file))]
    assert not any(mode & 0o6000 for mode in modes)
    assert in_child(lambda: attempt(file), None) == OK


def test_fchmodat2_does_not_get_around_it(file: bytes, program: bytes) -> None:
    without = in_child(lambda: call(452, -100, file, SUID, 0), None)
    assert without in (OK, errno.ENOSYS)  # Linux 6.6 and later have it
    os.chmod(file, 0o755)
    assert in_child(lambda: call(452, -100, file, SUID, 0), program) in (errno.EPERM, errno.ENOSYS)
    assert not os.stat(file).st_mode & 0o6000


NEW = {
    "NEWNS": 0x20000,
    "NEWCGROUP": 0x2000000,
    "NEWUTS": 0x4000000,
    "NEWIPC": 0x8000000,
    "NEWUSER": 0x10000000,
    "NEWPID": 0x20000000,
    "NEWNET": 0x40000000,
}


@pytest.mark.parametrize("flag", NEW.values(), ids=NEW)
def test_no_namespace_can_be_made(flag: int, program: bytes) -> None:
    for attempt in (lambda: clone_with(flag, number("clone")), lambda: call(number("unshare"), flag)):
        assert in_child(attempt, program) == errno.EPERM
        assert in_child(attempt, None) == OK


def test_clone3_does_not_exist(program: bytes) -> None:
    """ENOSYS is what makes C libraries fall back to clone; without the filter an empty struct is EINVAL."""
    assert in_child(lambda: call(435, b"\0" * 64, 0), program) == errno.ENOSYS
    assert in_child(lambda: call(435, b"\0" * 64, 0), None) == errno.EINVAL


@pytest.mark.parametrize("family", [17, 38, 40, 44, 17 | 1 << 32, 40 | 1 << 32])
def test_other_families_of_sockets_do_not_exist(family: int, program: bytes) -> None:
    kind = {17: 3, 38: 5, 40: 1, 44: 3}[family & 0xFF]
    attempt = lambda: call(number("socket"), family, kind, 0)  # noqa: E731
    assert in_child(attempt, program) == errno.EAFNOSUPPORT
    without = in_child(attempt, None)
    if without == errno.EAFNOSUPPORT:
        pytest.skip("this kernel lacks the family")
    assert without == OK


def test_of_netlink_there_is_the_routing_protocol_only(program: bytes) -> None:
    assert in_child(lambda: call(number("socket"), 16, 3, 0), program) == OK
    assert in_child(lambda: call(number("socket"), 16, 3, 16), program) == errno.EPROTONOSUPPORT
    assert in_child(lambda: call(number("socket"), 16, 3, 16), None) == OK


REFUSED: dict[str, tuple[Callable[[], int], int]] = {
    "io_setup": (lambda: call(number("io_setup"), 1, b"\0" * 8), errno.ENOSYS),
    "io_uring_setup": (lambda: call(425, 1, b"\0" * 120), errno.ENOSYS),
    "keyctl": (lambda: call(number("keyctl"), 0, -3, 0), errno.ENOSYS),
    "add_key": (lambda: call(number("add_key"), b"user", b"batchns-test", b"x", 1, -2), errno.ENOSYS),
    "userfaultfd": (lambda: call(number("userfaultfd"), 1), errno.ENOSYS),
    "bpf": (lambda: call(number("bpf"), 0, b"\x02\0\0\0\4\0\0\0\4\0\0\0\1\0\0\0" + b"\0" * 100, 116), errno.EPERM),
    "mount": (lambda: call(number("mount"), b"none", b"/nowhere", b"tmpfs", 0, None), errno.EPERM),
    "umount2": (lambda: call(number("umount2"), b"/nowhere", 0), errno.EPERM),
    "fsopen": (lambda: call(430, b"tmpfs", 1), errno.ENOSYS),
    "open_tree": (lambda: call(428, -100, b"/", 1), errno.ENOSYS),
    "setns": (lambda: call(number("setns"), os.open("/proc/self/ns/uts", os.O_RDONLY), 0), errno.EPERM),
    "chroot": (lambda: call(number("chroot"), b"/"), errno.EPERM),
    "openat2": (lambda: call(437, -100, b"/", b"\0" * 24, 24), errno.ENOSYS),
    "syslog": (lambda: call(number("syslog"), 10, None, 0), errno.EPERM),
    "personality": (lambda: call(number("personality"), 0x0400000), errno.ENOSYS),
    "unknown": (lambda: call(1023), errno.ENOSYS),
}


@pytest.mark.parametrize(("attempt", "refusal"), REFUSED.values(), ids=REFUSED)
def test_a_call_that_no_job_needs_is_refused(attempt: Callable[[], int], refusal: int, program: bytes) -> None:
    assert in_child(attempt, program) == refusal
    without = in_child(attempt, None)
    assert without != refusal or refusal == errno.ENOSYS


def test_what_is_said_not_to_exist_does(program: bytes) -> None:
    """The control of the answers ENOSYS: on this kernel at least these are real without the filter."""
    real = [name for name, (attempt, _) in REFUSED.items() if in_child(attempt, None) != errno.ENOSYS]
    assert {"fsopen", "open_tree", "openat2", "mount", "personality"} <= set(real)
    assert "unknown" not in real


@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
@pytest.mark.parametrize("request_", [0x5412, 0x5423], ids=["TIOCSTI", "TIOCSETD"])
def test_no_ioctl_types_on_a_terminal_or_changes_its_discipline(request_: int, high: int, program: bytes) -> None:
    """The kernel takes 32 bits of the request: with others set, TIOCSTI is TIOCSTI still."""
    main, terminal = pty.openpty()
    argument = b"\0" * 8  # one NUL to type; N_TTY as the discipline

    def attempt() -> int:
        os.setsid()
        call(number("ioctl"), terminal, 0x540E, 0)  # TIOCSCTTY
        return call(number("ioctl"), terminal, request_ | high, argument)

    try:
        assert in_child(attempt, program) == errno.EPERM
        assert in_child(attempt, None) in (OK, errno.EIO)  # EIO: dev.tty.legacy_tiocsti is 0
    finally:
        os.close(main)
        os.close(terminal)


@x86_only
def test_a_32_bit_call_ends_the_process(program: bytes) -> None:
    if in_child(getpid_by_int_0x80, None) != OK:
        pytest.skip("this kernel runs no 32-bit calls")
    assert in_child(getpid_by_int_0x80, program) == -signal.SIGSYS


@x86_only
def test_an_x32_call_ends_the_process(program: bytes) -> None:
    attempt = lambda: call(0x40000000 | 39)  # noqa: E731
    assert in_child(attempt, None) in (OK, errno.ENOSYS)
    assert in_child(attempt, program) == -signal.SIGSYS


def test_the_filter_needs_no_new_privs_without_capabilities(program: bytes) -> None:
    def attempt() -> int:
        os.setresuid(65534, 65534, 65534)
        try:
            load(program)
        except OSError as error:
            return error.errno or 255
        return OK

    assert in_child(attempt, None) == errno.EACCES


def test_a_program_that_the_kernel_refuses_is_an_error() -> None:
    def attempt() -> int:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        try:
            load(b"\xff" * 8)
        except OSError as error:
            return error.errno or 255
        return OK

    assert in_child(attempt, None) == errno.EINVAL


def run_filtered(program: bytes, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program under the filter, spawned by a Python that has loaded it, as a job's command is."""
    (cwd / "filter").write_bytes(program)
    start = textwrap.dedent("""
        import os, sys
        from batchns.kernel import syscalls
        from batchns.kernel.seccomp.load import load
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        load(open("filter", "rb").read())
        pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, setsid=True)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
    """)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(cwd)}
    argv = (sys.executable, "-c", start, *argv)
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False)


PYTHON = {
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool: assert sum(pool.map(abs, range(-100, 0))) == 5050""",
    "multiprocessing": """
        import multiprocessing
        from multiprocessing import shared_memory
        with multiprocessing.get_context("fork").Pool(2) as pool: assert sum(pool.map(abs, range(-9, 0))) == 45
        queue = multiprocessing.Queue(); queue.put(1); assert queue.get() == 1
        shared = shared_memory.SharedMemory(create=True, size=4096); shared.close(); shared.unlink()""",
    "asyncio": """
        import asyncio
        async def main():
            async def serve(reader, writer): writer.write(await reader.readline()); writer.close()
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x\\n"); assert await reader.readline() == b"x\\n"
            process = await asyncio.create_subprocess_exec("true"); assert await process.wait() == 0
        asyncio.run(main())""",
    "sockets": """
        import socket
        assert socket.getaddrinfo("localhost", 80)
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); socket.socketpair()
        assert socket.if_nameindex()""",
    "subprocess": """
        import subprocess
        assert subprocess.run("echo a b | tr a-z A-Z | cat", shell=True, capture_output=True).stdout == b"A B\\n"
        subprocess.run(["true"], preexec_fn=lambda: None, check=True, start_new_session=True)""",
    "files": """
        import fcntl, os, mmap, tempfile, shutil
        with open("f", "wb") as f:
            f.write(b"x" * 9000); f.flush(); fcntl.flock(f, fcntl.LOCK_EX); os.posix_fallocate(f.fileno(), 0, 16384)
        with open("f", "rb") as f, open("g", "wb") as g:
            os.sendfile(g.fileno(), f.fileno(), 0, 100)
            try: os.copy_file_range(f.fileno(), g.fileno(), 100)
            except OSError as error: assert error.errno in (18, 22, 95), error
            r, w = os.pipe(); assert os.splice(f.fileno(), w, 10) == 10
        with tempfile.TemporaryFile() as t: t.write(b"x")
        os.close(os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600))
        os.chmod("f", 0o1750); os.mkdir("d", 0o755); os.mkfifo("p"); os.symlink("f", "s"); os.mkdir("e")
        shutil.copytree("d", "e/d", copy_function=shutil.copy2); shutil.rmtree("e")""",
    "memory": """
        import ctypes, mmap, os
        m = mmap.mmap(-1, 1 << 20); m.madvise(mmap.MADV_DONTNEED)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(m)), 4096) == 0
        os.ftruncate(os.memfd_create("x"), 4096)
        key = libc.shmget(0, 4096, 0o1600); assert key >= 0 and libc.shmctl(key, 0, None) == 0""",
    "events": """
        import ctypes, os, select, signal, threading
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.timerfd_create(1, 0) >= 0 and libc.inotify_init1(0) >= 0
        select.epoll().register(os.eventfd(1)); select.select([], [], [], 0)
        signal.setitimer(signal.ITIMER_REAL, 0.01); assert signal.sigtimedwait({signal.SIGUSR1}, 0) is None
        signal.signal(signal.SIGALRM, lambda *_: None); signal.pause()
        os.close(os.pidfd_open(os.getpid()))""",
    "scheduling": """
        import os
        os.sched_setaffinity(0, os.sched_getaffinity(0)); os.nice(1); os.getloadavg(); os.sched_yield()
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))""",
    "a pseudo terminal": """
        import os, pty
        main, side = os.openpty(); os.write(side, b"x"); assert os.read(main, 1) == b"x"
        pid, fd = pty.fork()
        if pid == 0: os.execvp("tty", ["tty"])
        assert os.waitpid(pid, 0)[1] == 0""",
}


@pytest.mark.parametrize("source", PYTHON.values(), ids=PYTHON)
def test_python_works(source: str, program: bytes, tmp_path: Path) -> None:
    lines = textwrap.dedent(source).strip()
    done = run_filtered(program, sys.executable, "-c", lines, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("seq 100 | sort -rn | head -1 | grep -qx 100 && (sleep 0.01 & wait)", id="pipeline"),
        pytest.param("mkdir a && touch a/b && tar cf a.tar a && rm -r a && tar xpf a.tar && test -f a/b", id="tar"),
        pytest.param("printf 'int main(void){return 0;}' > m.c && gcc m.c -o m && ./m", id="gcc", marks=needs("gcc")),
        pytest.param("printf 'a: b\\n\\tcp b a\\nb:\\n\\techo 1 > b\\n' > Makefile && make -j2 && test -f a", id="make",
                     marks=needs("make")),
        pytest.param("git init -q . && git -c user.name=a -c user.email=b commit -q --allow-empty -m x && git gc -q",
                     id="git", marks=needs("git")),
        pytest.param("java -version", id="java", marks=needs("java")),
        pytest.param("node -e 'require(\"fs\").readFile(\"/etc/hostname\", () => console.log(1))' | grep -qx 1",
                     id="node", marks=needs("node")),
        pytest.param("ip address show lo | grep -q 127.0.0.1 || ip link show lo", id="ip", marks=needs("ip")),
        pytest.param("strace -f -o trace sh -c 'true; true' && test -s trace", id="strace", marks=needs("strace")),
    ],
)  # fmt: skip
def test_programs_work(script: str, program: bytes, tmp_path: Path) -> None:
    done = run_filtered(program, "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
