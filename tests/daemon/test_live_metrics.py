"""Metrics of a real daemon with real jobs: effects are measured, and found in what is served."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchns.metrics.contract import METRICS

from ..metrics.served import OPENMETRICS, Served, Unix, ask, complaints
from ..system.conftest import until
from .live import Live, children, live, ticks

pytestmark = pytest.mark.kernel

SETTINGS = """
[node]
memory = "1GiB"
egress = "100mbit"
ingress = "100mbit"
[queues.urgent]
priority = 90
preempts = ["normal"]
[queues.wide]
[metrics]
listen = "127.0.0.1:{port}"
linger = "30s"
"""
SPIN = ("sh", "-c", "while :; do :; done")
HOLD = "import time; held = bytearray(b'x' * (40 << 20)); print('held', flush=True); time.sleep(600)"
EATS = "held = []\nwhile True: held.append(bytearray(b'x' * (1 << 20)))"
# What the host cannot tell is not there: its own test says so (`test_what_the_host_cannot_tell_is_absent`).
MAY_LACK = re.compile("batchns_(job_)?pressure_seconds_total|batchns_job_io_|batchns_api_request_seconds")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def machine(_alone: None, port: int) -> Iterator[Live]:
    with live(SETTINGS.format(port=port)) as made:
        yield made


@pytest.fixture
def daemon(machine: Live) -> Iterator[Live]:
    yield machine
    machine.clear()


def scraped(port: int, accept: str = "") -> Served:
    time.sleep(0.55)  # a younger text is given again
    status, served = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=20), accept=accept)
    assert status == 200
    return served


def test_all_of_the_contract_is_served_and_nothing_else(daemon: Live, port: int) -> None:
    folder = daemon.folder()
    daemon.over(daemon.submit("--", "true", cwd=folder))
    job = daemon.submit("--ingress", "10mbit", "--egress", "10mbit", "--", "sleep", "600", cwd=folder)
    daemon.until(job, "RUNNING")
    for accept in ("", OPENMETRICS):
        served = scraped(port, accept)
        assert complaints(served) == []
        there = {sample.name for sample in served.samples()}
        missing = {name for one in METRICS.values() for name in one.series} - there
        assert {name for name in missing if not MAY_LACK.match(name)} == set()
    assert served.kind.startswith("application/openmetrics-text") and served.text.endswith("# EOF\n")


def test_a_spinning_job_uses_the_cpu_that_it_has_and_a_frozen_one_none(daemon: Live, port: int) -> None:
    job = daemon.submit("--name", "spins", "--cpus", "1", "--", *SPIN)
    daemon.until(job, "RUNNING")
    (spins,) = children(daemon.pid(job))
    first, before = scraped(port), ticks(spins)
    time.sleep(1.5)
    second, passed = scraped(port), (ticks(spins) - before) / os.sysconf("SC_CLK_TCK")  # as the kernel counts it

    def used(served: Served) -> float:
        return sum(served.values("batchns_job_cpu_seconds_total", job_id=job))

    mine = first.values("batchns_user_cpu_seconds_total", user="root", queue="normal")
    assert used(second) - used(first) == pytest.approx(passed, abs=0.2) and passed > 0.1
    assert second.value("batchns_user_cpu_seconds_total", user="root", queue="normal") - mine[0] > passed - 0.2
    assert second.value("batchns_job_info", job_id=job, name="spins", user="root", queue="normal") == 1
    assert second.value("batchns_allocated_cpus") == pytest.approx(1.0)
    freezes = second.value("batchns_freezes_total", queue="normal", reason="owner")
    assert daemon("freeze", job).code == 0
    daemon.until(job, "SUSPENDED")
    third = scraped(port)
    time.sleep(1.0)
    fourth = scraped(port)
    assert used(fourth) == used(third)
    assert fourth.value("batchns_job_frozen", job_id=job) == 1
    stood = fourth.value("batchns_job_frozen_seconds_total", job_id=job) - third.value(
        "batchns_job_frozen_seconds_total", job_id=job
    )
    assert 0.9 < stood < 4
    assert fourth.value("batchns_freezes_total", queue="normal", reason="owner") == freezes + 1
    assert fourth.value("batchns_jobs", queue="normal", state="SUSPENDED") == 1
    assert fourth.value("batchns_freeze_duration_seconds_count", action="freeze") >= 1


def test_memory_is_what_the_job_holds_and_a_job_that_asks_for_too_much_is_killed_once(daemon: Live, port: int) -> None:
    holds = daemon.submit("--memory", "100MiB", "--", "python3", "-c", HOLD)
    until(lambda: "held" in daemon.output(holds))
    served = scraped(port)
    assert 40 << 20 <= served.value("batchns_job_memory_working_set_bytes", job_id=holds) < 70 << 20
    assert served.value("batchns_job_memory_usage_bytes", job_id=holds) < 100 << 20
    assert served.value("batchns_job_memory_limit_bytes", job_id=holds) == 100 << 20
    assert served.value("batchns_job_tasks", job_id=holds) >= 2
    eats = daemon.submit("--memory", "30MiB", "--", "python3", "-c", EATS)
    assert daemon.over(eats).state == "OUT_OF_MEMORY"
    after = scraped(port)
    assert after.value("batchns_job_oom_kills_total", job_id=eats) >= 1
    assert after.value("batchns_job_memory_peak_bytes", job_id=eats) > 25 << 20
    assert after.value("batchns_jobs_finished_total", queue="normal", outcome="OUT_OF_MEMORY") == 1


def test_what_goes_through_its_link_is_counted_as_the_job_sees_it(daemon: Live, port: int) -> None:
    """Ten times a datagram to nobody; its sockets, not the wire, are the job's own."""
    send = "import socket, time\ns = socket.socket(type=socket.SOCK_DGRAM)\n"
    send += "for _ in range(100): s.sendto(bytes(1000), ('192.0.2.1', 9))\nprint('sent', flush=True); time.sleep(600)"
    job = daemon.submit("--egress", "50mbit", "--ingress", "20mbit", "--", "python3", "-c", send)
    until(lambda: "sent" in daemon.output(job))
    served = scraped(port)
    assert 100_000 < served.value("batchns_job_network_bytes_total", job_id=job, direction="egress") < 130_000
    assert served.value("batchns_job_network_bytes_total", job_id=job, direction="ingress") < 20_000
    assert served.value("batchns_job_network_limit_bytes_per_second", job_id=job, direction="egress") == 50e6 / 8
    assert served.value("batchns_allocated_network_bytes_per_second", direction="ingress") == 20e6 / 8


