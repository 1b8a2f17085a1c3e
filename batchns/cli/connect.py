"""The way to who runs jobs: the daemon's socket, or a cluster.

batchns.toml is only looked at where nothing else names the socket, and only for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batchns.client.sync import Client
from batchns.errors import UserError
from batchns.units import quote

if TYPE_CHECKING:
    from batchns.model.job import JobSpec
    from batchns.slurm.engine import Slurm
    from batchns.wire.engine import Engine

SOCKET_VARIABLE: Final = "BATCHNS_SOCKET"
SOCKET_NAME: Final = "batchns.sock"
DEFAULT_RUN: Final = "/run/batchns"
CONFIG_VARIABLE: Final = "BATCHNS_CONFIG"
SYSTEM_CONFIG: Final = "/etc/batchns/batchns.toml"
ENGINE_VARIABLE: Final = "BATCHNS_ENGINE"
SLURM: Final = "slurm"
_ENGINES: Final = ("local", SLURM)
TO: Final = "batchns.to"  # what --to says, in click's context


def socket_path(explicit: str | None, environ: Mapping[str, str] = os.environ, system: str = SYSTEM_CONFIG) -> str:
    """The daemon's socket: `--socket`, else $BATCHNS_SOCKET, else as batchns.toml has it, else the usual place.

    Raises:
        JobFileErrors: batchns.toml cannot be read, or something is wrong in it.
    """
    if named := explicit or environ.get(SOCKET_VARIABLE):
        return named
    path = environ.get(CONFIG_VARIABLE)
    if not path:
        path = system
        if not os.path.exists(path):
            return f"{DEFAULT_RUN}/{SOCKET_NAME}"
    return _configured(path)


def _configured(path: str) -> str:
    """What the file says; what is wrong with it is said by the one who reads all of it, and takes longer for that."""
    import tomllib

    try:
        settings = tomllib.loads(Path(path).read_text())
        socket = settings.get("daemon", {}).get("socket")
        run = settings.get("paths", {}).get("run", DEFAULT_RUN)
        if isinstance(run, str) and isinstance(socket, str | None):
            return socket or f"{run.rstrip('/')}/{SOCKET_NAME}"
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    from batchns.cli.load import find_config

    return find_config(path).socket


def make_client(path: str) -> Client:
    """The one place where a client is made."""
    return Client(path)


@contextmanager
def daemon(explicit: str | None = None) -> Iterator[Client]:
    """A client of the daemon at `--socket`, or where it is to be found.

    Raises:
        HostError: while it is used: nobody answers.
    """
    with make_client(socket_path(explicit)) as client:
        yield client


def engine_name(environ: Mapping[str, str] = os.environ, system: str = SYSTEM_CONFIG) -> str:
    """Where jobs go: `--to`, else $BATCHNS_ENGINE, else as batchns.toml has it.

    Raises:
        UserError: the variable says something else.
        JobFileErrors: batchns.toml does.
    """
    import click

    context = click.get_current_context(silent=True)
    if named := context.meta.get(TO) if context else None:
        return str(named)
    if named := environ.get(ENGINE_VARIABLE):
        if named not in _ENGINES:
            raise UserError(f"${ENGINE_VARIABLE} is {quote(named)}", f"write {' or '.join(_ENGINES)}")
        return named
    path = environ.get(CONFIG_VARIABLE) or system
    if not os.path.exists(path):
        return "local"
    import tomllib

    try:
        named = tomllib.loads(Path(path).read_text()).get("engine", {}).get("default", "local")
    except (OSError, ValueError, AttributeError, RecursionError):
        return "local"  # who reads all of it says what is wrong
    if named in _ENGINES:
        return str(named)
    from batchns.cli.load import find_config

    return find_config(path).engine.default.value


def make_engine(explicit: str | None = None) -> Engine:
    """A new client of the daemon, or of the cluster that is meant."""
    return slurm() if engine_name() == SLURM else make_client(socket_path(explicit))


def slurm(*, config: str | None = None, allow_degraded: bool = False) -> Slurm:
    """The cluster that Slurm's own tools know."""
    from batchns.cli.load import find_config
    from batchns.slurm.engine import Slurm

    return Slurm(find_config(config), _batch_program(), prepare=_prepare, allow_degraded=allow_degraded)


def _prepare(spec: JobSpec, scratch: int) -> object:
    from batchns.supervise.batch.prepare import prepared

    return prepared(spec, scratch)


def _batch_program() -> list[str]:
    """What runs a job on a node that has this Python and this batchns where we have them.

    As `batchns exec-spec`, without the time that an interpreter takes to look for its packages: a node starts many.
    """
    import sys

    import attr

    import batchns

    places = [str(Path(module.__file__ or "").parents[1]) for module in (batchns, attr)]
    code = (
        f"import gc, sys; gc.disable(); sys.path[:0] = {list(dict.fromkeys(places))!r}; "
        "from batchns.supervise.batch.main import process; process(sys.argv[1])"
    )
    return [sys.executable, "-I", "-S", "-c", code]


@contextmanager
def engine(explicit: str | None = None) -> Iterator[Engine]:
    """Who runs jobs. `explicit`: the daemon's socket.

    Raises:
        HostError: while it is used: nobody answers.
    """
    with make_engine(explicit) as made:
        yield made
