"""`batchns store`: a copy of what the daemon knows, and whether it is whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from batchns.cli import exits
from batchns.cli.options import JSON
from batchns.cli.plain import clean, count

STORE_NAME = "batchns.db"

_config = click.option("--config", metavar="FILE", help="Use this batchns.toml.")
_state = click.option("--state", metavar="FOLDER", help="The state folder; default: paths.state of batchns.toml.")


@click.group()
def store() -> None:
    """Copy what the daemon has on disk, or check it. Both may be done while it runs."""


@store.command()
@click.argument("file", metavar="FILE")
@click.option("--overwrite", is_flag=True, help="Also where FILE is there already.")
@_state
@_config
@JSON
def backup(file: str, overwrite: bool, state: str | None, config: str | None, as_json: bool) -> None:
    """Copy the store to FILE, as it is at this moment."""
    from batchns.store.check import backup_store

    backup_store(_store(state, config), Path(file), overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"file": file, "bytes": Path(file).stat().st_size}))
    else:
        click.echo(f"copied to {clean(file)} ({_size(Path(file))})")


@store.command()
@click.argument("file", required=False, metavar="[FILE]")
@_state
@_config
@JSON
def check(file: str | None, state: str | None, config: str | None, as_json: bool) -> None:
    """Check the store, or a copy of it that is FILE. Exits with 1 when something is wrong with it."""
    from batchns.store.check import check_store
    from batchns.store.interface import Damaged

    path = Path(file) if file else _store(state, config)
    hint = "restore a copy, see batchns store backup"
    try:
        problems = check_store(path, copy=bool(file))
    except Damaged as error:
        problems, hint = [error.what], error.hint
    if as_json:
        click.echo(json.dumps({"file": str(path), "ok": not problems, "problems": problems}))
        sys.exit(exits.NOT_DONE if problems else 0)
    for problem in problems:
        click.echo(clean(problem))
    if problems:
        told = count(len(problems), "problem")
        click.echo(f"batchns: {told}" if file else f"batchns: {told} - {hint}", err=True)
        sys.exit(exits.NOT_DONE)
    click.echo(f"{clean(str(path))}: ok")


def _store(state: str | None, config: str | None) -> Path:
    from batchns.cli.load import find_config

    return Path(state or find_config(config).paths.state) / STORE_NAME


def _size(path: Path) -> str:
    from batchns.units import format_size

    return format_size(path.stat().st_size)