FLOOD = """
import socket, time
senders = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(16)]  # one alone waits for its own buffer
for _ in range(60):
    for sender in senders:
        sender.sendto(bytes(1000), ("192.0.2.1", 9))
print("sent", flush=True)
time.sleep(600)
"""


def test_what_a_job_sends_too_fast_is_dropped_by_its_own_shaper_and_counted(daemon: Live, port: int) -> None:
    slow = daemon.submit("--egress", "8mbit", "--ingress", "8mbit", "--", "python3", "-c", FLOOD)
    fast = daemon.submit("--egress", "80mbit", "--ingress", "8mbit", "--", "sleep", "600")
    until(lambda: "sent" in daemon.output(slow))
    daemon.until(fast, "RUNNING")
    served = scraped(port)
    lost = served.value("batchns_job_network_drops_total", job_id=slow, direction="egress")
    passed = served.value("batchns_job_network_bytes_total", job_id=slow, direction="egress") / 1042
    assert 100 < lost < 960 and lost + passed == pytest.approx(960, abs=150)  # what neither passed nor waits was lost
    assert served.value("batchns_job_network_drops_total", job_id=slow, direction="ingress") == 0
    assert served.value("batchns_job_network_drops_total", job_id=fast, direction="egress") == 0
    again = scraped(port)  # nothing was sent meanwhile: what was counted stands
    assert again.value("batchns_job_network_drops_total", job_id=slow, direction="egress") >= lost
    assert again.value("batchns_collect_errors_total", source="shaper") == 0
    assert daemon.pid(slow) in held(daemon)
    assert daemon("cancel", slow).code == 0
    daemon.until(slow, "CANCELLED")
    scraped(port)
    assert -1 not in held(daemon)  # of a process that is gone


