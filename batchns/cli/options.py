"""Options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from batchns.units import quote

F = TypeVar("F", bound=Callable[..., Any])

LIMITS = (
    click.option("--name", metavar="NAME", help="The job's name; default: the program's."),
    click.option("--cpus", metavar="N", help="Whole CPUs are exclusive; 0.5 shares one."),
    click.option("--cpuset", metavar="LIST", help='Pin to these CPUs: "2-3".'),
    click.option("--cpu-shares", metavar="N", help="Weight when the CPU is contended, 2 to 262144."),
    click.option("--memory", metavar="SIZE", help='Hard limit: "4GiB".'),
    click.option("--blkio-weight", metavar="N", help="Weight of block I/O, 10 to 1000."),
    click.option("--pids", metavar="N", help="At most so many processes and threads."),
    click.option("--scratch", metavar="SIZE", help="Size of the private /tmp."),
    click.option("--scratch-on", metavar="WHERE", help="Where that is: memory (the default), or disk."),
    click.option("--resource", metavar="NAME=N", multiple=True, help="A resource that batchns.toml names."),
    click.option("--strict", is_flag=True, default=None, help="Refuse to run when a limit cannot be enforced here."),
    click.option("--network", metavar="MODE", help="private (default: own namespace, NAT), none, or host."),
    click.option("--egress", metavar="RATE", help='What the job may send: "50mbit".'),
    click.option("--ingress", metavar="RATE", help='What the job may receive: "100mbit".'),
    click.option("--allow", metavar="WHAT", multiple=True, help="Reach this too: jobs, host:PORT or an address range."),
    click.option("--bind", metavar="SRC:DST[:ro]", multiple=True, help="Show a host folder or file inside."),
    click.option("--env", metavar="NAME=VALUE", multiple=True, help="Set an environment variable."),
    click.option("--cwd", metavar="FOLDER", help="Working folder, writable; default: the current one."),
    click.option("--time-limit", metavar="TIME", help='End the job after so long: "2h30m".'),
    click.option("--warn-signal", metavar="SIGNAL@TIME", help='Signal it so long before its time limit: "USR1@60s".'),
    click.option("--grace-time", metavar="TIME", help="Between asking it to end and killing it."),
    click.option("--begin", metavar="WHEN", help='Not to be started before: "2026-12-01T08:00" or "+2h".'),
    click.option("--deadline", metavar="WHEN", help="To be over by then, or it is cancelled."),
    click.option("--account", metavar="NAME", help="Whom a Slurm cluster charges it to; no effect on one machine."),
)

QUEUEING = (
    click.option("--queue", metavar="QUEUE", help="The queue to wait in; batchns queues shows them."),
    click.option("--priority", metavar="N", help="0 to 100, larger first; default: 50."),
    click.option("--array", metavar="INDICES", help='One task for each index: "0-99%10", ten at a time.'),
    click.option("--dependency", metavar="WHAT", multiple=True, help='What it waits for: "afterok:prep".'),
    click.option("--max-retries", metavar="N", help="Try again so often when it fails."),
    click.option("--preempt", metavar="MODE", help="What may be done to it: suspend, requeue, cancel, off."),
    click.option("--stdout", metavar="FILE", help='Where its output goes; default: "%x-%j.out".'),
    click.option("--stderr", metavar="FILE", help='Where its errors go; default: "%x-%j.err".'),
    click.option("--hold", is_flag=True, default=None, help="Let it wait until it is released."),
)


class Whole(click.ParamType):  # type: ignore[type-arg] # generic only from click 8.4 on
    """A whole number of `least` to `most`, in digits: click's own takes 5_3, an id, for 53."""

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        hint = f"write {self.least} or more" if self.most is None else f"write {self.least} to {self.most}"
        if not re.fullmatch("-?[0-9]{1,18}", str(value)):
            self.fail(f"{quote(str(value))} is no whole number - {hint}", param, ctx)
        number = int(value)
        if number < self.least or (self.most is not None and number > self.most):
            self.fail(f"{number} is out of range - {hint}", param, ctx)
        return number


SOCKET = click.option("--socket", metavar="PATH", help="The daemon's socket; default: $BATCHNS_SOCKET, batchns.toml.")


def _heed_to(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value:
        context.meta["batchns.to"] = value


TO = click.option(
    "--to",
    type=click.Choice(["local", "slurm"]),
    expose_value=False,
    callback=_heed_to,
    help="local: this machine's daemon; slurm: a cluster. Default: $BATCHNS_ENGINE, batchns.toml.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object on a line.")


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """The options as one decorator, in the order in which help shows them."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


WHERE = together(TO, SOCKET)
job_limits = together(*LIMITS)
queueing = together(*QUEUEING)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were typed, as JSON has them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value is not None and value != ()
    }


class WithCommand(click.Command):
    """Takes what follows `--` as a command to run, which click would mix with the arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["batchns.command"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


def command_of(ctx: click.Context) -> list[str] | None:
    """What followed `--`; None: there was no `--`."""
    command: Sequence[str] | None = ctx.meta.get("batchns.command")
    return None if command is None else list(command)
