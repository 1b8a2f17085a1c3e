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
from typing import Any

import click

from batchns.cli.load import find_config, load_jobs
from batchns.errors import BatchnsError, UserError
from batchns.model.config import Config
from batchns.model.job import JobSpec
from batchns.model.lifecycle import State
from batchns.model.options import job_from_options
from batchns.model.result import JobResult
from batchns.model.signals import signal_number
from batchns.model.submitter import Submitter
from batchns.supervise.view import JobView, Observer

EXIT_FAILED = 1  # a job did not complete
EXIT_HOST = 125
EXIT_SIGNAL = 128  # and the signal's number
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Run(click.Command):
    """Takes what follows `--` as the command to run, which click would mix with the files."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["batchns.command"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(cls=_Run, options_metavar="[OPTIONS]")
@click.argument("files", nargs=-1, metavar="FILE... | -- COMMAND [ARG...]")
@click.option("--config", metavar="FILE", help="Use this batchns.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each job on stdout, at its end.")
@click.option("--user", metavar="USER", help="Run the jobs as this user (root only); default: who runs batchns.")
@click.option("--name", metavar="NAME", help="The job's name; default: the program's.")
@click.option("--cpus", metavar="N", help="Whole CPUs are exclusive; 0.5 shares one.")
@click.option("--cpuset", metavar="LIST", help='Pin to these CPUs: "2-3".')
@click.option("--cpu-shares", metavar="N", help="Weight when the CPU is contended, 2 to 262144.")
@click.option("--memory", metavar="SIZE", help='Hard limit: "4GiB".')
@click.option("--blkio-weight", metavar="N", help="Weight of block I/O, 10 to 1000.")
@click.option("--pids", metavar="N", help="At most so many processes and threads.")
@click.option("--scratch", metavar="SIZE", help="Size of the private /tmp.")
@click.option("--resource", metavar="NAME=N", multiple=True, help="A resource that batchns.toml names.")
@click.option("--strict", is_flag=True, default=None, help="Refuse to run when a limit cannot be enforced here.")
@click.option("--network", metavar="MODE", help="private (default: own namespace, NAT), none, or host.")
@click.option("--egress", metavar="RATE", help='What the job may send: "50mbit".')
@click.option("--ingress", metavar="RATE", help='What the job may receive: "100mbit".')
@click.option("--allow", metavar="WHAT", multiple=True, help="Reach this too: jobs, host:PORT or an address range.")
@click.option("--bind", metavar="SRC:DST[:ro]", multiple=True, help="Show a host folder or file inside.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, help="Set an environment variable.")
@click.option("--cwd", metavar="FOLDER", help="Working folder, writable; default: the current one.")
@click.option("--time-limit", metavar="TIME", help='End the job after so long: "2h30m".')
@click.option("--warn-signal", metavar="SIGNAL@TIME", help='Signal it so long before its time limit: "USR1@60s".')
@click.option("--grace-time", metavar="TIME", help="Between asking it to end and killing it.")
@click.option("--begin", metavar="WHEN", help='Not to be started before: "2026-12-01T08:00" or "+2h".')
@click.option("--deadline", metavar="WHEN", help="To be over by then, or it is cancelled.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    config: str | None,
    as_json: bool,
    user: str | None,
    **options: Any,
) -> None:
    """Run job files, or one command, each in a sandbox of its own.

    FILE is a job file, a folder (all *.toml in it) or - for standard input. All their jobs are queued by priority and
    dependency and run as the machine has room. Ends with 0 when all have completed, with 1 when one has not.

    With -- COMMAND one command runs attached to this terminal, limited by the options, and its exit code is returned:
    128+N for a signal, 126 or 127 when it cannot be executed, 125 when batchns itself fails.
    """
    command: list[str] | None = ctx.meta.get("batchns.command")
    settings = find_config(config)
    submitter = _submitter(user)
    if command is None:
        _run_files(ctx, files, settings, submitter, as_json, options)
    elif files:
        raise click.UsageError(f"files and a command do not mix - leave out {files[0]!r} or the command")
    elif not command:
        raise click.UsageError("no command after -- - write batchns run -- COMMAND ARG...")
    else:
        spec = job_from_options({**options, "command": command}, config=settings, folder=os.getcwd())
        ctx.exit(_run_attached(spec, settings, submitter, as_json))


def _run_files(
    ctx: click.Context,
    files: tuple[str, ...],
    config: Config,
    submitter: Submitter,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise click.UsageError(f"{option} is for -- COMMAND - write {given[0]} into the job file")
    if not files:
        raise click.UsageError("nothing to run - write batchns run FILE... or batchns run [OPTIONS] -- COMMAND")
    ctx.exit(_run_to_the_end(load_jobs(files, config), config, submitter, as_json))


def _run_to_the_end(specs: Sequence[JobSpec], config: Config, submitter: Submitter, as_json: bool) -> int:
    from batchns.cli.display import open_display
    from batchns.cli.tables import make_console, print_results

    began = time.monotonic()
    with open_display(sys.stderr) as display, _results(display, as_json) as observer:
        results, interrupted = _supervise(specs, config, submitter, observer)
    print_results(make_console(sys.stderr), results, time.monotonic() - began)
    if interrupted:
        return EXIT_SIGNAL + interrupted
    return 0 if all(result.state is State.COMPLETED for result in results) else EXIT_FAILED


def _run_attached(spec: JobSpec, config: Config, submitter: Submitter, as_json: bool) -> int:
    with _results(None, as_json) as observer:
        results, _ = _supervise([spec], config, submitter, observer, attached=(0, 1, 2))
    result = results[0]
    if result.state is not State.COMPLETED and result.reason and result.state is not State.CANCELLED:
        _tell(f"{result.state.value}: {result.reason}")
    return attached_exit_code(result)


def attached_exit_code(result: JobResult) -> int:
    """What `run -- COMMAND` returns: the command's own code, 128+N for signal N, 125 where it never ran."""
    if result.exit_code is not None:
        return result.exit_code
    if result.signal is not None:
        return EXIT_SIGNAL + signal_number(result.signal)
    return EXIT_HOST


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
) -> tuple[list[JobResult], int]:
    """Run all jobs; returns their results and the number of the first interrupting signal (0: none)."""
    import trio

    from batchns.supervise.embedded import open_supervisor
    from batchns.supervise.supervisor import Supervisor

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
            results = await supervisor.run(specs)
            nursery.cancel_scope.cancel()
        return results

    try:
        return trio.run(main), interrupted
    except KeyboardInterrupt:  # before signals were heeded: nothing had been started
        sys.exit(EXIT_SIGNAL + signal.SIGINT)
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            sys.exit(EXIT_SIGNAL + signal.SIGINT)
        raise _only_error(group) from None


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
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
