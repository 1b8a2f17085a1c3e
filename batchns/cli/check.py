"""`batchns check`: is what these job files say right? Nothing is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

import click
from attrs import asdict

from batchns.cli import exits
from batchns.cli.connect import SLURM, engine_name
from batchns.cli.load import find_config, read_files
from batchns.cli.options import TO
from batchns.cli.output import print_json
from batchns.model.problems import JobFileErrors, Problem
from batchns.units import format_duration, format_size, printable

if TYPE_CHECKING:
    from batchns.model.config import Config
    from batchns.model.job import JobSpec


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--config", metavar="FILE", help="Use this batchns.toml.")
@click.option("--plan", is_flag=True, help="Show who would start when, were this machine empty.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each mistake on stdout.")
@TO
@click.option("--schema", type=click.Choice(["job", "config"]), help="Print the JSON Schema for editors instead.")
@click.pass_context
def check(
    ctx: click.Context, files: tuple[str, ...], config: str | None, plan: bool, as_json: bool, schema: str | None
) -> None:
    """Check job files: all mistakes of all files, each with its line.

    FILE is a job file, a folder (all *.toml in it) or - for standard input. Exits with 2 when anything is wrong.

    With --to slurm the cluster is asked, too, and each field is named that it cannot honour.
    """
    if schema:
        from batchns.model.schema import rendered

        click.echo(rendered()[f"{schema}.schema.json"], nl=False)
        return
    if not files:
        raise click.UsageError("no file to check - write batchns check FILE...")
    if plan and as_json:
        raise click.UsageError("--plan and --json do not mix - the plan is for people")
    if engine_name() == SLURM:
        if plan:
            raise click.UsageError("--plan and --to slurm do not mix - the plan is of this machine")
        _check_for_cluster(ctx, files, config, as_json)
        return
    try:
        settings = find_config(config)
    except JobFileErrors as errors:
        _tell(errors.problems, as_json)
        ctx.exit(exits.WRONG_INPUT)
    loaded = read_files(files, settings)
    wrong = {problem.file for problem in loaded.problems}
    for name, jobs in loaded.files.items():
        if name not in wrong and not as_json:
            click.echo(f"{printable(name)}: {len(jobs)} job{'s' if len(jobs) != 1 else ''} ok")
            if any(job.slurm != type(job.slurm)() for job in jobs):
                click.echo(f"{printable(name)}: [slurm] has no effect on this machine - it is for --to slurm")
    _tell(loaded.problems, as_json)
    if loaded.problems:
        ctx.exit(exits.WRONG_INPUT)
    if plan:
        _print_plan([job for jobs in loaded.files.values() for job in jobs], settings)


def _tell(problems: Sequence[Problem], as_json: bool) -> None:
    if as_json:
        print_json(map(asdict, problems))
        return
    for problem in problems:
        click.echo(str(problem), err=True)


def _check_for_cluster(ctx: click.Context, files: Sequence[str], config: str | None, as_json: bool) -> None:
    from batchns.cli.connect import slurm
    from batchns.cli.submit import request_of

    try:
        with slurm(config=config) as cluster:
            found = cluster.check(request_of(files, None, {}))
    except JobFileErrors as errors:
        _tell(errors.problems, as_json)
        ctx.exit(exits.WRONG_INPUT)
    if as_json:
        print_json({**asdict(problem), "fatal": fatal} for problem, fatal in found)
        ctx.exit(exits.WRONG_INPUT if found else 0)
    _tell([problem for problem, _ in found], as_json)
    if found:
        fatal = any(fatal for _, fatal in found)
        click.echo("it cannot run there" if fatal else "with --allow-degraded it is submitted all the same", err=True)
        ctx.exit(exits.WRONG_INPUT)
    click.echo("the cluster can do all that is asked for")


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
