"""New jobs: read, judged, bounded for each user, recorded, and in the queue; or refused as a whole, in words."""

from __future__ import annotations

import posixpath
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import trio
from attrs import define, evolve, field

from batchns.core.admit import admit, expand
from batchns.daemon.keys import LONGEST, Keys
from batchns.daemon.owners import Owners
from batchns.daemon.register import Register
from batchns.daemon.service import Peer, Refused
from batchns.errors import HostError, UserError
from batchns.launch.ids import identity_of
from batchns.model.codec import check_names, parse_jobs
from batchns.model.config import Config
from batchns.model.document import MAX_BYTES
from batchns.model.job import JobSpec
from batchns.model.job_table import job_table
from batchns.model.kinds import Table
from batchns.model.options import job_from_options
from batchns.model.problems import JobFileErrors, Problem
from batchns.model.submitter import Submitter
from batchns.store.interface import Journal, Submission
from batchns.supervise import events
from batchns.supervise.admission import check_queues
from batchns.supervise.books import Books
from batchns.supervise.events import Mailbox, Reply
from batchns.supervise.outputs import Outputs
from batchns.units import quote
from batchns.wire import codec
from batchns.wire import types as wire

MOST = 100_000  # jobs of one user that are not over
MOST_WAITS = 100_000  # dependencies of these: each costs memory, and a moment of the loop
MOST_FILES = 1000  # and commands of one request
_STDIN = "stdin"  # in its folder, for where output goes; messages have it as it was typed: -
_SMALL = 1024  # characters of a job file


@define(eq=False, init=False)
class _Coming:
    """Jobs on their way to the queue, and their dependencies, until both are counted there."""

    uid: int
    jobs: int
    waits: int

    def __init__(self, uid: int, specs: Sequence[JobSpec]) -> None:
        self.uid = uid
        tasks = [len(spec.array.indices) if spec.array else 1 for spec in specs]
        self.jobs = sum(tasks)
        self.waits = sum(count * len(spec.dependency) for count, spec in zip(tasks, specs, strict=True))

    def clear(self) -> None:
        self.jobs = self.waits = 0


@define(kw_only=True, eq=False)
class Submitting:
    """`config`: as it is now."""

    config: Callable[[], Config]
    journal: Journal
    books: Books
    owners: Owners
    register: Register
    outputs: Outputs
    inbox: Mailbox[events.Event]
    clock: Callable[[], float]
    wall: Callable[[], float] = time.time
    keys: Keys = field(factory=Keys)
    _coming: list[_Coming] = field(init=False, factory=list)

    async def submit(self, peer: Peer, submitter: Submitter, request: wire.SubmitRequest) -> wire.Submitted:
        """Durable when it returns. A request whose key was used before is that one, and is answered as it was.

        Raises:
            Refused: something is wrong with a job, or it cannot be recorded; nothing was submitted.
        """
        if len(request.key) > LONGEST:
            raise Refused("invalid", f"a key of {len(request.key)} letters", f"write one of at most {LONGEST}")
        async with self.keys.turn(peer.uid, request.key):
            before = self.keys.answer(peer.uid, request.key)
            return before or await self._submit(peer, submitter, request)

    async def _submit(self, peer: Peer, submitter: Submitter, request: wire.SubmitRequest) -> wire.Submitted:
        with _refusals():
            specs = await self._read(submitter, request)
            coming = _Coming(peer.uid, specs)
            self._check_flood(peer, coming)
            self._coming.append(coming)
            self.register.pins[peer.user] += 1
            try:
                return await self._enter(peer, submitter, specs, request.key, coming)
            finally:
                self._coming.remove(coming)
                self.register.unpin(peer.user)

    async def _read(self, submitter: Submitter, request: wire.SubmitRequest) -> list[JobSpec]:
        """The jobs of the request, as far as they can be judged without the others that are here."""
        config = self.config()
        if _is_small(request):
            specs = read_request(request, config)
        else:
            specs = await trio.to_thread.run_sync(partial(read_request, request, config))
        if not specs:
            raise Refused("invalid", "there is no job in the request", "name a file, or a command")
        check_names(specs)
        check_queues(specs, config, submitter)
        for spec in specs:
            identity_of(submitter, spec.isolation.identity)
        return specs

    async def _enter(
        self, peer: Peer, submitter: Submitter, specs: Sequence[JobSpec], key: str, coming: _Coming
    ) -> wire.Submitted:
        """The jobs are in the queue, and recorded."""
        config, schedule = self.config(), self.books.schedule
        known = schedule.known(peer.user)
        admitted = admit(specs, schedule.capacity, config, known)
        first_id = self.journal.job_ids(len(specs))
        try:
            anchors = await self.outputs.anchor(str(first_id), specs, submitter)
        except UserError:
            self.outputs.forget(str(first_id))
            raise
        now = self.clock()
        jobs = expand(
            admitted,
            first_id,
            config,
            now,
            user=peer.user,
            wall=self.wall(),
            estimator=self.register.estimates.expected,
            known=known,
        )
        answer = _answer(specs, first_id)
        submission = Submission(at=now, jobs=tuple(jobs), uid=peer.uid, user=peer.user, anchors=anchors)
        reply: Reply[None] = Reply()
        self.owners.add(submission)
        coming.clear()
        self.inbox.post(events.Arrive(submission, self.keys.note(peer.uid, key, answer, now), reply))
        try:
            await reply.get()
        except HostError:
            for array_id, count in Counter(job.array_id for job in jobs).items():
                self.owners.forget(array_id, count)
            self.outputs.forget(str(first_id))
            raise
        self.keys.used(peer.uid, key, answer, now)
        return answer

    def _check_flood(self, peer: Peer, more: _Coming) -> None:
        """What is on its way to the queue counts, too."""
        others = [one for one in self._coming if one.uid == peer.uid]
        there = self.owners.count(peer.uid) + sum(one.jobs for one in others)
        if there + more.jobs > MOST:
            raise Refused(
                "conflict",
                f"{peer.user} has {there} jobs here; {more.jobs} more would make more than {MOST}",
                "submit the rest when some of them are over",
            )
        waits = self.owners.waits(peer.uid) + sum(one.waits for one in others)
        if waits + more.waits > MOST_WAITS:
            raise Refused(
                "conflict",
                f"jobs of {peer.user} have {waits} dependencies; {more.waits} more would make more than {MOST_WAITS}",
                "let them wait for an array, or for one job that waits for the others",
            )


