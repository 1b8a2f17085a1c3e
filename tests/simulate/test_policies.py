"""The named policies do what the literature says: start by start against a textbook simulator, and on real traces.

The traces are looked for in the folder that BATCHNS_TRACES names, else beside the project; where there are none, the
generated ones alone are compared.
"""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from batchns.errors import UserError
from batchns.model.config import Backfill, Order, Preemption
from batchns.simulate.engine import Outcome, simulate
from batchns.simulate.policies import POLICIES, named
from batchns.simulate.statistics import Statistics, summarise
from batchns.simulate.swf import read_swf

from . import generate, reference

TRACES = Path(os.environ.get("BATCHNS_TRACES") or Path(__file__).parents[3] / "shared" / "traces")
THERE = [name for name in ("lublin_256.swf", "hpc2n.swf") if (TRACES / name).is_file()]

# Mean wait in seconds, mean bounded slowdown, utilization: two independent simulators agree on every start of
# lublin_256. (trace, policy): (figures, relative error that is allowed)
KNOWN = {
    ("lublin_256.swf", "fcfs"): ((2_388_444, 66_502, 0.655), 0.001),
    ("lublin_256.swf", "easy"): ((97_156, 590.1, 0.936), 0.001),
    ("lublin_256.swf", "easy-sjbf"): ((73_394, 219.6, 0.898), 0.001),
    ("hpc2n.swf", "fcfs"): ((5_614, 47.3, 0.395), 0.02),
    ("hpc2n.swf", "easy"): ((3_534, 16.46, 0.397), 0.02),
    ("hpc2n.swf", "easy-sjbf"): ((3_179, 14.69, 0.397), 0.02),
}

# Mean bounded slowdown that the preemptive policy stays below. Freely migrating, 2.22 and 6.34 are known.
PREEMPTIVE = {"lublin_256.swf": 2.5, "hpc2n.swf": 4.0}


def simulated(lines: list[str], policy: str, **more: object) -> Outcome:
    config = named(policy)
    assert config is not None
    return simulate(read_swf(lines, "generated"), config, **more)


def generated(seed: int, count: int, load: float = 1.0) -> tuple[list[reference.Asked], list[str]]:
    made = generate.jobs(seed, count, load=load)
    return made, generate.swf(made).splitlines(keepends=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("policy", "count"), [("fcfs", 800), ("easy", 800), ("easy-sjbf", 800), ("conservative", 120)])
def test_every_job_starts_when_the_textbook_says(policy, count, seed):
    jobs, lines = generated(seed, count, load=(0.7, 1.0, 1.5)[seed % 3])
    found = simulated(lines, policy)
    assert list(found.started) == reference.simulate(jobs, generate.CPUS, policy)