def held(daemon: Live) -> list[int]:
    """The processes that the daemon has a pidfd of, as the kernel tells."""
    found = []
    for info in Path(f"/proc/{daemon.daemon.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += [int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("Pid:")]
    return found


def test_a_job_shorter_than_any_interval_is_counted(daemon: Live, port: int) -> None:
    before = scraped(port)
    job = daemon.submit("--name", "short", "--", "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    daemon.over(job)
    after = scraped(port)
    name = "batchns_user_cpu_seconds_total"
    own = sum(after.values("batchns_job_cpu_seconds_total", job_id=job))
    assert own > 0.01
    total = after.value(name, user="root", queue="normal") - before.value(name, user="root", queue="normal")
    assert total == pytest.approx(own, rel=0.05)
    finished = "batchns_jobs_finished_total"
    assert after.value(finished, queue="normal", outcome="COMPLETED") == 1 + before.value(
        finished, queue="normal", outcome="COMPLETED"
    )


def test_preemption_shows_who_made_room(daemon: Live, port: int) -> None:
    name = "batchns_preemptions_total"
    before = scraped(port).value(name, queue="normal", mode="suspend")
    cpus = str(len(os.sched_getaffinity(0)))
    victim = daemon.submit("--cpus", cpus, "--time-limit", "1h", "--", "sleep", "600")
    daemon.until(victim, "RUNNING")
    urgent = daemon.submit("--cpus", cpus, "--time-limit", "1m", "--queue", "urgent", "--", "sleep", "20")
    daemon.until(urgent, "RUNNING")
    served = scraped(port)
    assert served.value(name, queue="normal", mode="suspend") == before + 1
    assert served.value("batchns_freezes_total", queue="normal", reason="preempted") >= 1
    assert served.value("batchns_jobs", queue="urgent", state="RUNNING") == 1


def test_after_a_restart_what_runs_is_counted_from_then_on(daemon: Live, port: int) -> None:
    """A total that began with what was told before would be a second use of it to `increase`."""
    job = daemon.submit("--cpus", "1", "--", *SPIN)
    daemon.until(job, "RUNNING")
    until(lambda: sum(scraped(port).values("batchns_job_cpu_seconds_total", job_id=job)) > 2.0)
    before = sum(scraped(port).values("batchns_job_cpu_seconds_total", job_id=job))
    daemon.restart()
    after = scraped(port)
    assert sum(after.values("batchns_job_cpu_seconds_total", job_id=job)) > before
    assert after.value("batchns_user_cpu_seconds_total", user="root", queue="normal") == 0
    had = after.value("batchns_user_allocated_cpu_seconds_total", user="root", queue="normal")
    assert had < 2.0, "what it had before is told"
    time.sleep(1.0)
    later = scraped(port)
    used = sum(later.values("batchns_job_cpu_seconds_total", job_id=job)) - sum(
        after.values("batchns_job_cpu_seconds_total", job_id=job)
    )
    assert later.value("batchns_user_cpu_seconds_total", user="root", queue="normal") == pytest.approx(used)
    assert after.value("batchns_jobs_finished_total", queue="normal", outcome="COMPLETED") == 0, "none is told twice"


def test_the_socket_tells_administrators_only(daemon: Live) -> None:
    status, served = ask(Unix(daemon.socket))
    assert status == 200 and complaints(served) == []
    assert ask(Unix(daemon.socket), "/healthz")[1].text == "ok\n"


def test_ready_is_who_takes_and_starts_jobs(daemon: Live, port: int) -> None:
    def ready() -> tuple[int, str]:
        status, served = ask(http.client.HTTPConnection("127.0.0.1", port), "/readyz")
        return status, served.text

    assert ready() == (200, "ok\n")
    assert daemon("drain", "disk swap").code == 0
    assert ready() == (503, "drained: disk swap\n")
    assert daemon("resume").code == 0
    assert ready() == (200, "ok\n")
    assert ask(http.client.HTTPConnection("127.0.0.1", port), "/v1/jobs")[0] == 404


def test_a_reload_moves_the_listener_and_one_that_cannot_be_had_is_told(daemon: Live, port: int) -> None:
    other, before = free_port(), daemon.settings
    assert daemon.daemon is not None

    def answers(at: int) -> bool:
        try:
            return ask(http.client.HTTPConnection("127.0.0.1", at), "/healthz")[0] == 200
        except OSError:
            return False

    try:
        daemon.configure(before.replace(f":{port}", f":{other}"))
        daemon.daemon.send_signal(signal.SIGHUP)
        until(lambda: answers(other))
        assert not answers(port)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            daemon.configure(before.replace(f":{port}", f":{taken.getsockname()[1]}"))
            daemon.daemon.send_signal(signal.SIGHUP)
            until(lambda: "metrics cannot be served at" in daemon.said)
        until(lambda: answers(other), 2.0)  # where it was served before: nothing has changed
        assert daemon.state(daemon.submit("--hold", "--", "true")) == "PENDING"
    finally:
        daemon.configure(before)
        daemon.daemon.send_signal(signal.SIGHUP)
    until(lambda: answers(port))


def test_what_the_host_cannot_tell_is_absent(daemon: Live, port: int) -> None:
    job = daemon.submit("--", "sleep", "600")
    daemon.until(job, "RUNNING")
    served = scraped(port)
    told = bool(served.values("batchns_pressure_seconds_total", resource="memory", kind="some"))
    assert told == Path("/proc/pressure/memory").exists()
    zeros = [value for value in served.values("batchns_job_pressure_seconds_total", job_id=job) if value < 0]
    assert zeros == []
