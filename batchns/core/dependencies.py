"""Dependencies: which edges are open, met, or can never be met.

1. An edge points at arrays by their ids, at all tasks of all of them taken together (as Slurm takes an array), or at
   one task. Names are resolved once, when a job is submitted (resolve.py): nothing here knows of a name but singletons.
2. Every edge is settled once: a job's end costs as much as the edges that it settles, not as the jobs that wait.
3. What nobody waits for costs nothing. An edge to what is not known (it was over, and forgotten) is met: had it ended
   in vain, the one that waits would have been cancelled before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum

from attrs import define, evolve, field

from batchns.core.job import Edge, Job
from batchns.core.sharing import Sharing
from batchns.model.job import Condition


class Standing(Enum):
    OPEN = "open"
    MET = "met"
    NEVER = "never"


Tally = tuple[int, int, int, int]  # jobs that there are, have started (or ended), have ended, have ended well
_Key = tuple[tuple[str, ...], int | None]  # arrays, or one task of each
Count = Callable[[tuple[str, ...], int | None], Tally]
Doomed = tuple[str, Edge]  # a job, and the edge that it waits for in vain


@define
class _Group:
    """What somebody waits for: the tally of its jobs. `users`: waiting jobs that depend on it, met or not."""

    total: int
    started: int
    ended: int
    succeeded: int
    users: int = 0
    waiting: dict[Condition, list[Doomed]] = field(factory=dict)

    def copy(self) -> _Group:
        return evolve(self, waiting={condition: jobs.copy() for condition, jobs in self.waiting.items()})

    def standing(self, condition: Condition) -> Standing:
        """Slurm's meanings; a retry that is still due is no end."""
        over = self.ended == self.total
        match condition:
            case Condition.AFTER:
                return Standing.MET if self.started == self.total else Standing.OPEN
            case Condition.AFTERANY:
                return Standing.MET if over else Standing.OPEN
            case Condition.AFTEROK | Condition.AFTERCORR:
                if self.succeeded < self.ended:
                    return Standing.NEVER
                return Standing.MET if over else Standing.OPEN
            case Condition.AFTERNOTOK:
                if not over:
                    return Standing.OPEN
                return Standing.NEVER if self.total and self.succeeded == self.total else Standing.MET
            case Condition.SINGLETON:
                raise AssertionError("singletons wait in line, not for a group")


@define
class _Name:
    """A user's jobs of one name: those that are not over, in the order of their submission, and who of them waits for
    those before; `latest`: the arrays of the last submission that has the name, as long as they are known.
    """

    line: dict[str, bool] = field(factory=dict)
    waiting: int = 0
    latest: dict[str, None] = field(factory=dict)

    def copy(self) -> _Name:
        return _Name(self.line.copy(), self.waiting, self.latest.copy())