@contextmanager
def _refusals() -> Iterator[None]:
    """What is wrong with jobs, or keeps them from being recorded, as whoever asks is told it."""
    try:
        yield
    except Refused:
        raise
    except UserError as error:
        raise Refused("invalid", error.what, error.hint) from None
    except HostError as error:
        raise Refused("full", f"the job cannot be recorded: {error.what}", error.hint) from None


def _answer(specs: Sequence[JobSpec], first_id: int) -> wire.Submitted:
    return wire.Submitted(
        jobs=tuple(
            wire.SubmittedJob(
                id=str(first_id + number), name=spec.name, tasks=len(spec.array.indices) if spec.array else 1
            )
            for number, spec in enumerate(specs)
        )
    )


def _is_small(request: wire.SubmitRequest) -> bool:
    """Reading it takes no longer than a thread to begin with it."""
    return len(request.files) + len(request.commands) <= 1 and all(len(file.text) < _SMALL for file in request.files)


def read_request(request: wire.SubmitRequest, config: Config) -> list[JobSpec]:
    """The jobs of all files and commands of a request. Pure; takes its time.

    Raises:
        JobFileErrors: all that is wrong with any of them.
    """
    if (count := len(request.files) + len(request.commands)) > MOST_FILES:
        raise Refused("invalid", f"{count} job files are more than {MOST_FILES}", "put several jobs into one file")
    specs: list[JobSpec] = []
    problems: list[Problem] = []
    for file in request.files:
        _check_size(file.options)
        try:
            folder = _absolute(file.folder, "folder")
            name = _absolute(file.source, "source") if file.source else f"{folder.rstrip('/')}/{_STDIN}"
            specs += parse_jobs(file.text.encode(), file=name, folder=folder, config=config, options=file.options)
        except JobFileErrors as errors:
            found = errors.problems
            problems += found if file.source else [evolve(one, file=one.file and "-") for one in found]
    tables: dict[str, Table[JobSpec]] = {}  # by folder: making one takes as long as reading a job by it
    for command in request.commands:
        _check_size(command.options)
        try:
            folder = _absolute(command.folder, "folder")
            keys = tables.get(folder) or tables.setdefault(folder, job_table(config, folder))
            specs.append(job_from_options(command.options, config=config, folder=folder, keys=keys))
        except JobFileErrors as errors:
            problems += errors.problems
    if problems:
        raise JobFileErrors(dict.fromkeys(problems))  # an option that is wrong is wrong for every file
    return specs


def _check_size(options: Mapping[str, wire.Json]) -> None:
    """What a job file may not have, options may not either: it is kept as long as the job, and goes to the launcher."""
    if (size := len(codec.encode(options))) > MAX_BYTES:
        what = f"options of {size} bytes are larger than {MAX_BYTES >> 10} KiB"
        raise Refused("invalid", what, "put what is long into a file that the job reads")


def _absolute(path: str, what: str) -> str:
    if not path.startswith("/") or "\0" in path or len(path) > 4096:
        raise Refused("invalid", f"{what}: {quote(path[:80])} is no absolute path", "write one that begins with /")
    return posixpath.normpath(path)
