"""Who the processes of a job are: init's last steps as it starts the command inside the job's user namespace.

The command ends up without any capability and without a way to gain one (empty bounding set, locked securebits,
no_new_privs). init is another user, so that the command can neither signal nor trace it; it keeps CAP_KILL alone.

The command is spawned, not forked: posix_spawn(3) shares init's memory until the exec, and spares a copy of its page
tables and 1.5 ms. So init takes on the command's identity for the spawn and its own afterwards. It is not dumpable
from before the command exists, and exec drops what is left of the capabilities: nothing makes a uid 0 special here.
"""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress
from errno import EACCES, EINVAL, ENOENT, EPERM

from batchns.errors import StepError
from batchns.kernel import landlock, lsm
from batchns.kernel import syscalls as sys
from batchns.kernel.seccomp.load import load
from batchns.launch.plan import Command, Credentials

_EVERY_SIGNAL = frozenset(map(int, signal.valid_signals()))
_KEPT = 1 << sys.CAP_KILL
_WHILE_STARTING = _KEPT | 1 << sys.CAP_SETUID | 1 << sys.CAP_SETGID


def make_user_namespace(owner: int) -> None:
    """Enter a new user namespace, which belongs to the host's user `owner` (-1: to this process's).

    A namespace is its maker's: the effective uid is changed for that, without losing the capabilities that some hosts
    ask for. In the new namespace this process has every capability, as ever. user_namespaces(7).
    """
    if owner >= 0:
        sys.prctl(sys.PR_SET_SECUREBITS, sys.SECBIT_NO_SETUID_FIXUP)
        os.setresuid(-1, owner, -1)
    sys.unshare(sys.CLONE_NEWUSER)


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


def open_score(value: int) -> int:
    """A descriptor of this process's own oom_score_adj, which is `value` now.

    Where batchns has CAP_SYS_RESOURCE no process of the job can lower it again, and this one neither.
    """
    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(score, str(value).encode())
    return score


def limit(rlimits: tuple[tuple[int, int, int], ...]) -> None:
    """Before the user namespace is entered: where a hard limit is lower it stays, unless batchns may raise it."""
    for kind, soft, hard in rlimits:
        try:
            resource.setrlimit(kind, (soft, hard))
        except ValueError:  # EPERM, in the resource module's words
            most = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (min(soft, most), most))


def start_command(
    credentials: Credentials,
    command: Command,
    descriptors: tuple[int, ...],
    program: bytes,
    score: int,
    layer: int,
    *,
    terminal: str = "",
    own: int = -1,
) -> int:
    """Start the command with its own identity, in its working folder, in a session of its own: its pid.

    `program`: the seccomp filter (b"" for none), `layer`: a Landlock ruleset (-1 for none), closed here; init lives
    under both from here on, too. `score`: of `open_score`, closed here. `terminal`: the path of the one that controls
    the session, in the place of `descriptors`. `own`: of `kernel.lsm`, where the command is confined; closed
    here. On return init is what it stays: its own user, with CAP_KILL alone.

    Raises:
        StepError: step "cwd", "AppArmor", "SELinux", "landlock", "seccomp"; or "exec", with the errno that decides
            between exit codes 126 and 127.
    """
    sys.prctl(sys.PR_SET_DUMPABLE, 0)
    os.setresgid(credentials.gid, credentials.gid, credentials.init)
    os.setresuid(credentials.uid, credentials.uid, credentials.init)
    sys.prctl(sys.PR_SET_DUMPABLE, 0)  # a change of uid resets it to what fs.suid_dumpable says
    sys.set_capabilities(_WHILE_STARTING)
    os.umask(0o022)
    try:
        os.chdir(command.cwd)
    except OSError as error:
        raise StepError("cwd", command.cwd, error.errno or 0, "write a folder that the job may enter") from None
    sys.close_range(3, 0xFFFFFFFF, sys.CLOSE_RANGE_CLOEXEC)
    _confine(command, own)
    if layer >= 0:
        _restrict(layer)
    if program:
        _load_filter(program)
    pid = _spawn(command, descriptors, terminal)
    os.chdir("/")
    os.setresgid(credentials.init, credentials.init, credentials.init)
    os.setresuid(credentials.init, credentials.init, credentials.init)
    sys.set_capabilities(_KEPT)
    sys.prctl(sys.PR_SET_DUMPABLE, 0)
    with suppress(PermissionError):  # then the launcher does it
        os.write(score, b"0")  # in a job that runs out of memory init is the last to go
    os.close(score)
    return pid


def _confine(command: Command, own: int) -> None:
    """From the next exec on. init executes nothing: it stays what it is, and may kill the command and be told of it."""
    for module, name in command.confined:
        try:
            lsm.set_on_exec(own, module, name)
        except OSError as error:
            number = error.errno or 0
            raise StepError(module, name, number, _UNCONFINED[module].get(number, "")) from None
    if own >= 0:
        os.close(own)


_NOT_RUNNING = "this kernel does not run it: see batchns doctor"
_UNCONFINED = {
    lsm.APPARMOR: {
        ENOENT: "no such profile is loaded: apparmor_parser -r the file that has it, or see batchns doctor",
        EINVAL: _NOT_RUNNING,
        EACCES: "batchns is confined itself, and its profile has no change_profile rule for this one",
        EPERM: "batchns is confined itself: under no_new_privs a profile can only be changed from unconfined",
    },
    lsm.SELINUX: {
        ENOENT: _NOT_RUNNING,
        EINVAL: "the policy that is loaded does not know this label, or SELinux is off: see seinfo and batchns doctor",
        EACCES: "the policy does not let batchns's own domain do that (process setexec): see ausearch -m avc",
    },
}


def _restrict(layer: int) -> None:
    try:
        landlock.restrict(layer)
    except OSError as error:
        raise StepError("landlock", "", error.errno or 0) from None
    os.close(layer)


def _load_filter(program: bytes) -> None:
    try:
        load(program)
    except OSError as error:
        raise StepError("seccomp", "", error.errno or 0) from None


def _spawn(command: Command, descriptors: tuple[int, ...], terminal: str) -> int:
    """Search env's PATH as execvp(3) does, and spawn what is found."""
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]]
    env = dict(command.env)
    name = command.argv[0]
    folders = [""] if "/" in name else env.get("PATH", "/usr/bin:/bin").split(":")
    if terminal:  # opened by the leader of a new session, it is the one that controls it
        actions = [(os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2)]
    else:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(descriptors)]
    denied = False
    for folder in folders:
        path = f"{folder}/{name}" if folder else name
        try:
            return os.posix_spawn(
                path,
                command.argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_EVERY_SIGNAL,
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            denied = True
        except OSError as error:
            raise StepError("exec", path, error.errno or 0) from None
    if denied:
        raise StepError("exec", name, EACCES, _denied(command))
    raise StepError("exec", name, ENOENT, "no such command inside the sandbox")


def _denied(command: Command) -> str:
    """What may have refused it besides its mode."""
    if not command.confined:
        return ""
    names = " and ".join([f"{module} {name}" for module, name in command.confined])
    return f"its mode, or {names}: a label needs the right to nnp_transition and nosuid_transition, see dmesg"
