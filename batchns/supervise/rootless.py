"""What batchns uses of the machine where it is not root: folders of the user's own, cgroups where some are delegated.

Sources: XDG Base Directory Specification; systemd's "Control Group APIs and Delegation" (the caller of a delegated
subtree moves itself out of the way: a cgroup that has processes cannot hand controllers down).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve

from batchns.errors import HostError, UserError
from batchns.kernel import trial
from batchns.kernel.cgroups.delegated import step_aside
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver
from batchns.kernel.cgroups.none import NoCgroups
from batchns.kernel.network import ipv6, resolver
from batchns.kernel.network.resolver import Resolver
from batchns.kernel.probe_network import way_out
from batchns.model.config import Config, Paths
from batchns.model.job import JobSpec, NetworkMode
from batchns.model.submitter import Submitter
from batchns.supervise.networks import Networks

NO_CGROUPS = "no cgroup is delegated to you: systemd-run --user --scope -p Delegate=yes batchns ..."
NO_NAMESPACE = "sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 (as root)"


def own_paths(config: Config, user: Submitter, environ: Mapping[str, str] = os.environ) -> Config:
    """The settings with folders of the user's own in the place of the machine's; such as are set stay.

    $XDG_RUNTIME_DIR/batchns, or /tmp/batchns-UID where there is none, and $XDG_STATE_HOME/batchns.
    """
    usual = Paths()
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    home = environ.get("HOME") or user.home
    state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    run = f"{runtime}/batchns" if runtime.startswith("/") else f"/tmp/batchns-{user.uid}"
    paths = config.paths
    return evolve(
        config,
        paths=Paths(
            run=run if paths.run == usual.run else paths.run,
            state=f"{state}/batchns" if paths.state == usual.state else paths.state,
        ),
    )


def make_private(folder: str) -> None:
    """Make the run folder, or see that nobody else has made it: its place may be open to all.

    Raises:
        HostError: it is somebody else's, or open to somebody else, or cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        hint = "write a folder of your own: run under [paths] in batchns.toml"
        raise HostError(f"{folder}: {error.strerror}", hint) from None
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostError(
            f"{folder}: others can write there, or have made it",
            "set XDG_RUNTIME_DIR, or write a folder of your own: run under [paths] in batchns.toml",
        )


def check_network(spec: JobSpec) -> None:
    """Raises UserError for a job that asks for the host's network.

    A user's sandbox is built in a user namespace of its own, which the kernel lets mount no /sys of a network namespace
    that belongs to the host.
    """
    if spec.network.mode is NetworkMode.HOST:
        raise UserError(
            f'job {spec.name}: network.mode = "host" needs root',
            "sudo batchns run --user $USER FILE",
        )


def networks(found: Resolver, place: Path) -> Networks:
    """The way out of a user's jobs, where there is one. `place`: where their resolv.conf goes."""
    way = way_out()
    if not way.program:
        return Networks(connected=False, unconnected=f"{way.why}: {way.hint}")
    place.write_text(resolver.text(found, ipv6=bool(ipv6.way_out())))
    return Networks(connected=False, pasta=way.program, resolver=str(place))


def check_namespaces() -> None:
    """Raises HostError where this host allows users no namespaces of their own."""
    outcome = trial.attempt(trial.user_namespace)
    if not outcome.ok:
        raise HostError(f"users have no user namespaces here, and jobs need them: {outcome.text}", NO_NAMESPACE)


def prepared_driver(config: Config) -> Driver:
    """The cgroups that are delegated to this user, prepared; else one that says of each limit why it is not in force.

    Raises:
        HostError: batchns.toml names a parent for jobs that cannot be used.
    """
    locks = f"{config.paths.run}/cgroups"
    try:
        if config.cgroup.parent is None:
            step_aside()
        driver = open_driver(parent=config.cgroup.parent, locks=locks)
        driver.prepare()
    except HostError:
        if config.cgroup.parent is not None:
            raise
        return NoCgroups(NO_CGROUPS)
    return driver
