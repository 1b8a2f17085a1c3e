"""The `batchns` command: which subcommands there are, and how an error ends the program.

1. A subcommand's module is imported when it is used: `batchns --help` must not pay for trio or rich.
2. Errors that batchns raises on purpose become one message and an exit code; a traceback is a defect.

Exit codes: 0 done; 1 a job failed; 2 what was written or typed is wrong, nothing was started; 125 this machine or
batchns itself failed; 130 interrupted. `run -- COMMAND` returns the command's own code, see its help.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Final

import click

from batchns import __version__
from batchns.errors import HostError, UserError

EXIT_WRONG_INPUT: Final = 2
EXIT_HOST: Final = 125

# name: (module below batchns.cli, one line of help)
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("run", "Run job files, or one command, and wait for the results."),
    "check": ("check", "Check job files; start nothing."),
    "simulate": ("simulate", "Say what a policy would make of a trace of jobs."),
    "doctor": ("doctor", "Say what this machine offers and what is missing."),
}


class _Lazy(click.Group):
    """A group that knows its commands' help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"batchns.cli.{module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batchns")
def cli() -> None:
    """Batch jobs in Linux namespaces, for a machine that people share."""


def main() -> None:
    """The entry point: run the command, turn errors into messages, exit."""
    try:
        cli.main(prog_name="batchns", standalone_mode=True)
    except UserError as error:
        _end(str(error), EXIT_WRONG_INPUT)
    except HostError as error:
        _end(f"batchns: {error}", EXIT_HOST)
    except BrokenPipeError:
        # The reader of our output has gone; what remains in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _end(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)
