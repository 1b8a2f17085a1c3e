"""The machine's parts that a daemon runs jobs with, taken over from the daemon before it where there was one.

Left in reverse: what jobs still need stays (launcher, firewall, run folder), for the next daemon. Without a job nothing
stays.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from attrs import define, field

from batchns.core.node import NodeCapacity
from batchns.kernel.cgroups.detect import open_driver
from batchns.kernel.cgroups.interface import Driver
from batchns.kernel.network import resolver
from batchns.launch.build import host_paths
from batchns.launch.keeper import KeptLauncher, keep_launcher
from batchns.model.config import Config
from batchns.supervise import devices, own
from batchns.supervise.devices import Units
from batchns.supervise.filters import write_all_filters
from batchns.supervise.networks import Networks, networks_of_root
from batchns.supervise.node import pids_of_jobs, read_node
from batchns.supervise.runfolder import RunFolder
from batchns.supervise.scratch import sweep_scratch
from batchns.supervise.sweep import remove_job, remove_own, sweep


@define(kw_only=True, eq=False)
class Machine:
    capacity: NodeCapacity
    driver: Driver
    launcher: KeptLauncher
    runs: RunFolder
    host_paths: frozenset[str]
    networks: Networks
    filters: dict[str, str]
    units: dict[str, Units]
    own: tuple[str, ...]
    keep: bool = field(init=False, default=True)  # False: no job is left, and nothing stays


@asynccontextmanager
async def open_machine(config: Config, runs: RunFolder, tell: Callable[[str], None]) -> AsyncIterator[Machine]:
    """`runs`: this daemon's. What dead runs have left is removed first, and told.

    Raises:
        HostError: this machine cannot run jobs, or its settings do not fit it.
        UserError: a seccomp profile of batchns.toml is not understood, or its socket would be in reach of jobs.
    """
    own.check_hidden("daemon.socket" if config.daemon.socket else "paths.run", config.socket)
    async with AsyncExitStack() as stack:
        driver = open_driver(parent=config.cgroup.parent, locks=f"{config.paths.run}/cgroups")
        for line in (*sweep(config.paths.run, driver), *sweep_scratch(config)):
            tell(line)
        driver.prepare()
        driver.bound(pids_of_jobs(config))
        networks = networks_of_root(config, runs, driver, resolver.find(config.network.dns), kept=True)
        filters = await trio.to_thread.run_sync(write_all_filters, config.isolation.seccomp, runs.path)
        launcher = await stack.enter_async_context(keep_launcher(runs.launcher_path))
        machine = Machine(
            capacity=read_node(config),
            driver=driver,
            launcher=launcher,
            runs=runs,
            host_paths=host_paths(),
            networks=networks,
            filters=dict(filters),
            units=dict(devices.read_units(config)),
            own=own_folders(config),
        )
        stack.callback(networks.step_aside)  # whatever happens: jobs need their network
        yield machine
        if not machine.keep:
            await launcher.stop()
            for line in await trio.to_thread.run_sync(remove_own, runs.run_id, driver):
                tell(line)
            networks.leave()
            driver.release()
            runs.give_up()


def own_folders(config: Config) -> tuple[str, ...]:
    """What jobs must not have: folders, and the socket."""
    scratch = config.node.scratch_folder
    own_paths = (config.paths.run, config.paths.state, config.socket, *((scratch,) if scratch else ()))
    return tuple(map(os.path.realpath, own_paths))


def remove_strays(driver: Driver, runs: Collection[str], known: Collection[str]) -> list[str]:
    """Remove cgroups of these runs, by id, that belong to no attempt which is known. Blocks.

    Returns a line for each that could not be removed.
    """
    lines = []
    for name in driver.names():
        if name.partition("-")[0] in runs and name not in known and "-" in name:
            problem = remove_job(name, driver)
            if problem:
                lines.append(f"attempt {name} is of no job, and stays: {problem}")
    return lines
