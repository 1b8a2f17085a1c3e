"""`batchns run --metrics`: what a run tells Prometheus while it lasts, on any cgroup version."""

from __future__ import annotations

import http.client
import re
import socket
import time

import pytest

from ..metrics.served import Served, ask, complaints
from .conftest import batchns, start, until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

JOB = "held = bytearray(b'x' * (30 << 20))\nimport time\nend = time.process_time() + {spin}\n"
JOB += "while time.process_time() < end: pass\nopen('spun', 'w').close()\ntime.sleep(60)"


def test_a_run_serves_what_its_jobs_use_and_stops_with_them(folder):
    process = start("run", "--metrics", "127.0.0.1:0", "--", "python3", "-c", JOB.format(spin=1.0), cwd=folder)
    found = re.search(r"metrics at 127\.0\.0\.1:(\d+)", process.stderr.readline())
    assert found is not None
    port = int(found[1])

    def scraped() -> Served:
        status, served = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=20))
        assert status == 200 and complaints(served) == []
        return served

    until((folder / "spun").exists, 30)
    time.sleep(0.6)
    served = scraped()
    (job,) = [sample.labels["job_id"] for sample in served.samples() if sample.name == "batchns_job_info"]
    cpu = sum(served.values("batchns_job_cpu_seconds_total", job_id=job))
    assert 1.0 <= cpu < 3.0
    assert served.value("batchns_user_cpu_seconds_total", user="root", queue="normal") == pytest.approx(cpu)
    assert 30 << 20 <= served.value("batchns_job_memory_working_set_bytes", job_id=job) < 80 << 20
    assert served.value("batchns_job_memory_peak_bytes", job_id=job) >= 30 << 20
    assert served.value("batchns_job_tasks", job_id=job) >= 2
    assert served.value("batchns_job_oom_kills_total", job_id=job) == 0
    assert abs(served.value("batchns_job_start_time_seconds", job_id=job) - time.time()) < 30
    process.terminate()
    assert process.wait(20) != 0
    with pytest.raises(OSError):
        scraped()


@pytest.mark.parametrize("where", ["9754", "127.0.0.1:99999", "here:x", ":1"])
def test_what_is_no_address_is_refused_with_an_example(folder, where):
    ran = batchns("run", "--metrics", where, "--", "true", cwd=folder)
    assert ran.code in (2, 125) and "127.0.0.1:9754" in ran.stderr and "Traceback" not in ran.stderr


def test_a_port_that_is_taken_starts_nothing(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = batchns("run", "--metrics", where, "--", "touch", "ran", cwd=folder)
    assert ran.code == 125 and "metrics cannot be served at" in ran.stderr and "Traceback" not in ran.stderr
    assert not (folder / "ran").exists()
