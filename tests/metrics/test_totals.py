"""Totals of users over the lives of many jobs: they never go back, and in the end they are the sum of what was used."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from batchns.kernel.cgroups import sample
from batchns.metrics import shapers
from batchns.metrics.exporter import Exporter
from batchns.metrics.meters import Meters
from batchns.metrics.snapshot import JobNow, Snapshot
from batchns.model.config import Config, MetricsSettings
from batchns.model.result import Usage

from .served import Served


class Cgroups:
    """A driver of v2 whose cgroups are plain folders."""

    mode = "v2"

    def __init__(self, root: Path) -> None:
        self.root = root

    def sample_files(self, name: str) -> tuple[str, ...]:
        return (f"{self.root}/{name}/cpu.stat", f"{self.root}/{name}/memory.current")

    def sample(self, paths: Sequence[str], texts: sample.Texts) -> sample.Sample:
        return sample.v2(paths, texts, ())

    def use(self, name: str, usec: int) -> None:
        (self.root / name).mkdir(exist_ok=True)
        (self.root / name / "cpu.stat").write_text(f"usage_usec {usec}\nuser_usec {usec}\nsystem_usec 0\n")
        (self.root / name / "memory.current").write_text("4096\n")

    def remove(self, name: str) -> None:
        for path in (self.root / name).iterdir():
            path.unlink()
        (self.root / name).rmdir()


class World:
    """Attempts of ada's jobs, and an exporter that is asked whenever somebody likes."""

    def __init__(self, root: Path, settings: MetricsSettings) -> None:
        self.cgroups = Cgroups(root)
        self.live: dict[str, JobNow] = {}
        self.used: dict[str, int] = {}  # microseconds
        self.config = Config(metrics=settings)
        self.between: Callable[[], None] = lambda: None  # what happens after the snapshot, before the reading
        self.exporter = Exporter(driver=self.cgroups, blocking=self._thread, config=lambda: self.config)  # type: ignore[arg-type]
        self.exporter._taker = self  # type: ignore[assignment]
        self.meters: Meters = self.exporter.meters

    async def _thread(self, function: Callable[[], Any], *, late: object = None) -> Any:
        self.between()
        return function()

    def take(self) -> Snapshot:
        return Snapshot("v2", {}, self.meters.counted(), list(self.live.values()))

    def last(self, job: Any, attempt: str) -> JobNow:
        return self.live[attempt]._replace(over=True)

    def start(self, job_id: str, attempt: str, *, adopted: bool = False) -> None:
        self.live[attempt] = JobNow(job_id, attempt, "n", "ada", "normal", 1.0, 0.0, False, 0.0, 0.0, adopted=adopted)
        if adopted:
            self.exporter.counting.had[job_id] = 0.0
        self.used[attempt] = 0
        self.cgroups.use(attempt, 0)

    def run(self, attempt: str, usec: int) -> None:
        self.used[attempt] += usec
        self.cgroups.use(attempt, self.used[attempt])

    def end(self, attempt: str, *, told: bool = True) -> None:
        """`told`: the launcher says what was used."""

        class Job:
            id, user, run_base = self.live[attempt].job_id, "ada", 0.0
            spec = type("Spec", (), {"queue": "normal"})
            demand = type("Demand", (), {"memory": 1 << 20})

        texts: Mapping[str, str] = {}
        if told:
            path = self.cgroups.sample_files(attempt)[0]
            texts = {path: Path(path).read_text()}
        usage = Usage(cpu_seconds=self.used[attempt] / 1e6) if told else Usage()
        self.cgroups.remove(attempt)
        self.exporter.counting.ended(attempt, Job, usage, texts)  # type: ignore[arg-type]
        del self.live[attempt]

    async def scrape(self) -> Served:
        self.exporter._made.clear()
        return Served(*[part if isinstance(part, str) else part.decode() for part in await self.exporter.scrape()])

    async def total(self) -> float:
        values = (await self.scrape()).values("batchns_user_cpu_seconds_total", user="ada")
        return values[0] if values else 0.0


def test_what_ran_before_is_not_told_again(tmp_path: Path) -> None:
    """Prometheus takes all that a total begins with, after a restart, for what has been used since."""

    async def main() -> None:
        world = World(tmp_path, MetricsSettings(max_jobs=2))
        for number in range(4):
            world.start(str(number), f"a-{number}", adopted=number != 1)
            world.run(f"a-{number}", 100_000_000 if number != 1 else 1_000_000)
        world.end("a-0")
        assert await world.total() == 1.0, "of one that ended before it was read nobody knows what it used since"
        world.run("a-2", 3_000_000)
        world.run("a-3", 5_000_000)
        assert await world.total() == 9.0, "beyond the number of those that have series, too"
        for attempt in ("a-2", "a-3"):
            world.run(attempt, 500_000)
            world.end(attempt)
        assert await world.total() == 10.0
        world.start("2", "b-2")
        world.run("b-2", 2_000_000)
        assert await world.total() == 12.0, "its next attempt counts from its start"

    trio.run(main)


