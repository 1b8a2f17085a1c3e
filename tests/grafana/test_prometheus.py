"""A daemon, its jobs and a Prometheus, all of them real: every panel, variable and rule has something to show, and it
is as large as what the jobs did.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from grafana.source.asking import Answer, Prometheus, filled, parts_of, queries, variables

from ..daemon.live import Live, children, live, ticks
from ..people import users, way_for_all
from ..system.conftest import until
from .known import ALERTS, BOARDS, RECORDED, RULES
from .promql import read
from .scene import HELD, PREEMPTED, RATE, Scene, settings
from .server import free_port, prometheus

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"),
]

FROZEN = 8.0  # seconds for which the urgent job runs
MIB = 1 << 20
# What may show nothing on this host, and why. Everything else has to have data.
MAY_BE_EMPTY: dict[str, str] = {}
if not Path("/proc/pressure/cpu").exists():
    MAY_BE_EMPTY["node: Pressure"] = "a kernel without pressure stall information"
if "node: Pressure" in MAY_BE_EMPTY or not Path("/sys/fs/cgroup/cgroup.controllers").exists():
    MAY_BE_EMPTY["job: Pressure"] = "cgroup v1 tells no pressure of a job"
if not any(Path("/sys/block").iterdir()):
    MAY_BE_EMPTY |= dict.fromkeys(("job: Disk", "job: Disk requests"), "a host without a block device")


@frozen
class Seen:
    """After the scene. `midway`: seconds since the epoch, while the job that was preempted stood still."""

    daemon: Live
    server: Prometheus
    scene: Scene
    at: str
    midway: float

    def values(self, job_id: str = "") -> dict[str, str]:
        return {
            "job": "batchns",
            "instance": self.at,
            "queue": ".*",
            "user": ".*",
            "job_id": job_id,
            "window": "30s",
            "__rate_interval": "5s",
        }

    def answers(self, expr: str, job_id: str = "") -> list[Answer]:
        """Over the time of the scene."""
        return self.server.over(filled(expr, self.values(job_id)), self.scene.begun, time.time(), 1)

    def asked(self, target: Mapping[str, Any], job_id: str = "") -> list[Answer]:
        """What Grafana would get."""
        return self.server.asked(target, self.values(job_id), self.scene.begun, time.time(), 1)

    def panel(self, where: str, name: str = "") -> dict[str, list[tuple[float, float]]]:
        """Of a panel ("node: CPUs") what it shows, for the job `name`: points, by their names in the legend, or by the
        query's letter where there is none.
        """
        board, _, title = where.partition(": ")
        shown: dict[str, list[tuple[float, float]]] = {}
        for found, target in queries(BOARDS[board]):
            if found == title:
                for answer in self.asked(target, self.scene.ids.get(name, "")):
                    called = target.get("legendFormat", "")
                    for label, value in answer.labels.items():
                        called = called.replace(f"{{{{{label}}}}}", value)
                    shown[called or target["refId"]] = [point for point in answer.points if math.isfinite(point[1])]
        assert shown, f"{where} has nothing"
        return shown

    def number(self, where: str, called: str = "A", name: str = "") -> float:
        """What it shows last."""
        return self.panel(where, name)[called][-1][1]

    def highest(self, where: str, called: str, name: str = "") -> float:
        return max(value for _, value in self.panel(where, name)[called])

    def rule(self, record: str, labels: str = "") -> list[float]:
        return [value for answer in self.answers(f"{record}{{{labels}}}") for _, value in answer.points]

    def most(self, expr: str) -> float:
        return max(value for answer in self.answers(expr) for _, value in answer.points)

    def now(self, expr: str, **when: float) -> float:
        (answer,) = self.server.at(filled(expr, self.values()), **when)
        return answer.value

    def of_job(self, metric: str, name: str, more: str = "") -> str:
        return f'{metric}{{job_id="{self.scene.ids[name]}"{more}}}'


def has_data(answers: Sequence[Answer]) -> bool:
    return any(math.isfinite(value) for answer in answers for _, value in answer.points)


@pytest.fixture(scope="module")
def seen(_alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    at, folder = f"127.0.0.1:{free_port()}", tmp_path_factory.mktemp("prometheus")
    moments: list[float] = []
    with (
        way_for_all(),
        users(ada=31001, bob=31002),
        live(settings(at)) as daemon,
        prometheus(folder, at) as server,
    ):
        scene = Scene(daemon)
        until(lambda: server.at("increase(batchns_jobs_finished_total[1m])"), 30)  # a change is seen from here on

        def midway() -> None:
            time.sleep(3)
            moments.append(time.time())

        scene.play(frozen=FROZEN, until=midway)
        time.sleep(4)  # seen by a scrape, and by a rule after it
        yield Seen(daemon, server, scene, at, moments[0])


def without_data(seen: Seen, boards: Mapping[str, dict[str, Any]]) -> list[str]:
    """Panels of which a query has none, and that have no reason for it."""
    empty = []
    for name, board in boards.items():
        jobs = seen.scene.ids.values() if "job_id" in variables(board) else ("",)
        for title, target in queries(board):
            if not any(has_data(seen.asked(target, job)) for job in jobs):
                empty.append(f"{name}: {title}")
    return [where for where in empty if where not in MAY_BE_EMPTY]


def test_every_query_of_every_panel_has_data(seen: Seen) -> None:
    """A job has what it does: of the job's dashboard, each query has data for some job."""
    assert without_data(seen, BOARDS) == []


