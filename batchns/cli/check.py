"""`batchns check`: is what these job files say right? Nothing is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

import click

from batchns.cli.load import find_config, read_files
from batchns.model.problems import JobFileErrors
from batchns.units import format_duration, format_size, printable

if TYPE_CHECKING:
    from batchns.model.config import Config
    from batchns.model.job import JobSpec


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--config", metavar="FILE", help="Use this batchns.toml.")
@click.option("--plan", is_flag=True, help="Show who would start when, were this machine empty.")
@click.option("--schema", type=click.Choice(["job", "config"]), help="Print the JSON Schema for editors instead.")
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], config: str | None, plan: bool, schema: str | None) -> None:
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
        settings = find_config(config)
        loaded = read_files(files, settings)
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
    if plan:
        _print_plan([job for jobs in loaded.files.values() for job in jobs], settings)


def _print_plan(specs: Sequence[JobSpec], config: Config) -> None:
    """A row for each job, in the order of the files."""
    from rich.table import Table

    from batchns.cli.tables import NAME_WIDTH, fit, make_console
    from batchns.supervise import rootless, users
    from batchns.supervise.preview import preview

    submitter = users.current()
    if os.geteuid() != 0:
        config = rootless.own_paths(config, submitter)
    planned = preview(specs, config, submitter)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("JOB", "NAME", "QUEUE"):
        table.add_column(title, no_wrap=True)
    for title in ("CPUS", "MEM", "LASTS", "STARTS", "ENDS"):
        table.add_column(title, justify="right", no_wrap=True)
    for job in planned:
        table.add_row(
            printable(job.job_id),
            fit(printable(job.name), NAME_WIDTH),
            fit(printable(job.queue), NAME_WIDTH),
            f"{job.cpus:g}",
            format_size(job.memory),
            "?" if job.assumed else format_duration(job.lasts),
            _in(job.expected.start),
            "?" if job.assumed else _in(job.expected.end),
        )
    console = make_console(sys.stdout)
    console.print()
    console.print(table)
    if any(job.assumed for job in planned):
        length = format_duration(config.schedule.assume)
        console.print(f"\n? has no time limit and no history: {length} is assumed for it.", highlight=False)


def _in(seconds: float) -> str:
    if seconds == inf:
        return "-"
    return "at once" if seconds == 0 else f"in {format_duration(seconds)}"
