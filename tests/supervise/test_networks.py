"""What jobs of many users may reach, and by which names: each user's apart."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio
from attrs import define, evolve, field
from supervise_fakes import GIB, inline, spec

from batchns.core.admit import admit, expand
from batchns.core.job import Job
from batchns.core.node import NodeCapacity
from batchns.errors import HostError
from batchns.kernel.network.resolver import Resolver
from batchns.kernel.network.types import Grant
from batchns.launch.build import Slot
from batchns.model.config import Config
from batchns.model.job import Network, NetworkMode
from batchns.model.reach import HostPorts, Jobs
from batchns.model.submitter import Submitter
from batchns.supervise import networks
from batchns.supervise.names import Names
from batchns.supervise.networks import Networks, grant_of
from batchns.supervise.ports import threads

ADA = Submitter(name="ada", uid=1001, gid=1001)
BOB = Submitter(name="bob", uid=1002, gid=1002)
PEERS = Network(allow=(Jobs(),))


def port(number: int) -> Network:
    return Network(allow=(HostPorts("tcp", number, number),))


@define(eq=False)
class Wall:
    """A firewall without a kernel. `slow`: seconds for a grant."""

    held: bool = False
    pool6: str = ""
    groups: dict[Grant, int] = field(factory=dict)
    calls: list[str] = field(factory=list)
    slow: float = 0.0
    refuses: bool = False

    def hold(self) -> None:
        if self.refuses:
            raise HostError("nft: refused", "")
        self.held = True
        time.sleep(self.slow)
        self.calls.append("hold")

    def grant(self, *grants: Grant) -> None:
        time.sleep(self.slow)
        for grant in grants:
            self.groups.setdefault(grant, len(self.groups) + 1)
        self.calls.append(f"grant {len(grants)}")

    def revoke(self, *grants: Grant) -> None:
        for grant in grants:
            del self.groups[grant]
        self.calls.append(f"revoke {len(grants)}")

    def check(self) -> list[str]:
        return ["changed"]

    def leave(self) -> None:
        self.calls.append("leave")

    def step_aside(self) -> None:
        self.calls.append("step aside")


def job(folder: Path, name: str, network: Network, tasks: int = 0) -> Job:
    one = evolve(spec(folder, name, tasks=tasks) if tasks else spec(folder, name), network=network)
    return expand(admit([one], NodeCapacity(cpus=(0,), memory=GIB), Config()), 7, Config(), 0.0)[0]


def slot(number: int) -> Slot:
    return Slot(number=number, id_start=1 << 20, address=f"10.213.0.{number + 1}")


def made(folder: Path, wall: Wall, **more: object) -> Networks:
    own = folder / "own-hosts"
    own.write_text("127.0.0.1 localhost")
    return Networks(firewall=wall, names=Names(f"{folder}/hosts", own), **more)  # type: ignore[arg-type]


def lines(path: Path | str) -> list[str]:
    return [line for line in Path(path).read_text().splitlines() if line]


def test_a_users_jobs_have_names_of_that_users_jobs_alone(tmp_path: Path) -> None:
    nets = made(tmp_path, Wall(), blocking=inline)

    async def launch(attempt: str, name: str, who: Submitter, number: int, network: Network = PEERS) -> str:
        await nets.ready_for(network, who.uid)
        nets.plan(attempt, job(tmp_path, name, network), slot(number), who)
        return dict(nets.covers(network, who)).get("/etc/hosts", "")

    ada = trio.run(launch, "a-1", "server", ADA, 0)
    bob = trio.run(launch, "b-1", "secret", BOB, 1)
    assert trio.run(launch, "a-2", "client", ADA, 2) == ada != bob
    assert trio.run(launch, "a-3", "apart", ADA, 3, port(80)) == ""
    assert lines(ada) == ["127.0.0.1 localhost", "10.213.0.1 server", "10.213.0.3 client"]
    assert lines(bob) == ["127.0.0.1 localhost", "10.213.0.2 secret"]
    inode, size = os.stat(ada).st_ino, os.stat(ada).st_size
    nets.over("a-1")
    assert lines(ada) == ["127.0.0.1 localhost", "10.213.0.3 client"]
    assert (os.stat(ada).st_ino, os.stat(ada).st_size) == (inode, size), "in place: it is mounted"
    nets.over("a-2")
    nets.over("a-3")
    nets.over("a-3")
    assert not Path(ada).exists() and Path(bob).exists()


def test_grants_of_different_users_are_different(tmp_path: Path) -> None:
    wall = Wall()
    nets = made(tmp_path, wall, blocking=inline)

    async def launch() -> list[int]:
        groups = []
        for number, who in enumerate((ADA, BOB, ADA)):
            await nets.ready_for(PEERS, who.uid)
            groups.append(nets.plan(f"x-{number}", job(tmp_path, "j", PEERS), slot(number), who).group)
        return groups

    one, two, three = trio.run(launch)
    assert one == three != two
    assert wall.calls == ["hold", "grant 1", "grant 1"]


def test_most_jobs_wait_for_nothing(tmp_path: Path) -> None:
    wall = Wall()

    async def main() -> None:
        nets = made(tmp_path, wall, blocking=inline)
        await nets.ready_for(Network(mode=NetworkMode.NONE), 1)
        assert wall.calls == []
        await nets.ready_for(Network(), 1)
        await nets.ready_for(Network(), 2)
        await nets.ready_for(port(80), 1)
        for _ in range(3):
            await nets.ready_for(port(80), 1)
        assert nets.plan("x", job(tmp_path, "j", Network()), slot(0), ADA).group == 0

    trio.run(main)
    assert wall.calls == ["hold", "grant 1"]


def test_many_that_ask_at_once_are_granted_together(tmp_path: Path) -> None:
    wall = Wall(held=True, slow=0.05)
    nets = made(tmp_path, wall, blocking=threads())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(nets.ready_for, port(1 + number), ADA.uid)

    trio.run(main)
    assert len(wall.groups) == 100
    assert len(wall.calls) <= 3


def test_what_no_job_has_used_for_a_while_is_given_back_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MOST", 5)
    wall, now = Wall(held=True), [0.0]
    nets = made(tmp_path, wall, blocking=inline, clock=lambda: now[0])

    async def use(number: int) -> None:
        await nets.ready_for(port(number), ADA.uid)
        nets.plan(f"x-{number}", job(tmp_path, "j", port(number)), slot(number), ADA)

    for number in range(1, 6):
        trio.run(use, number)
    for number in (1, 2):
        nets.over(f"x-{number}")
    now[0] = 50.0
    trio.run(use, 6)
    assert len(wall.groups) == 6, "their links may not have gone yet"
    nets.over("x-3")
    now[0] = 100.0
    trio.run(use, 7)
    assert {grant.ports[0][1] for grant in wall.groups} == {3, 4, 5, 6, 7}
    trio.run(use, 1)
    assert grant_of(port(1), ADA.uid) in wall.groups


def test_a_firewall_that_refuses_is_one_jobs_trouble_and_is_tried_again(tmp_path: Path) -> None:
    wall = Wall(refuses=True)
    nets = made(tmp_path, wall, blocking=inline)
    with pytest.raises(HostError, match="refused"):
        trio.run(nets.ready_for, PEERS, ADA.uid)
    with pytest.raises(HostError, match="given back meanwhile"):
        nets.plan("x", job(tmp_path, "j", PEERS), slot(0), ADA)
    assert list(tmp_path.glob("hosts-*")) == []
    wall.refuses = False
    trio.run(nets.ready_for, PEERS, ADA.uid)
    assert nets.plan("x", job(tmp_path, "j", PEERS), slot(0), ADA).group == 1


def test_the_jobs_resolv_conf_is_written_in_place_when_the_firewall_is_held(tmp_path: Path) -> None:
    """By the next process, too: jobs of the last one have it mounted."""
    path = tmp_path / "resolv.conf"
    inode = None
    for servers, expected in ((("192.0.2.1", "192.0.2.2"), 2), (("192.0.2.3",), 1)):
        found = Resolver(servers, (), "network.dns")
        nets = made(tmp_path, Wall(), blocking=inline, resolver=str(path), found=found)
        trio.run(nets.hold)
        told = [line for line in lines(path) if line.startswith("nameserver")]
        assert told == [f"nameserver {server}" for server in servers] and len(told) == expected
        assert inode in (None, path.stat().st_ino)
        inode = path.stat().st_ino
    assert path.stat().st_mode & 0o777 == 0o644


def test_nobody_is_ready_before_the_rules_and_resolv_conf_are_there(tmp_path: Path) -> None:
    """Found by a campaign of kills: jobs that came while the first one's firewall was made had no resolv.conf."""
    path, there = tmp_path / "resolv.conf", []
    wall = Wall(slow=0.1)
    nets = made(tmp_path, wall, resolver=str(path), found=Resolver(("192.0.2.1",), (), "network.dns"))

    async def one(after: float) -> None:
        await trio.sleep(after)
        await nets.ready_for(Network(), 7)
        there.append(path.exists() and wall.calls[:1] == ["hold"])

    async def several() -> None:
        async with trio.open_nursery() as nursery:
            for after in (0.0, 0.02, 0.05):
                nursery.start_soon(one, after)

    trio.run(several)
    assert there == [True] * 3


def test_a_check_is_for_what_is_held(tmp_path: Path) -> None:
    async def checks(wall: Wall) -> list[str]:
        return await made(tmp_path, wall, blocking=inline).check()

    assert trio.run(checks, Wall()) == []
    assert trio.run(checks, Wall(held=True)) == ["changed"]