def test_a_misspelt_metric_is_noticed(seen: Seen) -> None:
    users = json.loads(json.dumps(BOARDS["users"]).replace("batchns_jobs{", "batchns_jobz{"))
    assert without_data(seen, {"users": users}) == ["users: Running", "users: Waiting"]


def test_every_variable_offers_what_there_is(seen: Seen) -> None:
    ids = {*seen.scene.ids.values()} - {seen.scene.ids["big"]}  # it waits: it has no series
    wanted = {"job": ["batchns"], "instance": [seen.at], "queue": ["normal", "urgent"], "user": ["ada", "bob"]}
    for board in BOARDS.values():
        for name, query in variables(board).items():
            offered = seen.server.choices(filled(query, seen.values()))
            if name == "job_id":
                assert {*offered} >= ids
            else:
                assert offered == wanted[name], name
    with pytest.raises(ValueError, match="label_values"):
        parts_of("label_value(x, y)")


def test_every_rule_is_evaluated_and_reads_what_there_is(seen: Seen) -> None:
    groups = seen.server.get("rules")["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert {*rules} == {*ALERTS, *RECORDED}
    assert {name: rule["lastError"] for name, rule in rules.items() if rule["health"] != "ok"} == {}
    reads = {selector for rule in RULES for selector in read(rule["expr"]).selectors}
    for selector in reads:
        matchers = ",".join(f'{label}{sign}"{value}"' for label, sign, value in selector.matchers)
        if not has_data(seen.answers(f"{selector.metric}{{{matchers}}}")):
            assert selector.metric in MAY_BE_EMPTY, selector
    assert [name for name in RECORDED if name not in MAY_BE_EMPTY and not has_data(seen.answers(name))] == []


class TestAsLargeAsWhatTheJobsDid:
    def test_a_spinning_job_uses_a_cpu(self, seen: Seen) -> None:
        """As much of one as the machine's others leave it: as the kernel counts for its processes."""
        counted, init = seen.of_job("batchns_job_cpu_seconds_total", "spin"), seen.daemon.pid(seen.scene.ids["spin"])
        processes = sum(map(ticks, (init, *children(init)))) / os.sysconf("SC_CLK_TCK")
        assert seen.now(f"sum({counted})") == pytest.approx(processes, rel=0.2, abs=0.5)
        most = seen.most(f"sum(rate({counted}[5s]))")
        assert 0.5 * processes / (time.time() - seen.scene.begun) < most < 1.2
        assert seen.now(seen.of_job("batchns_job_cpus", "spin")) == 0.4
        assert seen.highest("job: CPU", "user", "spin") + seen.highest("job: CPU", "system", "spin") >= most * 0.9
        assert seen.highest("job: CPU", "asked", "spin") == 0.4

    def test_the_nodes_cpus_are_used_by_all_jobs(self, seen: Seen) -> None:
        assert seen.number("node: CPUs", "capacity") == 2
        live = seen.most("sum(rate(batchns_job_cpu_seconds_total[5s]))")  # as much as the machine's others leave
        assert 0.8 * live < seen.highest("node: CPUs", "used") < 2.5
        assert 0.8 * seen.most(f"sum(rate({seen.of_job('batchns_job_cpu_seconds_total', 'spin')}[5s]))") < seen.highest(
            "users: CPUs used", "ada"
        )
        assert max(seen.rule("instance:batchns_allocated_cpus:ratio")) <= 1
        assert seen.number("node: CPUs handed out") == pytest.approx(seen.number("node: CPUs", "handed out") / 2)
        assert seen.rule("instance:batchns_allocated_cpus:ratio")[-1] == seen.number("node: CPUs handed out")
        assert 0 < seen.number("users: CPU efficiency", "bob") < 2
        assert all(0 < one < 3 for one in seen.rule("instance_user:batchns_cpu_efficiency:ratio_1h"))

    def test_memory_is_what_is_held(self, seen: Seen) -> None:
        for metric in ("usage", "working_set", "peak"):
            assert HELD < seen.now(seen.of_job(f"batchns_job_memory_{metric}_bytes", "hold")) < HELD + 30 * MIB
        assert seen.now(seen.of_job("batchns_job_memory_limit_bytes", "hold")) == 160 * MIB
        assert HELD < seen.number("job: Memory", "working set", "hold") < HELD + 30 * MIB
        assert HELD / (160 * MIB) < seen.number("job: Memory used", name="hold") < 1
        assert seen.number("node: Memory", "capacity") == 1 << 30
        assert seen.number("node: Memory", "used") > HELD
        assert seen.number("node: Memory handed out") == seen.rule("instance:batchns_allocated_memory:ratio")[-1]

    def test_a_transfer_goes_through_the_jobs_link_at_its_rate(self, seen: Seen) -> None:
        sent = seen.of_job("batchns_job_network_bytes_total", "send", ',direction="egress"')
        assert 0.4 * RATE < seen.most(f"rate({sent}[5s])") < 1.2 * RATE
        assert 0.4 * RATE < seen.highest("job: Network", "egress", "send") < 1.2 * RATE
        assert seen.now(sent) > PREEMPTED / 2 * 0.4 * RATE
        limit = seen.of_job("batchns_job_network_limit_bytes_per_second", "send", ',direction="egress"')
        assert seen.now(limit) == pytest.approx(RATE, rel=0.1)  # of frames, not of what is in them
        assert seen.now('batchns_allocated_network_bytes_per_second{direction="egress"}') == pytest.approx(RATE)
        assert seen.now('batchns_capacity_network_bytes_per_second{direction="ingress"}') == 1e9 / 8

    def test_who_was_preempted_stood_still_and_says_for_how_long(self, seen: Seen) -> None:
        name = "victim"
        assert seen.now(seen.of_job("batchns_job_frozen", name), time=seen.midway) == 1
        assert seen.now(seen.of_job("batchns_job_frozen", name)) == 0
        used = f"sum(increase({seen.of_job('batchns_job_cpu_seconds_total', name)}[2s]))"
        assert seen.now(used, time=seen.midway) < 0.1
        frozen = seen.now(seen.of_job("batchns_job_frozen_seconds_total", name))
        assert FROZEN - 0.5 < frozen < FROZEN + 15
        assert frozen == pytest.approx(seen.daemon.row(seen.scene.ids[name]).frozen_seconds, abs=0.1)
        assert 40 * MIB < seen.now("batchns_frozen_memory_bytes", time=seen.midway) < 128 * MIB
        # That of the one which its owner froze is kept, too.
        kept = seen.now("batchns_frozen_memory_reserved_bytes", time=seen.midway)
        assert kept == 160 * MIB == seen.highest("node: Memory of frozen jobs", "kept")
        assert seen.highest("node: Memory of frozen jobs", "limit") == 512 * MIB
        assert max(seen.rule("instance:batchns_frozen_memory:ratio")) == kept / (512 * MIB)
        assert FROZEN - 0.5 < seen.number("job: Frozen so far", name=name) < FROZEN + 15
        assert [value for _, value in seen.panel("job: Frozen or running", name)["state"]].count(1) >= FROZEN - 2
        assert 0.5 < seen.highest("node: Preemptions", "suspend") < 1.5
        assert 0.5 < seen.highest("node: Freezes and thaws", "freeze: preempted") < 1.5
        assert seen.highest("node: Freezes and thaws", "failed: freeze") == 0
        assert seen.now('sum(batchns_preemptions_total{mode="suspend",queue="normal"})') == 1
        assert seen.now('sum(batchns_freezes_total{reason="preempted"})') == 1
        assert seen.now('sum(batchns_thaws_total{reason="preempted"})') == 1
        assert seen.now('sum(batchns_freezes_total{reason="owner"})') == 1
        assert seen.now('sum(batchns_jobs{state="SUSPENDED"})') == 1

    def test_what_became_of_jobs(self, seen: Seen) -> None:
        finished = 'sum by (outcome) (batchns_jobs_finished_total{queue="normal"}) > 0'
        outcomes = {one.labels["outcome"]: one.value for one in seen.server.at(finished)}
        assert outcomes == {"COMPLETED": 11, "FAILED": 1, "OUT_OF_MEMORY": 1}
        assert seen.now(seen.of_job("batchns_job_oom_kills_total", "oom")) == 1
        assert seen.now('sum(batchns_jobs_finished_total{queue="urgent"})') == 1
        assert seen.now('batchns_user_jobs_finished_total{user="ada",outcome="OUT_OF_MEMORY"}') == 1
        assert seen.now('batchns_jobs{queue="normal",state="PENDING"}') == 1
        assert seen.now('batchns_jobs_eligible{queue="normal"}') == 1
        assert seen.now("sum(batchns_jobs_startable)") == 0 and seen.number("node: Node") == 1
        assert seen.number("node: Waiting") == seen.number("node: Competing") == 1
        assert seen.number("job: Killed for memory", name="oom") >= 1
        assert 8 < seen.highest("node: Submitted, started, finished", "finished") < 30
        assert 8 < seen.highest("users: By outcome", "COMPLETED") < 25
        assert max(seen.rule("instance_queue:batchns_jobs_finished:increase_1h", 'queue="normal"')) > 8
        assert max(seen.rule("instance_queue:batchns_jobs_out_of_memory:increase_1h", 'queue="normal"')) > 0.5

    def test_how_long_it_took(self, seen: Seen) -> None:
        assert 0.001 < seen.highest("node: Launch", "p50") < 1
        phases = seen.panel("node: Launch by phase")
        assert len(phases) >= 5
        assert 0.001 < math.fsum(values[-1][1] for values in phases.values() if values) < 1
        # The urgent one had to wait for the freeze alone.
        waits = seen.rule("instance_queue:batchns_job_wait_seconds:p50_1h", 'queue="urgent"')
        waits = [one for one in waits if math.isfinite(one)]
        assert waits and max(waits) < 20
        assert 0 < seen.highest("node: Until the kernel confirms", "freeze") < 1
        assert all(0 <= one < 1 for one in seen.rule("instance:batchns_loop_lag_seconds:rate_5m"))
        assert max(seen.rule("instance:batchns_api_requests:increase_5m")) > 5
        assert max(seen.rule("instance:batchns_api_failures:increase_5m")) == 0

    def test_efficiency_is_what_was_used_of_what_was_had(self, seen: Seen) -> None:
        parts = 'sum by (user) (batchns_user_{}_total{{user="bob"}})'
        had = seen.now(parts.format("allocated_cpu_seconds"))
        assert FROZEN < had < 10 * FROZEN
        assert 0 < seen.now(f"{parts.format('cpu_seconds')} / {parts.format('allocated_cpu_seconds')}") < 2
        assert sum(one.value for one in seen.server.at("batchns_user_usage_ratio")) == pytest.approx(1)

    def test_requests_are_counted_with_those_that_failed(self, seen: Seen) -> None:
        requests = "batchns_api_request_seconds_count"
        assert seen.now(f'{requests}{{route="/v1/jobs/{{id}}",code="404"}}') == 1
        assert seen.now(f'{requests}{{route="/v1/jobs",method="POST",code="201"}}') == 3


class TestTheToolOfPrometheus:
    def check(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)

    def test_has_nothing_to_say_of_the_metrics(self, seen: Seen) -> None:
        with urllib.request.urlopen(f"http://{seen.at}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        done = self.check(text)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert self.check(text.replace("batchns_freezes_total", "batchns_freezes")).returncode != 0


def test_an_alert_is_on_its_way_when_the_daemon_is_down(seen: Seen) -> None:
    """The last one that asks the daemon: there is none afterwards."""
    assert [one.labels["alertname"] for one in seen.server.at('ALERTS{alertstate="firing",severity="critical"}')] == []
    seen.daemon.kill()
    until(lambda: seen.server.at('ALERTS{alertname="BatchnsDown",alertstate="pending"}'), 15)


def test_prometheus_ends_with_whoever_fails_beside_it(_alone: None, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), prometheus(tmp_path, "127.0.0.1:1") as server:
        assert server.at("vector(1)")[0].value == 1
        _ = 1 / 0
    with pytest.raises(OSError, match="refused"):
        server.at("vector(1)")
