"""The `batchns` command: which subcommands there are, and how an error ends the program.

1. A subcommand's module is imported when it is used: `batchns --help` must not pay for trio or rich.
2. Errors that batchns raises on purpose become one message and an exit code; a traceback is a defect.
3. Whatever stdin, stdout and stderr are (closed, a full disk, ASCII only), no command stumbles over them.
"""

from __future__ import annotations

import errno
import gc
import importlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from batchns import __version__
from batchns.cli import exits
from batchns.errors import HostError, UserError

# group: name: (module below batchns.cli, one line of help)
GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Jobs": {
        "submit": ("submit", "Submit job files, or one command, to the daemon."),
        "wait": ("wait", "Wait until jobs are over."),
        "cancel": ("act", "Cancel jobs, or send them a signal."),
        "hold": ("act", "Let waiting jobs wait until they are released."),
        "release": ("act", "Let held jobs compete again."),
        "freeze": ("act", "Freeze running jobs."),
        "thaw": ("act", "Let frozen jobs go on."),
        "requeue": ("act", "End running jobs and queue them again."),
        "prio": ("act", "Give jobs another priority."),
        "exec": ("terminal", "Run a command inside a running job."),
        "attach": ("terminal", "Open a shell inside a running job."),
    },
    "Look": {
        "ps": ("ps", "List jobs (also: ls)."),
        "show": ("show", "Show all of one job."),
        "why": ("show", "Say why a job waits, and until when."),
        "logs": ("logs", "Print what a job wrote, and goes on writing."),
        "top": ("top", "Watch machine and jobs live."),
        "history": ("history", "List your jobs that are over."),
        "usage": ("history", "Compare what jobs asked for with what they used."),
    },
    "Machine": {
        "node": ("node", "Say what this machine has and what of it is free."),
        "queues": ("node", "List the queues."),
        "drain": ("node", "Start no more jobs."),
        "resume": ("node", "Start jobs again."),
        "store": ("store", "Copy or check what the daemon has on disk."),
        "daemon": ("daemon", "Be the daemon."),
    },
    "Without a daemon": {
        "run": ("run", "Run job files, or one command, and wait for the results."),
        "check": ("check", "Check job files; start nothing."),
        "simulate": ("simulate", "Say what a policy would make of a trace of jobs."),
        "doctor": ("doctor", "Say what this machine offers and what is missing."),
        "completion": ("completion", "Print what makes a shell complete commands."),
    },
}
ALIASES: Mapping[str, str] = {"ls": "ps"}
COMMANDS: Mapping[str, tuple[str, str]] = {name: entry for group in GROUPS.values() for name, entry in group.items()}


class _Lazy(click.Group):
    """A group that knows its commands' help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"batchns.cli.{COMMANDS[name][0]}")
        gc.freeze()
        gc.enable()
        command: click.Command = getattr(module, name, None) or getattr(module, f"{name}_")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in ALIASES and args[0] not in COMMANDS and not args[0].startswith("-"):
            from batchns.model.problems import did_you_mean

            near = did_you_mean(args[0], COMMANDS)
            hint = f"did you mean {near}?" if near else "batchns --help lists the commands"
            ctx.fail(f"there is no command {args[0]!r} - {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS)) + 2  # one width for all groups
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width - 2), text) for name, (_, text) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(exits.INTERRUPTED)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND ...",
    options_metavar="",
    epilog="batchns COMMAND --help says more. Exit codes: 0 done; 1 a job did not complete, or something was not "
    "done; 2 wrong input; 125 no daemon, or this machine failed; 130 interrupted.",
)
@click.version_option(__version__, prog_name="batchns")
def cli() -> None:
    """Batch jobs in Linux namespaces, for a machine that people share."""


def main() -> None:
    """The entry point: run the command, turn errors into messages, exit."""
    gc.disable()  # until the command is imported: what modules make is no garbage
    _prepare_streams()
    try:
        try:
            cli.main(prog_name="batchns", standalone_mode=True)
        finally:
            sys.stdout.flush()
    except UserError as error:
        refusal = getattr(error, "code", None)  # the daemon's have one
        _end(str(error), exits.WRONG_INPUT if refusal is None else exits.of_refusal(refusal))
    except HostError as error:
        _end(f"batchns: {error}", exits.HOST)
    except BrokenPipeError:
        _drop_output()  # its reader has gone
        sys.exit(exits.NOT_DONE)
    except OSError as error:
        # What is written without a file's name is the output.
        if error.errno not in exits.UNWRITABLE or error.filename is not None:
            raise
        _drop_output()
        _end(f"batchns: the output cannot be written: {error.strerror}", exits.HOST)


def _prepare_streams() -> None:
    """What is closed becomes /dev/null: else the next file or socket has its number, and gets what is written there.

    What stdout's encoding does not have is a question mark, as wide as the character that it stands for.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    # Python has None for what was closed.
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _drop_output() -> None:
    """What is still in the buffer must not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)
