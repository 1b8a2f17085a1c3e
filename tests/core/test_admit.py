"""Defaults are filled in, and what can never run is refused with the numbers."""

from __future__ import annotations

import pytest
from core_helpers import GIB, node, spec

from batchns.core.admit import admit, expand
from batchns.errors import UserError
from batchns.model.config import Config, Defaults, Node, Queue
from batchns.model.job import JobSpec, Network


def test_memory_defaults_to_the_nodes_memory_per_cpu() -> None:
    [two, half] = admit([spec(cpus=2), spec(cpus=0.5)], node(4, memory=8 * GIB), Config())
    assert (two.demand.memory, half.demand.memory) == (4 * GIB, GIB)
    assert two.bounds.memory == two.demand.memory


def test_configured_defaults_fill_what_a_job_leaves_open() -> None:
    config = Config(
        defaults=Defaults(memory=GIB, pids=7, scratch=8, time_limit=9.0, grace_time=3.0), node=Node(strict=True)
    )
    [entry] = admit([spec()], node(), config)
    bounds = entry.bounds
    assert (bounds.memory, bounds.pids, bounds.scratch, bounds.time_limit) == (GIB, 7, 8, 9.0)
    assert (bounds.grace_time, bounds.strict) == (3.0, True)


@pytest.mark.parametrize(("cpus", "shares"), [(1.0, 1024), (2.0, 2048), (0.5, 512), (0.0001, 2)])
def test_cpu_shares_follow_the_cpus(cpus: float, shares: int) -> None:
    [entry] = admit([spec(cpus=cpus)], node(), Config())
    assert entry.bounds.cpu_shares == shares


def test_cpus_default_to_the_size_of_the_cpuset() -> None:
    [entry] = admit([spec(cpuset=(1, 2))], node(), Config())
    assert (entry.demand.whole, entry.demand.cpuset) == (2, (1, 2))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (spec(cpus=8), "job: cpus = 8: this node has 4 - ask for at most 4"),
        (spec(memory=16 * GIB), "job: memory = 16GiB: this node has 8GiB - ask for at most 8GiB"),
        (spec(network=Network(egress=2_000_000)), "job: egress = 2mbit: this node has 1mbit - ask for at most 1mbit"),
        (spec(named={"gpus": 3}), "job: gpus = 3: this node has 2 - ask for at most 2"),
        (spec(named={"tpus": 1}), "job: tpus: this node has no such resource - batchns.toml names: gpus"),
        (spec(cpuset=(9,)), "job: cpuset: CPU 9 is not handed out on this node - choose from 0, 1, 2, 3"),
        (spec(cpus=1, cpuset=(1, 2)), "job: cpus = 1 and a cpuset of 2 contradict each other"),
        (spec(cpus=1.5), "job: cpus = 1.5: neither whole nor below one - write for example 2 or 0.5"),
        (spec(queue="fast"), "job: queue = 'fast': no such queue - queues here: normal"),
        (spec(after=["afterok:prep"]), "job: dependency on 'prep': no such job - jobs here: job"),
        (spec(after=["afterok:job"]), "job: dependencies go round in a circle: job -> job"),
    ],
)
def test_what_can_never_run_is_refused_with_the_numbers(job: JobSpec, message: str) -> None:
    capacity = node(4, memory=8 * GIB, egress=1_000_000, named={"gpus": 2})
    with pytest.raises(UserError) as caught:
        admit([job], capacity, Config())
    assert message in str(caught.value)


def test_all_refusals_come_at_once_with_their_places() -> None:
    jobs = [spec("a", cpus=9, source="a.toml:1"), spec("b"), spec("c", cpus=7, source="c.toml:4")]
    with pytest.raises(UserError) as caught:
        admit(jobs, node(2), Config())
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [["a.toml:1", "a"], ["c.toml:4", "c"]]


def test_a_circle_of_dependencies_is_shown() -> None:
    jobs = [spec("a", after=["afterok:b"]), spec("b", after=["afterany:c"]), spec("c", after=["after:a"])]
    with pytest.raises(UserError, match="a -> b -> c -> a"):
        admit(jobs, node(), Config())


def test_a_long_chain_is_no_circle_and_no_recursion() -> None:
    jobs = [spec("0"), *(spec(str(n), after=[f"afterok:{n - 1}"]) for n in range(1, 5000))]
    assert len(admit(jobs, node(), Config())) == 5000


def test_an_unmetered_rate_is_limited_but_not_counted() -> None:
    [entry] = admit([spec(network=Network(egress=5))], node(), Config())
    assert (entry.demand.egress, entry.bounds.egress) == (0, 5)


def test_arrays_take_one_id_and_a_suffix_per_task() -> None:
    config = Config(queues={"normal": Queue(), "urgent": Queue(priority=90)})
    admitted = admit([spec("a"), spec("b", tasks=3), spec("c", queue="urgent")], node(), config)
    jobs = expand(admitted, 7, config, 5.0)
    assert [job.id for job in jobs] == ["7", "8_0", "8_1", "8_2", "9"]
    assert min(jobs, key=lambda job: job.order).id == "9"
    assert {job.ledger.since for job in jobs} == {5.0}
