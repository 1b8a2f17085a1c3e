"""A hold that outlives its process, grants that come while it is held, and rules that somebody else has flushed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import network_programs as programs
import pytest
from network_world import HOST, OUTSIDE, POOL, UPLINK, Place, World, nft, open_world

from batchns.errors import HostError
from batchns.kernel.network import groups, rules
from batchns.kernel.network import nft as nft_program
from batchns.kernel.network.firewall import Firewall
from batchns.kernel.network.types import Grant, NetworkPlan

pytestmark = pytest.mark.kernel

PORT = 5000
CONF = Path("/proc/sys/net/ipv4/conf")
ADA, BOB = 1001, 1002
PEERS = Grant(ADA, jobs=True)
PORTS = Grant(ADA, ports=(("tcp", PORT, PORT),))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(programs, "PATIENCE", 0.4)
    with open_world() as world:
        yield world


@pytest.fixture
def run_folder(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def keeper(run_folder: str, pool: str = POOL, **more: object) -> Firewall:
    """As the daemon holds it."""
    return Firewall(run_folder=run_folder, pool=pool, nat=True, kept=True, **more)  # type: ignore[arg-type]


def other(run_folder: str) -> Firewall:
    return Firewall(run_folder=run_folder, pool=POOL, nat=True)


def table() -> str:
    return nft("list", "table", "inet", rules.TABLE)


def forwarding() -> str:
    return (CONF / UPLINK / "forwarding").read_text().strip()


def job_with(world: World, firewall: Firewall, grant: Grant) -> tuple[Place, NetworkPlan]:
    plan = world.plan()._replace(group=firewall.groups[grant], serves=bool(grant.ports))
    return world.job(plan), plan


def test_a_grant_that_comes_while_jobs_run_is_in_force_for_the_jobs_that_come_then(
    world: World, run_folder: str
) -> None:
    programs.listen("tcp", PORT, "0.0.0.0")
    everything = Grant(ADA, True, (("tcp", PORT, PORT + 9),), ("203.0.113.0/24", "169.254.169.254/32", "fd12::/16"))
    with Firewall(run_folder=run_folder, pool=POOL, nat=True, grants=[PEERS]) as firewall:
        server, plan = job_with(world, firewall, PEERS)
        server.call(programs.listen, "tcp", PORT)
        before = table()
        firewall.grant(everything, Grant(BOB, jobs=True), everything)
        assert len(firewall.groups) == 3
        client, _ = job_with(world, firewall, everything)
        assert client.call(programs.connect_at_last, plan.job_address, PORT) == "connected", "a job of before"
        assert client.call(programs.connect_at_last, HOST, PORT) == "connected"
        bob, _ = job_with(world, firewall, Grant(BOB, jobs=True))
        assert bob.call(programs.connect, plan.job_address, PORT) == "timeout"
        firewall.revoke(everything, Grant(BOB, jobs=True))
        assert table() == before
        assert client.call(programs.connect, HOST, PORT) == "timeout"


def test_what_is_added_one_by_one_is_what_a_new_table_would_have(world: World, run_folder: str) -> None:
    chance = random.Random(7)
    with Firewall(run_folder=run_folder, pool=POOL, nat=True) as firewall:
        for number in range(12):
            ports = tuple(("tcp", first, first + chance.randrange(9)) for first in chance.sample(range(1, 60), 4))
            ranges = tuple(f"10.{chance.randrange(4)}.0.0/{chance.choice((15, 16))}" for _ in range(2))
            ranges = tuple({text.replace("1.0.0/15", "0.0.0/15").replace("3.0.0/15", "2.0.0/15") for text in ranges})
            firewall.grant(Grant(ADA + number % 3, number % 2 == 0, ports, ranges))
            if number % 4 == 3:
                firewall.revoke(chance.choice(list(firewall.groups)))
        assert firewall.check() == [], "as many rules and elements"
        added = sorted(table().replace(",", "").split())
        nft("delete", "table", "inet", rules.TABLE)
        assert len(firewall.check()) == 1
        assert sorted(table().replace(",", "").split()) == added


def test_jobs_of_one_user_share_a_block_of_groups_and_no_other_users_do(world: World, run_folder: str) -> None:
    """So a user with a thousand different `allow` has as many rules for its peers as one with a single one."""
    with Firewall(run_folder=run_folder, pool=POOL, nat=True) as firewall:
        firewall.grant(
            *(Grant(ADA + user, True, (("tcp", port, port),)) for user in range(2) for port in range(1, 501))
        )
        blocks = {(groups.block(group), grant.user) for grant, group in firewall.groups.items()}
        assert len(blocks) == 2 and len({block for block, _ in blocks}) == 2
        assert len(list(groups.peers({group: grant for grant, group in firewall.groups.items()}))) == 2


def test_a_kept_hold_outlives_its_process_and_others_leave_it_alone(world: World, run_folder: str) -> None:
    programs.listen("tcp", PORT, "0.0.0.0")
    place = world.place(keep, run_folder)
    group = place.prepared
    plan = world.plan()._replace(group=group, serves=True)
    job = world.job(plan)
    assert job.call(programs.connect_at_last, HOST, PORT) == "connected"
    place.close()  # by SIGKILL
    before = table()
    with other(run_folder):
        assert str(group) in table()
        assert job.call(programs.connect_at_last, HOST, PORT) == "connected"
    assert table() == before and forwarding() == "1"
    assert job.call(programs.connect_at_last, HOST, PORT) == "connected"
    again = keeper(run_folder)
    again.hold()
    assert again.groups == {PORTS: group}, "of the same grant"
    again.leave()
    assert rules.TABLE not in nft("list", "tables") and forwarding() == "0"
    assert [path.name for path in Path(run_folder, "firewall").iterdir()] == ["lock"]


_kept: list[Firewall] = []


def keep(run_folder: str) -> int:
    _kept.append(keeper(run_folder))
    _kept[0].hold()
    _kept[0].grant(PORTS)
    return _kept[0].groups[PORTS]


def test_only_one_keeps_at_a_time(world: World, run_folder: str) -> None:
    world.place(keep, run_folder)
    with pytest.raises(HostError, match=r"another batchns that keeps its jobs .* fuser"):
        keeper(run_folder).hold()
    with other(run_folder):
        pass
    assert rules.TABLE in nft("list", "tables")


def test_taking_a_kept_hold_again_loses_no_packet_and_lets_none_through(world: World, run_folder: str) -> None:
    """Also with other settings: the table is changed at once, under the traffic of jobs."""
    victim_plan = world.plan()
    victim, speaker, stream, intruder = (world.job(plan) for plan in (victim_plan, *(world.plan() for _ in range(3))))
    for place in (victim, world.outside):
        place.call(programs.listen, "udp", PORT)
    world.outside.call(programs.listen, "tcp", PORT)
    firewall = keeper(run_folder)
    firewall.hold()
    firewall = changed(firewall, run_folder, 0.0)

    world.outside.begin(programs.echo_stream, PORT)
    stream.begin(programs.ask_and_wait, OUTSIDE, PORT, 3.0)
    intruder.begin(programs.send_numbered, victim_plan.job_address, PORT, 3.0)
    firewall = changed(firewall, run_folder, 2.7)
    asked, sent_again = stream.result()
    assert asked > 100 and intruder.result() > 1000
    assert sent_again == world.outside.result() == 0, "nothing was lost in either direction"
    assert victim.call(programs.collect_numbers, PORT, 0.2) == [], "no packet of another job in between"

    world.outside.begin(programs.collect_numbers, PORT, 0.5)
    speaker.begin(programs.send_numbered, OUTSIDE, PORT, 3.0)
    firewall = changed(firewall, run_folder, 2.7)
    sent, arrived = speaker.result(), world.outside.result()
    assert arrived == list(range(sent)), "and no datagram either"
    firewall.leave()
    intruder.call(programs.send_numbered, victim_plan.job_address, PORT, 0.1)
    assert victim.call(programs.collect_numbers, PORT, 0.2), "without rules"


def changed(firewall: Firewall, run_folder: str, seconds: float) -> Firewall:
    """The last of the processes that take the hold again for so long, each with other settings than the one before."""
    end, times = time.monotonic() + seconds, 0
    while times < 2 or time.monotonic() < end:
        firewall.step_aside()
        firewall = keeper(run_folder, resolvers=(OUTSIDE,) if times % 2 else (), grants=[PEERS, PORTS])
        firewall.hold()
        times += 1
    return firewall


def test_another_pool_leaves_the_jobs_of_the_last_one_what_they_have(world: World, run_folder: str) -> None:
    programs.listen("tcp", PORT, "0.0.0.0")
    world.outside.call(programs.listen, "tcp", PORT)
    first = keeper(run_folder, grants=[PORTS])
    first.hold()
    job, _ = job_with(world, first, PORTS)
    first.step_aside()
    assert not first.held
    second = keeper(run_folder, pool="10.214.0.0/16")
    second.hold()
    for address in (OUTSIDE, HOST):
        assert job.call(programs.connect_at_last, address, PORT) == "connected"
    job.close()
    assert "10.213.0.0/16" in table()
    second.step_aside()
    end = time.monotonic() + 10
    while "\tbns" in Path("/proc/self/net/route").read_text() or "bnst" in Path("/proc/self/net/route").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    third = keeper(run_folder, pool="10.214.0.0/16")
    third.hold()
    assert "10.213.0.0/16" not in table(), "its last job has gone"
    third.leave()
    assert rules.TABLE not in nft("list", "tables")


def test_a_settings_change_that_is_refused_leaves_the_kept_hold_as_it_was(
    world: World, run_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = keeper(run_folder, grants=[PORTS])
    first.hold()
    before, group = table(), first.groups[PORTS]
    _job, _ = job_with(world, first, PORTS)
    first.step_aside()
    for change in ({"resolvers": (OUTSIDE,)}, {"pool": "10.214.0.0/16"}):
        with monkeypatch.context() as patch:
            patch.setattr(nft_program, "load", refuse)
            with pytest.raises(HostError, match="nft"):
                keeper(run_folder, **change).hold()  # type: ignore[arg-type]
        with pytest.raises(HostError, match="another batchns is running with pool"):
            keeper(run_folder, pool="10.213.0.0/17").hold()
        with other(run_folder):
            assert table() == before
    again = keeper(run_folder)
    again.hold()
    assert again.groups == {PORTS: group}
    again.leave()


def refuse(script: str) -> None:
    raise HostError("nft: refused", "")


def test_after_a_reboot_nothing_is_held_and_nothing_is_given_back(world: World, run_folder: str) -> None:
    """A run folder that outlives the boot tells of links, rules and switches that are not there any more."""
    first = keeper(run_folder, grants=[PORTS])
    first.hold()
    first.step_aside()
    nft("flush", "ruleset")  # as after a boot
    (CONF / UPLINK / "forwarding").write_text("1")  # the administrator's own by now
    Path(run_folder, "firewall", "lock").write_text("00000000-0000-0000-0000-000000000000")
    with other(run_folder):
        assert "tcp_ports {\n\t\ttype devgroup . inet_service\n\t\tflags interval\n\t}" in table()
    assert rules.TABLE not in nft("list", "tables")
    assert forwarding() == "1"
    again = keeper(run_folder)
    again.hold()
    assert again.groups == {}
    again.leave()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("flush ruleset", "the table inet batchns was removed"),
        (f"flush chain inet {rules.TABLE} from_job", "the table inet batchns was changed: from_job"),
        (f"flush set inet {rules.TABLE} tcp_ports", "the table inet batchns was changed: tcp_ports"),
        (f"delete chain inet {rules.TABLE} source", "the table inet batchns was changed: source"),
        ("", "forwarding was switched off on out0"),
    ],
)
def test_what_somebody_takes_away_is_told_and_put_back(world: World, run_folder: str, damage: str, what: str) -> None:
    programs.listen("tcp", PORT, "0.0.0.0")
    world.outside.call(programs.listen, "tcp", PORT)
    firewall = keeper(run_folder, grants=[PORTS])
    firewall.hold()
    with other(run_folder):
        assert firewall.check() == [], "what others hold is no change"
    job, _ = job_with(world, firewall, PORTS)
    if damage:
        nft(damage)
    else:
        (CONF / UPLINK / "forwarding").write_text("0")
    (found,) = firewall.check()
    assert found.startswith(what)
    assert firewall.check() == []
    for address in (OUTSIDE, HOST):
        assert job.call(programs.connect_at_last, address, PORT) == "connected"
    firewall.leave()


def test_a_grant_mends_a_table_that_has_gone(world: World, run_folder: str) -> None:
    with Firewall(run_folder=run_folder, pool=POOL, nat=True, grants=[PEERS]) as firewall:
        nft("flush", "ruleset")
        firewall.grant(PORTS)
        assert firewall.check() == []


def test_a_file_of_a_holder_that_was_removed_is_written_again(world: World, run_folder: str) -> None:
    firewall = keeper(run_folder, grants=[PORTS])
    firewall.hold()
    (held,) = Path(run_folder, "firewall").glob("holder-*")
    before = json.loads(held.read_text())
    held.unlink()
    assert firewall.check() == []
    assert json.loads(held.read_text()) == before
    firewall.leave()


def test_an_uplink_that_comes_later_is_switched_on_by_a_check(world: World, run_folder: str) -> None:
    with Firewall(run_folder=run_folder, pool=POOL, nat=True) as firewall:
        world.neighbour("out1", "203.0.113.1", "203.0.113.2")
        assert (CONF / "out1" / "forwarding").read_text() == "0\n"
        assert firewall.check() == []
        assert (CONF / "out1" / "forwarding").read_text() == "1\n"
    assert (CONF / "out1" / "forwarding").read_text() == "0\n"


@pytest.mark.parametrize("half_left", [False, True])
def test_one_that_leaves_without_having_held_removes_what_was_kept_before_it(
    world: World, run_folder: str, half_left: bool
) -> None:
    """`half_left`: the one before it was killed as it left. Found by kills of the daemon before each of its calls."""
    first = keeper(run_folder)
    first.hold()
    first.step_aside()
    if half_left:
        Path(run_folder, "firewall", "holder-kept").unlink()
    assert rules.TABLE in nft("list", "tables")
    keeper(run_folder).leave()
    assert rules.TABLE not in nft("list", "tables")
    assert forwarding() == "0"
    assert not list(Path(run_folder, "firewall").glob("holder-*"))
