"""A supervisor with everything that it needs of the machine, for as long as one foreground run lasts.

What is acquired here is released in reverse, whatever happens: cgroup parents, run folder, firewall, launcher.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver, Limits
from batchns.kernel.network import resolver
from batchns.launch.build import base, host_paths
from batchns.launch.client import open_launcher
from batchns.launch.ids import identity_of
from batchns.model.config import Config
from batchns.model.job import JobSpec, NetworkMode
from batchns.model.submitter import Submitter
from batchns.supervise import devices, rootless
from batchns.supervise.filters import write_filters
from batchns.supervise.history import FILE as HISTORY_FILE
from batchns.supervise.history import History
from batchns.supervise.loop import AHEAD
from batchns.supervise.networks import Networks, grants_of, networks_of_root
from batchns.supervise.node import pids_of_jobs, read_node
from batchns.supervise.runfolder import RunFolder
from batchns.supervise.scratch import sweep_scratch
from batchns.supervise.supervisor import Supervisor
from batchns.supervise.sweep import remove_own, sweep
from batchns.supervise.view import Observer
from batchns.supervise.watch import sampler_of


@asynccontextmanager
async def open_supervisor(
    config: Config,
    specs: Sequence[JobSpec],
    observer: Observer,
    *,
    submitter: Submitter,
    attached: tuple[int, int, int] | None = None,
    tell: Callable[[str], None],
) -> AsyncIterator[Supervisor]:
    """A supervisor for the `specs` of `submitter`. What dead runs have left is removed first, and told.

    `attached`: stdin, stdout and stderr of the jobs, instead of files.

    Raises:
        HostError: this machine cannot run jobs, or its settings do not fit it.
        UserError: a job asks for an identity that its submitter cannot have.
    """
    root = os.geteuid() == 0
    config = _checked(config, specs, submitter, root=root)
    units = devices.read_units(config) if root else {}
    async with AsyncExitStack() as stack:
        capacity = read_node(config)
        driver = _open_driver(config, root=root)
        for line in (*sweep(config.paths.run, driver), *sweep_scratch(config)):
            tell(line)
        driver.prepare()
        driver.bound(pids_of_jobs(config))
        stack.callback(driver.release)
        runs = stack.enter_context(RunFolder(config))
        stack.callback(sweep_scratch, config, own=runs.run_id)
        stack.callback(_remove_what_is_left, runs, driver, tell)
        launcher = await stack.enter_async_context(open_launcher(root=root))
        paths = host_paths()
        own_network = any(spec.network.mode is not NetworkMode.HOST for spec in specs)
        common = base(paths, config.defaults.scratch, root=root, own_network=own_network)
        for name in _first_attempts(runs, specs):
            await launcher.prepare(name, common, driver.plan(name, Limits()).into)
        found = resolver.find(config.network.dns)
        if root:
            networks = networks_of_root(config, runs, driver, found)
            stack.callback(networks.leave)
        else:
            networks = rootless.networks(found, Path(runs.resolver_path))
        filters = await _filters_and_firewall(config, specs, runs, networks, submitter)
        yield Supervisor(
            config=config,
            capacity=capacity,
            driver=driver,
            launcher=launcher,
            runs=runs,
            observer=observer,
            submitter=submitter,
            host_paths=paths,
            networks=networks,
            filters=filters,
            units=units,
            attached=attached,
            root=root,
            tell=tell,
            keeper=History(Path(config.paths.state) / HISTORY_FILE),
            sampler=sampler_of(config, {spec.queue for spec in specs}, capacity.cpus, driver),
        )


def _checked(config: Config, specs: Sequence[JobSpec], submitter: Submitter, *, root: bool) -> Config:
    """The settings that hold for this user, once it is known that the jobs may be what they ask to be."""
    for spec in specs:
        identity_of(submitter, spec.isolation.identity)
    if root:
        return config
    for spec in specs:
        rootless.check_network(spec)
    config = rootless.own_paths(config, submitter)
    rootless.check_namespaces()
    rootless.make_private(config.paths.run)
    devices.check_user(config, specs)
    return config


def _first_attempts(runs: RunFolder, specs: Sequence[JobSpec]) -> list[str]:
    """The names of those whose sandboxes are prepared before anything is decided."""
    jobs = sum(len(spec.array.indices) if spec.array else 1 for spec in specs)
    return [runs.attempt_name(serial) for serial in range(min(AHEAD, jobs))]


async def _filters_and_firewall(
    config: Config, specs: Sequence[JobSpec], runs: RunFolder, networks: Networks, submitter: Submitter
) -> dict[str, str]:
    """Compiled filters by profile, and the firewall held where there is one and jobs need it.

    Both take their time, in which the launcher prepares the first sandboxes.
    """
    filters: dict[str, str] = {}

    async def compile_filters() -> None:
        names = {spec.isolation.seccomp for spec in specs}
        filters.update(await trio.to_thread.run_sync(write_filters, names, config.isolation.seccomp, runs.path))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(compile_filters)
        if any(spec.network.mode is NetworkMode.PRIVATE for spec in specs):
            nursery.start_soon(networks.hold, grants_of(specs, submitter.uid))
    return filters


def _remove_what_is_left(runs: RunFolder, driver: Driver, tell: Callable[[str], None]) -> None:
    left = remove_own(runs.run_id, driver)
    for line in left:
        tell(f"left behind: {line}")
    if left:
        runs.leave_to_sweep()


def _open_driver(config: Config, *, root: bool) -> Driver:
    if not root:
        return rootless.prepared_driver(config)
    return open_driver(parent=config.cgroup.parent, locks=f"{config.paths.run}/cgroups")
