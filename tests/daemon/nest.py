"""A process that has everything loaded, and forks a daemon when it is told to: a restart takes a third of the time.

    python -m tests.daemon.nest CONFIG LOG

Reads lines: "start" (answered with the pid), "held" (the same, waiting for SIGCONT before it does anything),
"wait PID" (answered with its exit status, as `os.waitstatus_to_exitcode` has it).
"""

from __future__ import annotations

import os
import signal
import sys

import trio  # noqa: F401

import batchns.daemon.main  # noqa: F401
from batchns.cli import main as cli


def main() -> None:
    config, log = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})  # it may come before a held child waits for it
    while line := os.read(0, 4096).decode():
        word, _, rest = line.strip().partition(" ")
        if word == "wait":
            _, status = os.waitpid(int(rest), 0)
            answer = os.waitstatus_to_exitcode(status)
        elif answer := os.fork():
            pass
        else:
            _become_daemon(config, log, held=word == "held")
        os.write(1, f"{answer}\n".encode())


def _become_daemon(config: str, log: str, *, held: bool) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)
    os.chdir("/")
    if held:
        signal.sigwait({signal.SIGCONT})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCONT})
    sys.argv = ["batchns", "daemon", "--config", config]
    code: object = 1
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