class Dependencies:
    """The open edges of all jobs that wait."""

    def __init__(self) -> None:
        self._groups = Sharing[_Key, _Group]()
        self._watched = Sharing[tuple[str, int | None], dict[_Key, None]]()  # by array, or task: the groups it is in
        self._depended: Counter[str] = Counter()  # by array: so many groups
        self._open: dict[str, int] = {}  # edges that a waiting job still waits for
        self._keys: dict[str, list[_Key]] = {}  # by waiting job: the groups that it depends on, met or not
        self._names = Sharing[tuple[str, str], _Name]()

    def copy(self) -> Dependencies:
        other = Dependencies()
        other._groups, other._watched = self._groups.copy(), self._watched.copy()
        other._depended, other._names = self._depended.copy(), self._names.copy()
        other._open, other._keys = self._open.copy(), self._keys.copy()
        return other

    # Names.

    def add(self, jobs: Sequence[Job]) -> None:
        """The jobs of one submission exist. Before any edge of theirs is added."""
        fresh = set()
        for job in jobs:
            key = (job.user, job.spec.name)
            if key not in self._names:
                self._names[key] = _Name()
            name = self._names.own(key)
            if key not in fresh:
                fresh.add(key)
                name.latest = {}
            name.line[job.id] = False
            name.latest[job.array_id] = None

    def latest(self, user: str, name: str) -> tuple[str, ...]:
        """The arrays of the user's last submission that has the name, as far as they are known."""
        found = self._names.get((user, name))
        return tuple(found.latest) if found else ()

    def forget_array(self, array_id: str, user: str, name: str) -> None:
        """The array, over for good, has left: its name points at it no longer."""
        key = (user, name)
        if key in self._names:
            known = self._names.own(key)
            known.latest.pop(array_id, None)
            if not known.latest and not known.line:
                del self._names[key]

    # Edges.

    def wait(self, job: Job, count: Count) -> Edge | None:
        """The job waits for its edges; returns one that can never be met, if there is one already.

        `count`: the tally of arrays, or of one task of each.
        """
        keys, vain = list[_Key](), None
        for edge in dict.fromkeys(job.edges):
            if edge.condition is Condition.SINGLETON:
                self._stand_in_line(job)
                continue
            key = _target(edge, job)
            if key not in self._groups:
                self._groups[key] = _Group(*count(*key))
                for array in edge.arrays:
                    self._watch((array, key[1]), key)
                    self._depended[array] += 1
            group = self._groups.own(key)
            group.users += 1
            keys.append(key)
            match group.standing(edge.condition):
                case Standing.NEVER:
                    vain = vain or edge
                case Standing.OPEN:
                    group.waiting.setdefault(edge.condition, []).append((job.id, edge))
                    self._open[job.id] = self._open.get(job.id, 0) + 1
                case Standing.MET:
                    pass
        if keys:
            self._keys[job.id] = keys
        if vain is not None:
            self._open.pop(job.id, None)
        return vain

    def _watch(self, part: tuple[str, int | None], key: _Key) -> None:
        if part not in self._watched:
            self._watched[part] = {}
        self._watched.own(part)[key] = None

    def _stand_in_line(self, job: Job) -> None:
        name = self._names.own((job.user, job.spec.name))
        if next(iter(name.line)) != job.id:
            name.line[job.id] = True
            name.waiting += 1
            self._open[job.id] = self._open.get(job.id, 0) + 1

    def waits(self, job: str) -> bool:
        return job in self._open

    def depended_on(self, array_id: str) -> bool:
        """Whether a waiting job depends on it, met or not."""
        return array_id in self._depended

    def first_open(self, job: Job) -> Edge | None:
        """The first of its edges that is not met, for an explanation."""
        return next((edge for edge in job.edges if self._is_open(edge, job)), None)

    def _is_open(self, edge: Edge, job: Job) -> bool:
        if edge.condition is Condition.SINGLETON:
            return bool(self._names[job.user, job.spec.name].line.get(job.id))
        group = self._groups.get(_target(edge, job))
        return group is not None and group.standing(edge.condition) is not Standing.MET

    def started(self, job: Job) -> tuple[list[str], list[Doomed]]:
        """The job has started for the first time. Returns what `ended` returns."""
        keys = self._keys_of(job)
        for key in keys:
            self._groups.own(key).started += 1
        return self._settle(keys)

    def ended(self, job: Job, *, succeeded: bool, had_started: bool) -> tuple[list[str], list[Doomed]]:
        """The job is over for good.

        Returns the jobs that wait for nothing any more, and those that wait in vain, each with the edge.
        """
        keys = self._keys_of(job)
        for key in keys:
            group = self._groups.own(key)
            group.started += not had_started
            group.ended += 1
            group.succeeded += succeeded
        free, doomed = self._settle(keys)
        name = self._names.own((job.user, job.spec.name))
        if name.line.pop(job.id):
            name.waiting -= 1
        if name.waiting:
            first = next(iter(name.line))
            if name.line[first]:
                name.line[first] = False
                name.waiting -= 1
                self._close_edge(first, free)
        return free, doomed

    def forget(self, job: str) -> None:
        """The job waits no longer: it is started, or cancelled."""
        self._open.pop(job, None)
        for key in self._keys.pop(job, ()):
            group = self._groups.own(key)
            group.users -= 1
            if group.users:
                continue
            del self._groups[key]
            for array in key[0]:
                part = (array, key[1])
                del self._watched.own(part)[key]
                if not self._watched[part]:
                    del self._watched[part]
                self._depended[array] -= 1
                if not self._depended[array]:
                    del self._depended[array]

    def _keys_of(self, job: Job) -> list[_Key]:
        """The groups that the job is one of."""
        if job.array_id not in self._depended:
            return []
        keys = [*(self._watched.get((job.array_id, None)) or ())]
        if job.index is not None:
            keys += self._watched.get((job.array_id, job.index)) or ()
        return keys

    def _settle(self, keys: Sequence[_Key]) -> tuple[list[str], list[Doomed]]:
        free: list[str] = []
        doomed: list[Doomed] = []
        for key in keys:
            group = self._groups.own(key)
            for condition in list(group.waiting):
                standing = group.standing(condition)
                if standing is Standing.OPEN:
                    continue
                for job, edge in group.waiting.pop(condition):
                    if job not in self._open:
                        continue
                    if standing is Standing.NEVER:
                        del self._open[job]
                        doomed.append((job, edge))
                    else:
                        self._close_edge(job, free)
        return free, doomed

    def _close_edge(self, job: str, free: list[str]) -> None:
        if job not in self._open:
            return
        self._open[job] -= 1
        if not self._open[job]:
            del self._open[job]
            free.append(job)


def _target(edge: Edge, job: Job) -> _Key:
    return (edge.arrays, job.index if edge.condition is Condition.AFTERCORR else edge.index)
