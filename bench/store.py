"""What does it cost to keep jobs on disk, and to read them back?

    python -m bench.store [--folder FOLDER] [--endings N] [--json]

1. One committer, full sync, on the disk that FOLDER (default: the current one) lies on: a disk's sync is most of it.
2. Entries are what jobs make in their lives: launched, started, finished; submissions are different jobs of 20 users.
3. The largest tables are made first, and what is asked of them is what a daemon and its users ask.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from attrs import asdict, evolve, frozen
from rich.console import Console
from rich.table import Table

from batchns.core.admit import Admitted, admit, expand
from batchns.core.changes import Finished, Launched, Started
from batchns.core.node import NodeCapacity
from batchns.core.placement import Placement
from batchns.model.config import Config
from batchns.model.job import Array, JobSpec, Resources
from batchns.model.lifecycle import Event, State
from batchns.model.result import JobResult, LimitReading, Usage
from batchns.store.interface import Batch, Ending, Entry, HistoryQuery, Submission
from batchns.store.jobs import encode_jobs
from batchns.store.store import Store

GIB = 1 << 30
NODE = NodeCapacity(cpus=tuple(range(64)), memory=256 * GIB)
CONFIG = Config()
SIZES = (1, 8, 64, 512)


@frozen
class Measured:
    what: str
    value: float
    unit: str


def admitted(number: int, tasks: int = 0) -> Admitted:
    """A job as users write them, unlike all others."""
    spec = JobSpec(
        name=f"job{number % 50}",
        command=("python3", "train.py", f"--seed={number}", "--epochs=40"),
        cwd="/data/alice/run7",
        env={"OMP_NUM_THREADS": "4", "RUN": str(number)},
        time_limit=3600.0,
        array=Array(tuple(range(tasks))) if tasks else None,
        stdout="/data/alice/run7/%x-%j.out",
        resources=Resources(cpus=4, memory=(number % 16 + 1) * GIB),
        source="/data/alice/run7/train.toml:1",
    )
    return admit([spec], NODE, CONFIG)[0]


def submission(store: Store, number: int, jobs: Sequence[Admitted], at: float) -> Submission:
    user = f"user{number % 20}"
    expanded = expand(jobs, store.job_ids(len(jobs)), CONFIG, at, user=user)
    return Submission(at=at, jobs=tuple(expanded), uid=1000 + number % 20, user=user, anchors={"/data": "/srv/data"})


def life(job_id: str, at: float) -> tuple[Entry, Entry, Entry]:
    place = Placement((0, 1, 2, 3), (0,))
    return (
        Entry(at=at, change=Launched(job_id, place), data={"launch": f"{job_id}.1", "slot": 17}),
        Entry(at=at, change=Started(job_id), data={"pid": 4711, "started": 123456}),
        Entry(at=at, change=Finished(job_id, Event.EXITED_OK)),
    )


def ending(job_id: str, number: int, at: float) -> Ending:
    state = State.FAILED if number % 37 == 0 else State.COMPLETED
    usage = Usage(cpu_seconds=31.25, memory_peak_bytes=GIB, io_read_bytes=4096, io_write_bytes=8192, oom_kills=0)
    limits = {"memory": LimitReading(GIB, "memory.max"), "cpuset": LimitReading("0-3", "cpuset.cpus")}
    return Ending(
        job_id=job_id,
        result=JobResult(
            job_id=job_id,
            name=f"job{number % 50}",
            state=state,
            exit_code=int(state is State.FAILED),
            queued_seconds=12.5,
            running_seconds=31.5,
            usage=usage,
            stdout=f"/data/alice/run7/job-{job_id}.out",
            limits=limits,
        ),
        uid=1000 + number % 20,
        user=f"user{number % 20}",
        queue="normal",
        submitted=at - 44.0,
        started=at - 31.5,
        ended=at,
        cpus=4.0,
        memory=GIB,
        time_limit=3600.0,
    )


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    into.append(time.perf_counter() - begun)


def median_of(times: int, action: Callable[[], object]) -> float:
    spent: list[float] = []
    for _ in range(times):
        with timed(spent):
            action()
    return statistics.median(spent)


def entries(folder: Path) -> Iterator[Measured]:
    with Store.open(folder / "entries" / "batchns.db") as store:
        jobs = submission(store, 0, [admitted(0, 10_000)], 1.0)
        store.commit(Batch(submissions=(jobs,)))
        log = [entry for job in jobs.jobs for entry in life(job.id, 2.0)]
        for size in SIZES:
            spent: list[float] = []
            place = 0
            while sum(spent) < 1.0:
                with timed(spent):
                    store.commit(Batch(entries=tuple(log[place : place + size])))
                place = (place + size) % (len(log) - size)
            rate = size * len(spent) / sum(spent)
            yield Measured(f"entries, {size} in a batch", rate, "a second")
            yield Measured(f"a commit of {size}: the median", 1000 * statistics.median(spent), "ms")
            yield Measured(f"a commit of {size}: 99 of 100", 1000 * sorted(spent)[int(0.99 * len(spent))], "ms")


def submissions(folder: Path) -> Iterator[Measured]:
    with Store.open(folder / "submissions" / "batchns.db") as store:
        jobs = [admitted(number) for number in range(1000)]
        many = [submission(store, number, [job], 1.0) for number, job in enumerate(jobs)]
        spent: list[float] = []
        for one in many:
            with timed(spent):
                encode_jobs(one.jobs)
        yield Measured("encode a submission of one job", 1e6 * statistics.median(spent), "us")
        spent = []
        for place in range(0, 1000, 50):
            with timed(spent):
                store.commit(Batch(submissions=tuple(many[place : place + 50])))
        yield Measured("commit 50 submissions of one job", 1000 * statistics.median(spent), "ms")
        spent = []
        for number in range(10):
            together = submission(store, number, jobs, 1.0)
            with timed(spent):
                store.commit(Batch(submissions=(together,)))
        yield Measured("commit 1,000 different jobs together", 1000 * statistics.median(spent), "ms")
        spent = []
        for number in range(10):
            array = submission(store, number, [admitted(number, 1000)], 1.0)
            with timed(spent):
                store.commit(Batch(submissions=(array,)))
        yield Measured("commit an array of 1,000 tasks", 1000 * statistics.median(spent), "ms")


def size_of(path: Path, make: Callable[[Store], int]) -> float:
    """Bytes of the file for each job that `make` has put into a new one."""
    with Store.open(path) as store:
        count = make(store)
    return path.stat().st_size / count


def loading(folder: Path) -> Iterator[Measured]:
    def different(store: Store) -> int:
        for start in range(0, 10_000, 500):
            numbers = range(start, start + 500)
            store.commit(Batch(submissions=tuple(submission(store, n, [admitted(n)], 1.0) for n in numbers)))
        return 10_000

    def array(store: Store) -> int:
        store.commit(Batch(submissions=(submission(store, 0, [admitted(0, 10_000)], 1.0),)))
        return 10_000

    def ended(store: Store) -> int:
        different(store)
        for start in range(1, 10_001, 50):
            ids = range(start, start + 50)
            lives = tuple(entry for number in ids for entry in life(str(number), float(number)))
            endings = tuple(ending(str(number), number, float(number)) for number in ids)
            store.commit(Batch(entries=lives, endings=endings))
        return 10_000

    for what, make in (("10,000 pending jobs", different), ("an array of 10,000", array)):
        path = folder / make.__name__ / "batchns.db"
        yield Measured(f"file, {what}", size_of(path, make), "bytes a job")
        with Store.open(path) as store:
            yield Measured(f"load {what}", 1000 * median_of(3, store.load), "ms")
    yield Measured("file, 10,000 jobs that are over", size_of(folder / "ended" / "batchns.db", ended), "bytes a job")


def past(folder: Path, count: int) -> Iterator[Measured]:
    with Store.open(folder / "past" / "batchns.db") as store:
        for start in range(0, count, 10_000):
            jobs = submission(store, start, [admitted(start, 10_000)], 1.0)
            store.commit(
                Batch(
                    submissions=(jobs,),
                    endings=tuple(
                        ending(job.id, start + place, float(start + place)) for place, job in enumerate(jobs.jobs)
                    ),
                )
            )
        query = HistoryQuery(limit=100)
        deep = HistoryQuery(limit=100, after=f"{count // 2!r}.0:1")
        for what, asked in (
            ("everybody's", query),
            ("one user's", evolve(query, uid=1003)),
            ("one user's, one name", evolve(query, uid=1003, names=("job23",))),
            ("the middle", deep),
            ("failed ones", evolve(query, states=(State.FAILED,))),
            ("one user's failed ones", evolve(query, uid=1003, states=(State.FAILED,))),
            ("a state that none ended in", evolve(query, states=(State.OUT_OF_MEMORY,))),
            ("a queue that there is not", evolve(query, queue="other")),
        ):
            yield Measured(
                f"a page of {count:,} endings: {what}", 1000 * median_of(5, partial(store.history, asked)), "ms"
            )
        yield Measured("the last 20,000 endings", 1000 * median_of(3, lambda: store.recent(20_000)), "ms")
        spent: list[float] = []
        gone = 0
        for _ in range(20):
            with timed(spent):
                gone += store.prune(count / 2)
        yield Measured("prune, one call: the median", 1000 * statistics.median(spent), "ms")
        yield Measured("prune, one call: the longest", 1000 * max(spent), "ms")
        yield Measured("prune", gone / sum(spent), "jobs a second")
        spent = []
        with timed(spent):
            store.backup(folder / "backup.db")
        yield Measured(f"backup of {count:,} endings", spent[0], "s")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to write.")
@click.option("--endings", default=100_000, help="Jobs in the history.", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(folder: Path, endings: int, as_json: bool) -> None:
    """Time the store on a disk."""
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="batchns-bench-", dir=folder) as name:
        for group in (entries, submissions, loading, partial(past, count=endings)):
            measured += group(Path(name))
    if as_json:
        print(json.dumps([asdict(row) for row in measured]))
        return
    table = Table("what", "value", "unit")
    for row in measured:
        table.add_row(row.what, f"{row.value:,.2f}" if row.value < 100 else f"{row.value:,.0f}", row.unit)
    Console().print(table)


if __name__ == "__main__":
    main()
