"""`batchns run`: job files through queue, sandbox and limits to their results, or one command, attached.

Progress and the result table go to stderr, `--json` objects to stdout. The first interrupt asks the jobs to end, the
second kills them; Ctrl-Z freezes them and `fg` thaws them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from batchns.cli import exits
from batchns.cli.connect import SLURM, engine_name
from batchns.cli.load import find_config, load_jobs
from batchns.cli.options import TO, WithCommand, command_of, given, job_limits
from batchns.errors import BatchnsError, UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.lifecycle import State
from batchns.model.options import job_from_options
from batchns.model.result import JobResult
from batchns.model.signals import signal_number
from batchns.model.submitter import Submitter
from batchns.supervise.view import JobView, Observer

if TYPE_CHECKING:
    import trio

    from batchns.supervise.supervisor import Supervisor

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(cls=WithCommand, options_metavar="[OPTIONS]")
@click.argument("files", nargs=-1, metavar="FILE... | -- COMMAND [ARG...]")
@click.option("--config", metavar="FILE", help="Use this batchns.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each job on stdout, at its end.")
@click.option("--user", metavar="USER", help="Run the jobs as this user (root only); default: who runs batchns.")
@click.option("--metrics", metavar="ADDRESS:PORT", help="Serve Prometheus what this run does, as long as it lasts.")
@click.option("--remote", is_flag=True, help="With -- COMMAND: as a job of the daemon, its output on this terminal.")
@click.option("--socket", metavar="PATH", help="With --remote: the daemon's socket.")
@click.option("--queue", metavar="QUEUE", help="With --remote: the queue to wait in.")
@TO
@click.option("--allow-degraded", is_flag=True, help="With --to slurm: also what the cluster cannot do in full.")
@job_limits
@click.pass_context
def run(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    config: str | None,
    as_json: bool,
    user: str | None,
    metrics: str | None,
    remote: bool,
    socket: str | None,
    allow_degraded: bool,
    **options: Any,
) -> None:
    """Run job files, or one command, each in a sandbox of its own.

    FILE is a job file, a folder (all *.toml in it) or - for standard input. All their jobs are queued by priority and
    dependency and run as the machine has room. Ends with 0 when all have completed, with 1 when one has not.

    With -- COMMAND one command runs attached to this terminal, limited by the options, and its exit code is returned:
    128+N for a signal, 126 or 127 when it cannot be executed, 125 when batchns itself fails.

    With --to slurm a cluster runs them, with this terminal for -- COMMAND.

    With --remote the daemon queues and runs it; Ctrl-C cancels it, a second one kills it.
    """
    command = command_of(ctx)
    if remote and metrics:
        raise click.UsageError("--metrics and --remote do not mix - the daemon serves its own: see [metrics]")
    if engine_name() == SLURM and not (remote and "batchns.to" not in ctx.meta):
        if metrics:
            raise click.UsageError("--metrics and --to slurm do not mix - the jobs run elsewhere")
        ctx.exit(_run_on_cluster(files, command, {**options, "user": user}, config, allow_degraded, as_json))
    if remote:
        ctx.exit(_run_remotely(files, command, {**options, "user": user, "config": config}, socket, as_json))
    if socket or options.get("queue"):
        raise click.UsageError("--socket and --queue are for --remote - add --remote, or leave them out")
    settings = find_config(config)
    submitter = _submitter(user)
    if command is None:
        _run_files(ctx, files, settings, submitter, as_json, metrics, options)
    elif files:
        raise click.UsageError(f"files and a command do not mix - leave out {files[0]!r} or the command")
    elif not command:
        raise click.UsageError("no command after -- - write batchns run -- COMMAND ARG...")
    else:
        spec = job_from_options({**options, "command": command}, config=settings, folder=os.getcwd())
        ctx.exit(_run_attached(spec, settings, submitter, as_json, metrics))


def _run_on_cluster(
    files: tuple[str, ...],
    command: list[str] | None,
    options: dict[str, Any],
    config: str | None,
    allow_degraded: bool,
    as_json: bool,
) -> int:
    from batchns.cli.connect import slurm
    from batchns.cli.submit import from_here, request_of, submitted

    if options.pop("user"):
        raise click.UsageError("--user and --to slurm do not mix - Slurm knows who you are")
    asked = given(options)
    if command and not files:
        from batchns.cli.remote import run_remote

        return run_remote(
            command, from_here(asked), partial(slurm, config=config, allow_degraded=allow_degraded), as_json=as_json
        )
    from batchns.cli.remote import Interrupts
    from batchns.cli.wait import wait_and_tell

    connect = partial(slurm, config=config, allow_degraded=allow_degraded)
    with connect() as engine:
        ids = [job.id for job in submitted(engine, request_of(files, command, asked))]
        with Interrupts(connect, ids) as interrupts:
            code = wait_and_tell(engine, ids, quiet=False, as_json=as_json)
        return exits.SIGNAL + interrupts.first if interrupts.first else code


def _run_remotely(
    files: tuple[str, ...], command: list[str] | None, options: dict[str, Any], socket: str | None, as_json: bool
) -> int:
    if files or command is None:
        raise click.UsageError("--remote is for -- COMMAND - for files write batchns submit --wait FILE...")
    if not command:
        raise click.UsageError("no command after -- - write batchns run --remote -- COMMAND ARG...")
    for name in ("user", "config"):
        if options.pop(name):
            raise click.UsageError(f"--{name} and --remote do not mix - the daemon knows who you are")
    from batchns.cli.connect import make_client, socket_path
    from batchns.cli.remote import run_remote
    from batchns.cli.submit import from_here

    return run_remote(command, from_here(given(options)), partial(make_client, socket_path(socket)), as_json=as_json)


def _run_files(
    ctx: click.Context,
    files: tuple[str, ...],
    config: Config,
    submitter: Submitter,
    as_json: bool,
    metrics: str | None,
    options: dict[str, Any],
) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise click.UsageError(f"{option} is for -- COMMAND - write {given[0]} into the job file")
    if not files:
        raise click.UsageError("nothing to run - write batchns run FILE... or batchns run [OPTIONS] -- COMMAND")
    ctx.exit(_run_to_the_end(load_jobs(files, config), config, submitter, as_json, metrics))


def _run_to_the_end(
    specs: Sequence[JobSpec], config: Config, submitter: Submitter, as_json: bool, metrics: str | None
) -> int:
    from batchns.cli.display import open_display
    from batchns.cli.tables import make_console, print_results

    began = time.monotonic()
    with open_display(sys.stderr) as display, _results(display, as_json) as observer:
        results, interrupted = _supervise(specs, config, submitter, observer, metrics=metrics)
    print_results(make_console(sys.stderr), results, time.monotonic() - began)
    if interrupted:
        return exits.SIGNAL + interrupted
    return 0 if all(result.state is State.COMPLETED for result in results) else exits.NOT_DONE


def _run_attached(spec: JobSpec, config: Config, submitter: Submitter, as_json: bool, metrics: str | None) -> int:
    with _results(None, as_json) as observer:
        results, _ = _supervise([spec], config, submitter, observer, attached=(0, 1, 2), metrics=metrics)
    result = results[0]
    if result.state is not State.COMPLETED and result.reason and result.state is not State.CANCELLED:
        _tell(f"{result.state.value}: {result.reason}")
    return attached_exit_code(result)


def attached_exit_code(result: JobResult) -> int:
    """What `run -- COMMAND` returns: the command's own code, 128+N for signal N, 125 where it never ran."""
    if result.exit_code is not None:
        return result.exit_code
    if result.signal is not None:
        return exits.SIGNAL + signal_number(result.signal)
    return exits.HOST


