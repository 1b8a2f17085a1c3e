"""Calls of Slurm's command line tools: the only place where any is started.

1. A clean environment: nothing of the caller's gets into a job by way of sbatch, which hands it all down.
2. No --export on the command line: with it slurmd loads the user's login environment, which takes a second or two.
3. Every call is bounded in time. What did not answer may have done its work all the same: `Silent` says so.
"""

from __future__ import annotations

import os
import pwd
import select
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from attrs import frozen

from batchns.wire.engine import Refusal, Unreachable

PATIENCE = 60.0  # seconds
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("PATH", "SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "TZ")

# What a tool says where the controller could not be asked, or has not answered.
_UNANSWERED = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Slurm backup controller in standby",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Transport endpoint",
    "Slurm temporarily unable to accept job",
    "Resource temporarily unavailable",
)
_UNSET = ("DNS SRV lookup failed", "Could not establish a configuration source")


class Silent(Unreachable):
    """The controller has not answered. What was asked for may have been done."""


class Failed(Refusal):
    """A tool has said no."""


@frozen
class Tools:
    """`environ`: of the caller; `patience`: seconds for one call."""

    environ: Mapping[str, str] = os.environ
    patience: float = PATIENCE

    def run(self, *words: str, text: str = "", patience: float | None = None) -> str:
        """What the tool prints. `text`: its standard input.

        Raises:
            Failed: it says no.
            Silent: it does not answer, or cannot ask the controller.
            Unreachable: it is not installed, or knows no cluster.
        """
        seconds = patience or self.patience
        try:
            code, out, said = _finished(words, text.encode(), self.environment(), seconds)
        except FileNotFoundError:
            raise Unreachable(
                f"{words[0]} is not installed", "apt-get install slurm-client, or leave out --to slurm"
            ) from None
        except TimeoutError:
            raise Silent(f"{words[0]} has not answered within {seconds:g} s", "sinfo") from None
        if code == 0:
            return out
        raise _error(words, said)

    def environment(self) -> dict[str, str]:
        kept = {name: self.environ[name] for name in _KEPT if name in self.environ}
        return {"PATH": _PATH, "LANG": "C.UTF-8", "SLURM_TIME_FORMAT": "%s", **kept}


def _finished(words: Sequence[str], text: bytes, env: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. By files in memory: nobody reads pipes, which costs more than some tools do.

    Raises:
        FileNotFoundError: there is no such program.
        TimeoutError: it has been killed.
    """
    with ExitStack() as stack:
        files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("in", "out", "err")]
        for file in files:
            stack.callback(os.close, file)
        os.pwrite(files[0], text, 0)
        process = subprocess.Popen(words, env=env, stdin=files[0], stdout=files[1], stderr=files[2])
        ended = os.pidfd_open(process.pid)
        stack.callback(os.close, ended)
        if not select.select([ended], [], [], seconds)[0]:
            process.kill()
            process.wait()
            raise TimeoutError
        code = process.wait()
        out, said = (os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace") for file in files[1:])
        return code, out, said


def _error(words: Sequence[str], said: str) -> Refusal | Unreachable:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = "; ".join(line.removeprefix(f"{words[0]}: ").removeprefix("error: ") for line in lines) or "no reason given"
    if any(words in said for words in _UNSET):
        return Unreachable(f"{words[0]} knows no cluster", "set SLURM_CONF, or ask the cluster's administrator")
    if any(words in said for words in _UNANSWERED):
        return Silent(f"{words[0]}: {told}", "sinfo")
    code = "not_found" if "Invalid job id" in said else "forbidden" if "denied" in said else "invalid"
    return Failed(code, f"{words[0]}: {told}")


def cluster_of(environ: Mapping[str, str]) -> str:
    """Which one is asked: what was said by another is not its answer."""
    return ":".join(environ.get(name, "") for name in ("SLURM_CONF", "SLURM_CLUSTERS"))


def user_name() -> str:
    """Who the caller is: what the environment says may be somebody else."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def capitals(text: str) -> dict[str, str]:
    """Lines of "Name = value", as scontrol show config prints them."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