@pytest.mark.parametrize("seed", range(8))
def test_they_never_go_back_and_nothing_is_counted_twice(tmp_path: Path, seed: int) -> None:
    """Jobs start, run, end and run again, in any order, also between the snapshot of a scrape and its reading."""
    draw = random.Random(seed)

    async def main() -> None:
        world, last, number = World(tmp_path, MetricsSettings(linger=0.2)), 0.0, 0

        def something() -> None:
            nonlocal number
            attempts = list(world.live)
            step = draw.choice(["start", "run", "run", "end", "nothing"])
            if step == "start" and len(attempts) < 6:
                number += 1
                world.start(str(number % 7), f"a-{number}")
            elif step == "run" and attempts:
                world.run(draw.choice(attempts), draw.randrange(5_000_000))
            elif step == "end" and attempts:
                world.end(draw.choice(attempts))

        world.between = lambda: [something() for _ in range(draw.randrange(4))] and None
        for _ in range(150):
            something()
            if draw.random() < 0.5:
                total = await world.total()
                assert total >= last, "not by the last digit either"
                last = total
        world.between = lambda: None
        for attempt in list(world.live):
            world.end(attempt)
        assert await world.total() == pytest.approx(sum(world.used.values()) / 1e6)

    trio.run(main)


def test_where_nobody_tells_what_was_used_the_last_reading_stands(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings())
        world.start("1", "a-1")
        world.run("a-1", 3_000_000)
        assert await world.total() == 3.0
        world.end("a-1", told=False)
        assert await world.total() == 3.0

    trio.run(main)


def test_a_job_keeps_its_series_for_a_while_and_one_that_runs_again_has_one(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings(linger=0.3))
        world.start("1", "a-1")
        world.run("a-1", 2_000_000)
        await world.scrape()
        world.run("a-1", 1_000_000)
        world.end("a-1")
        after = await world.scrape()
        assert after.value("batchns_job_cpu_seconds_total", job_id="1", mode="user") == 3.0
        assert after.values("batchns_job_memory_usage_bytes", job_id="1") == [], "it holds nothing any more"
        world.start("1", "a-2")
        again = await world.scrape()
        assert again.value("batchns_job_cpu_seconds_total", job_id="1", mode="user") == 0.0
        assert again.value("batchns_job_memory_usage_bytes", job_id="1") == 4096
        world.end("a-2")
        await trio.sleep(0.35)
        assert (await world.scrape()).values("batchns_job_info", job_id="1") == []

    trio.run(main)


def test_too_many_jobs_have_no_series_and_are_counted(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings(max_jobs=3))
        for number in range(5):
            world.start(str(number), f"a-{number}")
            world.run(f"a-{number}", 1_000_000)
        served = await world.scrape()
        assert len(served.values("batchns_job_info")) == 3
        assert served.value("batchns_jobs_without_series") == 2
        for attempt in list(world.live):
            world.end(attempt)
        assert await world.total() == 5.0

    trio.run(main)


def test_with_fewer_series_than_before_totals_do_not_go_back(tmp_path: Path) -> None:
    """What a reload of batchns.toml may bring."""

    async def main() -> None:
        world = World(tmp_path, MetricsSettings(max_jobs=5))
        for number in range(5):
            world.start(str(number), f"a-{number}")
            world.run(f"a-{number}", 1_000_000)
        assert await world.total() == 5.0
        world.exporter.config = lambda: Config(metrics=MetricsSettings(max_jobs=2))
        world.run("a-4", 1_000_000)
        served = await world.scrape()
        assert len(served.values("batchns_job_info")) == 2
        assert served.value("batchns_user_cpu_seconds_total", user="ada", queue="normal") == 6.0
        world.start("5", "a-5")
        world.run("a-5", 1_000_000)
        assert await world.total() == 6.0, "of what has never been read nothing is told before its end"
        for attempt in list(world.live):
            world.end(attempt)
        assert await world.total() == 7.0

    trio.run(main)


def test_an_end_that_says_less_than_the_last_reading_takes_nothing_back(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings())
        world.start("1", "a-1")
        world.run("a-1", 3_010_000)
        assert await world.total() == 3.01
        world.used["a-1"] = 3_000_000
        world.end("a-1")
        assert await world.total() == 3.01

    trio.run(main)


def test_who_asks_at_the_same_time_gets_the_same_text(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings())
        taken = []
        take = world.take
        world.take = lambda: taken.append(1) or take()  # type: ignore[method-assign, func-returns-value]
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(world.exporter.scrape)
        assert len(taken) == 1

    trio.run(main)


