"""`batchns run --metrics`: what the daemon tells Prometheus, told by a run for as long as it lasts."""

from __future__ import annotations

import re

import trio
from attrs import define

from batchns.daemon.http.scrape import serve_scrapes
from batchns.errors import UserError
from batchns.metrics.exporter import Exporter
from batchns.supervise.supervisor import Supervisor
from batchns.units import quote


@define(eq=False)
class _Told:
    """See `daemon.http.scrape.Told`: whoever answers, is well."""

    exporter: Exporter

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        return await self.exporter.scrape(accept)

    async def ill(self) -> str:
        return ""

    def unready(self) -> str:
        return ""


def parse_address(text: str) -> tuple[str, int]:
    """Of "127.0.0.1:9754", "[::1]:9754". Raises UserError."""
    found = re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", text)
    if found is None or int(found[2]) > 65535:
        raise UserError(f"--metrics: {quote(text)} is not an address and a port", "write for example 127.0.0.1:9754")
    return found[1].strip("[]"), int(found[2])


async def serve_metrics(
    supervisor: Supervisor, address: tuple[str, int], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve what `supervisor` does, from before it begins, until cancelled. Started, with the port, when it listens.

    Raises:
        HostError: nobody can listen there.
    """
    exporter = Exporter(driver=supervisor.driver, blocking=supervisor.blocking, config=lambda: supervisor.config)
    offset = supervisor.wall() - supervisor.clock()
    books = supervisor.count(exporter.counting)
    links = supervisor.root and supervisor.networks.connected
    exporter.watch(books, links=links, wall=lambda moment: moment + offset)
    await serve_scrapes(_Told(exporter), address, task_status=task_status)
