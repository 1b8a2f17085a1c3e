"""`batchns daemon`: everybody's jobs on this machine, until it is told to stop; jobs run on then."""

from __future__ import annotations

import json
import logging
import os
import sys

import click

from batchns.cli.options import JSON
from batchns.errors import HostError

# Seconds after which a thread that computes (looking ahead, encoding) lets the loop go on, each time it wants to.
_SWITCH = 0.0005


@click.command()
@click.option("--config", metavar="FILE", help="Use this batchns.toml.")
@click.option("--check", is_flag=True, help="Say whether the settings can be used, and end.")
@JSON
def daemon(config: str | None, check: bool, as_json: bool) -> None:
    """Take in everybody's jobs and run them, until SIGTERM. Jobs that run then go on, and the next daemon has them.

    SIGHUP reads batchns.toml again. Users talk to it by the other commands, see batchns --help.
    """
    from batchns.cli.load import find_config

    if as_json and not check:
        raise click.UsageError("--json says what --check has found - batchns daemon --check --json")
    settings = find_config(config)
    if check and as_json:
        click.echo(json.dumps({"usable": True, "socket": settings.socket, "state": settings.paths.state}))
        return
    if check:
        click.echo(f"the settings can be used; socket {settings.socket}, state {settings.paths.state}")
        return
    if os.geteuid():
        raise HostError("the daemon runs jobs of every user, and needs root for that", "sudo batchns daemon")
    import trio

    from batchns.cli.run import only_error
    from batchns.daemon.main import run_daemon

    sys.setswitchinterval(_SWITCH)
    logging.basicConfig(stream=sys.stderr, format="batchns: %(message)s", level=logging.WARNING)
    try:
        trio.run(run_daemon, lambda: find_config(config), _tell)
    except BaseExceptionGroup as group:
        raise only_error(group) from None


def _tell(line: str) -> None:
    click.echo(f"batchns: {line}", err=True)