def test_a_file_that_cannot_be_read_is_counted_and_spoils_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings())
        for name in ("a-1", "a-2"):
            world.start(name[-1], name)
        (tmp_path / "a-1" / "cpu.stat").unlink()
        (tmp_path / "a-1" / "cpu.stat").mkdir()  # EISDIR
        served = await world.scrape()
        assert served.value("batchns_collect_errors_total", source="cgroup") == 1
        for job_id in ("1", "2"):
            assert served.values("batchns_job_memory_usage_bytes", job_id=job_id) == [4096]
        assert served.values("batchns_job_cpu_seconds_total", job_id="1") == []
        assert len(served.values("batchns_job_info")) == 2

    trio.run(partial(main))


def test_a_file_that_cannot_be_read_any_more_takes_nothing_from_a_total(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings())
        world.start("1", "a-1")
        world.run("a-1", 3_000_000)
        assert await world.total() == 3.0
        world.exporter._readings._kept.close([f"{tmp_path}/a-1/cpu.stat"])
        (tmp_path / "a-1" / "cpu.stat").unlink()
        (tmp_path / "a-1" / "cpu.stat").mkdir()
        served = await world.scrape()
        assert served.values("batchns_job_cpu_seconds_total", job_id="1", mode="user") == [3.0]
        assert served.value("batchns_user_cpu_seconds_total", user="ada") == 3.0

    trio.run(main)


def test_where_pressure_is_switched_off_nothing_else_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RHEL 9 boots so: the files are there, and a read of them says EOPNOTSUPP."""
    files: dict[int, str] = {}
    opens, preads = os.open, os.pread

    def opened(path: Any, *more: Any, **named: Any) -> int:
        descriptor = opens(path, *more, **named)
        files[descriptor] = str(path)
        return descriptor

    def read(descriptor: int, count: int, offset: int) -> bytes:
        if files[descriptor].endswith(".pressure") or files[descriptor].startswith("/proc/pressure/"):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return preads(descriptor, count, offset)

    monkeypatch.setattr("batchns.kernel.cgroups.files.os.open", opened)
    monkeypatch.setattr("batchns.kernel.cgroups.files.os.pread", read)

    async def main() -> None:
        world = World(tmp_path, MetricsSettings())
        names = world.cgroups.sample_files
        monkeypatch.setattr(
            world.cgroups, "sample_files", lambda name: (*names(name), f"{tmp_path}/{name}/cpu.pressure")
        )
        world.start("1", "a-1")
        world.run("a-1", 3_000_000)
        (tmp_path / "a-1/cpu.pressure").touch()
        for _ in range(2):  # opened, and kept open
            served = await world.scrape()
            assert served.values("batchns_job_cpu_seconds_total", job_id="1", mode="user") == [3.0]
            assert served.values("batchns_job_pressure_seconds_total") == []
            assert served.values("batchns_pressure_seconds_total") == []
            assert sum(served.values("batchns_collect_errors_total")) == 0

    trio.run(main)


def test_names_are_told_as_the_settings_of_the_moment_have_it(tmp_path: Path) -> None:
    """Also of jobs that began under others, and of those that are over."""

    async def main() -> None:
        here = World(tmp_path, MetricsSettings(linger=60.0))
        for attempt in ("a", "b"):
            here.start(attempt, attempt)
        here.end("a")
        told = (await here.scrape()).values("batchns_job_info", name="n")
        here.config = evolve(here.config, metrics=evolve(here.config.metrics, names=False))
        untold = await here.scrape()
        assert told == [1.0, 1.0]
        assert untold.values("batchns_job_info", name="n") == []
        assert untold.values("batchns_job_info", user="ada") == [1.0, 1.0]

    trio.run(main)


def test_a_table_of_links_that_cannot_be_had_is_counted_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shapers.socket, "if_nameindex", none_left)

    async def main() -> None:
        here = World(tmp_path, MetricsSettings())
        here.start("a", "a")
        here.live["a"] = here.live["a"]._replace(link="bns-a", ingress=1e6)
        served = await here.scrape()
        assert served.value("batchns_collect_errors_total", source="shaper") == 1
        assert served.values("batchns_job_memory_usage_bytes", job_id="a") == [4096]

    trio.run(main)


def test_a_sum_in_another_order_does_not_go_back_by_its_last_digit(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, MetricsSettings())
        for number in (1, 2, 3):
            world.start(str(number), f"a-{number}")
            world.run(f"a-{number}", number * 100_000)
        before = await world.total()
        world.end("a-2")
        world.end("a-3")
        assert 0.2 + 0.3 + 0.1 < 0.1 + 0.2 + 0.3 == before
        assert await world.total() == before

    trio.run(main)
