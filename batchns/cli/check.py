"""`batchns check`: is what these job files say right? Nothing is started."""

from __future__ import annotations

import click

from batchns.cli.load import find_config, read_files
from batchns.model.problems import JobFileErrors
from batchns.units import printable


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--config", metavar="FILE", help="Use this batchns.toml.")
@click.option("--schema", type=click.Choice(["job", "config"]), help="Print the JSON Schema for editors instead.")
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], config: str | None, schema: str | None) -> None:
    """Check job files: all mistakes of all files, each with its line.

    FILE is a job file, a folder (all *.toml in it) or - for standard input. Exits with 2 when anything is wrong.
    """
    if schema:
        from batchns.model.schema import rendered

        click.echo(rendered()[f"{schema}.schema.json"], nl=False)
        return
    if not files:
        raise click.UsageError("no file to check - write batchns check FILE...")
    try:
        loaded = read_files(files, find_config(config))
    except JobFileErrors as errors:
        click.echo(str(errors), err=True)
        ctx.exit(2)
    wrong = {problem.file for problem in loaded.problems}
    for name, jobs in loaded.files.items():
        if name not in wrong:
            click.echo(f"{printable(name)}: {len(jobs)} job{'s' if len(jobs) != 1 else ''} ok")
    for problem in loaded.problems:
        click.echo(str(problem), err=True)
    if loaded.problems:
        ctx.exit(2)