def _submitter(user: str | None) -> Submitter:
    """Who the jobs belong to.

    Raises:
        UserError: no such user, or only root may say so.
    """
    from batchns.supervise import users

    if user is None:
        return users.current()
    submitter = users.named(user)
    if os.geteuid() not in (0, submitter.uid):
        raise UserError(f"--user {user}: only root runs jobs as another user", f"sudo batchns run --user {user} ...")
    return submitter


def _supervise(
    specs: Sequence[JobSpec],
    config: Config,
    submitter: Submitter,
    observer: Observer,
    attached: tuple[int, int, int] | None = None,
    metrics: str | None = None,
) -> tuple[list[JobResult], int]:
    """Run all jobs; returns their results and the number of the first interrupting signal (0: none).

    `metrics`: where they are served meanwhile.
    """
    import trio

    from batchns.supervise.embedded import open_supervisor

    interrupted = 0

    async def heed_signals(supervisor: Supervisor) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(*_INTERRUPTS, signal.SIGTSTP) as signals:
            async for number in signals:
                if number == signal.SIGTSTP:
                    await supervisor.freeze_all()
                    os.kill(os.getpid(), signal.SIGSTOP)
                    supervisor.thaw_all()
                elif interrupted:
                    supervisor.kill()
                else:
                    interrupted = number
                    supervisor.stop()

    async def main() -> list[JobResult]:
        async with (
            open_supervisor(config, specs, observer, submitter=submitter, attached=attached, tell=_tell) as supervisor,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(heed_signals, supervisor)
            if metrics is not None:
                await _measure(nursery, supervisor, metrics)
            results = await supervisor.run(specs)
            nursery.cancel_scope.cancel()
        return results

    try:
        return trio.run(main), interrupted
    except KeyboardInterrupt:  # before signals were heeded: nothing had been started
        sys.exit(exits.INTERRUPTED)
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            sys.exit(exits.INTERRUPTED)
        raise only_error(group) from None


async def _measure(nursery: trio.Nursery, supervisor: Supervisor, where: str) -> None:
    from batchns.cli.measured import parse_address, serve_metrics

    address = parse_address(where)
    port = await nursery.start(serve_metrics, supervisor, address)
    if not address[1]:
        _tell(f"metrics at {address[0]}:{port}")


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Nurseries wrap errors into groups; one of ours, alone, is what the user is told."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, BatchnsError) else group


class _Results:
    """Passes on what happens to the display, and each job's result, when it is there, to `write`."""

    def __init__(self, display: Observer | None, write: Callable[[JobResult], None] | None) -> None:
        self._display = display
        self._write = write

    def job_changed(self, view: JobView) -> None:
        if self._display is not None:
            self._display.job_changed(view)
        if self._write is not None and view.result is not None:
            self._write(view.result)


@contextmanager
def _results(display: Observer | None, as_json: bool) -> Iterator[Observer]:
    if not as_json:
        yield _Results(display, None)
        return
    from batchns.cli.jsonout import json_lines

    with json_lines(sys.stdout.fileno()) as write:
        yield _Results(display, write)


def _tell(message: str) -> None:
    click.echo(f"batchns: {message}", err=True)
