"""`batchns submit`: job files, or one command, into the daemon's queue."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from batchns.cli.connect import SLURM, engine_name, make_engine, slurm
from batchns.cli.options import JSON, WHERE, WithCommand, command_of, given, job_limits, queueing
from batchns.cli.output import print_json
from batchns.cli.plain import clean, count

if TYPE_CHECKING:
    from batchns.wire.engine import Engine
    from batchns.wire.types import JobFile, SubmitRequest, SubmittedJob

LINES = 10  # more jobs than these are counted
_PATHS = ("cwd", "stdout", "stderr")


@click.command(cls=WithCommand, options_metavar="[OPTIONS]")
@click.argument("files", nargs=-1, metavar="FILE... | -- COMMAND [ARG...]")
@click.option("--wait", is_flag=True, help="Wait until the jobs are over.")
@click.option("--parsable", is_flag=True, help="Print the ids and nothing else, each on a line.")
@queueing
@job_limits
@click.option("--allow-degraded", is_flag=True, help="Submit also what the cluster cannot do in full (slurm).")
@click.option("--key", metavar="KEY", help="Name this submission: with the same key nothing is submitted twice.")
@JSON
@WHERE
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    wait: bool,
    parsable: bool,
    allow_degraded: bool,
    key: str | None,
    as_json: bool,
    socket: str | None,
    **options: Any,
) -> None:
    """Submit job files, or one command, to the daemon, or with --to slurm to a cluster.

    FILE is a job file, a folder (all *.toml in it) or - for standard input; options go before what the files say.
    With -- COMMAND the job is that command, in the current folder. All jobs are submitted, or none; they are on disk
    when batchns says so.

    Exits with 0 when they were; with --wait with 0 when all have completed and with 1 when one has not.
    """
    request = request_of(files, command_of(ctx), given(options), key)
    to_slurm = engine_name() == SLURM
    with slurm(allow_degraded=allow_degraded) if to_slurm else make_engine(socket) as client:
        jobs = submitted(client, request)
        if as_json:
            print_json(jobs)
        elif parsable:
            click.echo("\n".join(job.id for job in jobs))
        else:
            for line in submitted_lines(jobs):
                click.echo(line)
        sys.stdout.flush()
        if wait:
            from batchns.cli.follow import ranges
            from batchns.cli.wait import wait_and_tell

            ids = ranges(job.id for job in jobs)
            try:
                code = wait_and_tell(client, ids, quiet=parsable, as_json=as_json)
            except KeyboardInterrupt:
                named, goes = " ".join(ids), "it goes on" if len(jobs) == 1 else "they go on"
                click.echo(f"\nbatchns: {goes}: batchns wait {named}, or batchns cancel {named}", err=True)
                raise
            sys.exit(code)


def submitted(client: Engine, request: SubmitRequest) -> Sequence[SubmittedJob]:
    """What was submitted; whoever interrupts that is told what is there, and how to go on."""
    try:
        return client.submit(request).jobs
    except KeyboardInterrupt as error:
        there = "".join(f"{note}; " for note in getattr(error, "__notes__", ()))
        click.echo(f"\nbatchns: {there}batchns submit of the same with --key {request.key} completes it", err=True)
        raise


def submitted_lines(jobs: Sequence[SubmittedJob]) -> list[str]:
    """As "submitted job 12 (train)", "submitted job 13 (sweep): 100 tasks"; of many, how many and which."""
    tasks = sum(job.tasks for job in jobs)
    if len(jobs) > LINES:
        ids = [job.id for job in jobs]
        whole = all(one.isdecimal() for one in ids) and [int(one) for one in ids] == list(
            range(int(ids[0]), int(ids[0]) + len(ids))
        )
        named = f"{ids[0]}-{ids[-1]}" if whole else f"{ids[0]} to {ids[-1]}"
        more = f", {count(tasks, 'task')}" if tasks > len(jobs) else ""
        return [f"submitted {count(len(jobs), 'job')} ({named}{more})"]
    return [_submitted_line(job) for job in jobs]


def _submitted_line(job: SubmittedJob) -> str:
    line = f"submitted job {clean(job.id)} ({clean(job.name)})"
    return f"{line}: {count(job.tasks, 'task')}" if job.tasks > 1 else line


def request_of(
    files: Sequence[str], command: list[str] | None, options: dict[str, Any], key: str | None = None
) -> SubmitRequest:
    """What to submit. `key`: as it was typed.

    Raises:
        JobFileErrors: files that cannot be read.
    """
    from batchns.wire.types import CommandLine, SubmitRequest

    options = from_here(options)
    here = os.getcwd()
    key = key or os.urandom(16).hex()
    if command is None:
        if not files:
            raise click.UsageError("nothing to submit - write batchns submit FILE... or batchns submit -- COMMAND")
        return SubmitRequest(files=tuple(job_files(files, options)), key=key)
    if files:
        raise click.UsageError(f"files and a command do not mix - leave out {files[0]!r} or the command")
    if not command:
        raise click.UsageError("no command after -- - write batchns submit -- COMMAND ARG...")
    return SubmitRequest(commands=(CommandLine(options={**options, "command": command}, folder=here),), key=key)


def from_here(options: dict[str, Any]) -> dict[str, Any]:
    """Paths that are typed here are meant from here; those in a file start from its folder."""
    here = os.getcwd()
    paths = {name: os.path.normpath(os.path.join(here, options[name])) for name in _PATHS if name in options}
    return {**options, **paths}


def job_files(paths: Sequence[str], options: dict[str, Any]) -> list[JobFile]:
    """The files as they go to the daemon.

    Raises:
        JobFileErrors: all that cannot be read.
    """
    from batchns.cli.load import STDIN, expanded, read_text
    from batchns.model.problems import JobFileErrors, Problem
    from batchns.wire.types import JobFile

    found: list[JobFile] = []
    problems: list[Problem] = []
    for path in expanded(paths, problems):
        try:
            text = read_text(path)
        except JobFileErrors as errors:
            problems += errors.problems
            continue
        source = "" if path == STDIN else os.path.realpath(path)
        folder = os.path.dirname(source) if source else os.getcwd()
        found.append(JobFile(text=text, source=source, folder=folder, options=options))
    if problems:
        raise JobFileErrors(problems)
    return found
