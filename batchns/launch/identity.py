"""Who the processes of a job are: the last steps of the command, and of init, inside the job's user namespace.

The command ends up without any capability and without a way to gain one (empty bounding set, locked securebits,
no_new_privs). init is another user, so that the command can neither signal nor trace it; it keeps CAP_KILL alone.
"""

from __future__ import annotations

import os
import resource
import signal
from errno import EINVAL, ENOENT

from batchns.errors import StepError
from batchns.kernel import syscalls as sys
from batchns.launch.plan import Command, Credentials


def lock_capabilities() -> None:
    """Before the fork, for both: empty the bounding set, lock the securebits, set no_new_privs.

    SECBIT_NO_SETUID_FIXUP keeps the sets over the change of uid, so that each drops exactly what it must.
    """
    capability = 0
    while True:
        try:
            sys.prctl(sys.PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            break  # past the kernel's last capability
        capability += 1
    sys.prctl(sys.PR_SET_SECUREBITS, sys.SECBITS_LOCKED)
    sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)


def become_init(credentials: Credentials, *, die_with_parent: bool) -> None:
    """init's own identity; with `die_with_parent` the kernel ends it, and so the job, when the launcher dies."""
    os.setresgid(credentials.init, credentials.init, credentials.init)
    os.setresuid(credentials.init, credentials.init, credentials.init)
    sys.set_capabilities(1 << sys.CAP_KILL)
    sys.prctl(sys.PR_SET_DUMPABLE, 0)
    if die_with_parent:
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)


def become_command(credentials: Credentials, command: Command) -> None:
    """Everything between the fork and the exec, except the descriptors.

    Raises:
        StepError: step "identity" or "cwd".
    """
    os.setsid()
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # those that Python has changed
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if command.oom_score_adj:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, str(command.oom_score_adj).encode())
        os.close(fd)
    for kind, value in command.rlimits:
        resource.setrlimit(kind, (value, value))
    os.setresgid(credentials.gid, credentials.gid, credentials.gid)
    os.setresuid(credentials.uid, credentials.uid, credentials.uid)
    sys.set_capabilities(0)
    os.umask(0o022)
    try:
        os.chdir(command.cwd)
    except OSError as error:
        raise StepError("cwd", command.cwd, error.errno or 0, "write a folder that the job may enter") from None


def execute(command: Command) -> None:
    """Replace this process by the command; searches env's PATH as execvp(3) does.

    Raises:
        StepError: step "exec", with the errno that decides between exit codes 126 and 127.
    """
    env = dict(command.env)
    name = command.argv[0]
    folders = [""] if "/" in name else env.get("PATH", "/usr/bin:/bin").split(":")
    denied: OSError | None = None
    missing: OSError | None = None
    for folder in folders:
        path = f"{folder}/{name}" if folder else name
        try:
            os.execve(path, command.argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            denied = denied or error
    cause = denied or missing
    hint = "no such command inside the sandbox" if denied is None else ""
    raise StepError("exec", name, (cause.errno if cause else None) or ENOENT, hint)