def check_laws(found: Outcome) -> None:
    """No CPU is held twice, each job has what it asked for, and its time, after it was submitted."""
    work = found.workload
    held: dict[int, list[tuple[float, float]]] = defaultdict(list)
    ran: dict[int, float] = defaultdict(float)
    for part in found.segments:
        assert len(part.cpus) == work.demand[part.number].whole
        assert part.begin >= work.submitted[part.number]
        ran[part.number] += part.end - part.begin
        for cpu in part.cpus:
            held[cpu].append((part.begin, part.end))
    for spans in held.values():
        spans.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
    for number in range(len(work)):
        expected = min(work.running[number], work.limit[number] or work.running[number])
        assert ran[number] == pytest.approx(expected)
        total = found.ended[number] - found.started[number]
        assert total == pytest.approx(expected + found.frozen[number])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_breaks_a_law(policy, seed):
    _, lines = generated(seed, 400)
    check_laws(simulated(lines, policy, with_segments=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_asking_again_after_launches_finds_nothing(policy):
    """What starts, starts in one answer: the engine relies on it."""
    _, lines = generated(7, 400)
    once, again = simulated(lines, policy), simulated(lines, policy, thorough=True)
    assert (once.started, once.ended) == (again.started, again.ended)


@pytest.mark.parametrize("seed", range(3))
def test_preemption_helps_short_jobs_and_keeps_its_bound(seed):
    _, lines = generated(seed, 600)
    easy, preemptive = simulated(lines, "easy"), simulated(lines, "preemptive")
    assert summarise(preemptive).bounded_slowdown_mean < summarise(easy).bounded_slowdown_mean
    assert preemptive.preemptions > 0
    assert max(preemptive.frozen) <= POLICIES["preemptive"].max_frozen + 1e-6  # sums of fractions


def test_the_names_are_the_settings_that_are_documented():
    fcfs, easy, sjbf, all_reserved, preemptive = POLICIES.values()
    assert {settings.order for settings in (fcfs, easy, sjbf, all_reserved)} == {Order.SUBMITTED}
    assert {settings.preempt for settings in (fcfs, easy, sjbf, all_reserved)} == {Preemption.OFF}
    assert fcfs.backfill is Backfill.OFF
    assert (easy.backfill, easy.reservations) == (Backfill.SUBMITTED, 1)
    assert (sjbf.backfill, sjbf.reservations) == (Backfill.SHORTEST, 1)
    assert all_reserved.reservations is None
    assert (preemptive.order, preemptive.preempt, preemptive.max_frozen) == (
        Order.SHORTEST,
        Preemption.SHORTER,
        3 * 86400,
    )


def test_there_is_no_policy_of_another_name():
    assert named("magic") is None


def test_named_policies_know_no_users():
    """Figures of the literature know no fair share."""
    assert not any(named(name).fair_share.enabled for name in POLICIES)


if THERE:  # real traces are not part of the project

    def real(name: str, policy: str) -> tuple[Outcome, Statistics]:
        with (TRACES / name).open() as lines:
            found = simulated(list(lines), policy)
        return found, summarise(found)

    @pytest.mark.parametrize(("name", "policy"), [key for key in KNOWN if key[0] in THERE])
    def test_figures_of_real_traces(name, policy):
        figures, error = KNOWN[name, policy]
        _, found = real(name, policy)
        assert (found.wait_mean, found.bounded_slowdown_mean, found.utilization) == pytest.approx(figures, rel=error)

    @pytest.mark.parametrize("name", THERE)
    def test_real_traces_are_read_by_the_conventions(name):
        """The textbook simulator, on what the reader makes of the trace, comes to the same figures."""
        with (TRACES / name).open() as lines:
            work = read_swf(lines, name)
        jobs = [
            reference.Asked(submit, min(run, limit), demand.whole, limit)
            for submit, run, limit, demand in zip(work.submitted, work.running, work.limit, work.demand, strict=True)
        ]
        starts = reference.simulate(jobs, work.cpus, "easy")
        figures, error = KNOWN[name, "easy"]
        assert reference.statistics(jobs, work.cpus, starts) == pytest.approx(figures, rel=error)

    @pytest.mark.parametrize("name", THERE)
    @pytest.mark.parametrize("policy", ["fcfs", "easy", "easy-sjbf"])
    def test_every_start_of_a_real_trace(name, policy):
        found, _ = real(name, policy)
        work = found.workload
        jobs = [
            reference.Asked(submit, min(run, limit), demand.whole, limit)
            for submit, run, limit, demand in zip(work.submitted, work.running, work.limit, work.demand, strict=True)
        ]
        assert list(found.started) == reference.simulate(jobs, work.cpus, policy)

    @pytest.mark.parametrize("name", THERE)
    def test_preemption_on_a_real_trace(name):
        """Better than EASY by far, in hardly more time, with few freezes; nobody is frozen longer than it says."""
        found, figures = real(name, "preemptive")
        wait, slowdown, _ = KNOWN[name, "easy"][0]
        assert figures.wait_mean < wait
        assert figures.bounded_slowdown_mean < min(slowdown, PREEMPTIVE[name])
        assert found.preemptions <= len(found.workload)
        assert max(found.ended) <= 1.06 * max(real(name, "easy")[0].ended)
        assert max(found.frozen) <= POLICIES["preemptive"].max_frozen + 1e-6  # sums of fractions


@pytest.mark.parametrize("text", ["", "; MaxProcs: 4\n"])
def test_a_trace_without_jobs_is_refused(text):
    with pytest.raises(UserError):
        read_swf(text.splitlines(keepends=True), "empty", 4)
