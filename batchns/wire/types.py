"""What goes over the daemon's socket, as classes: the same on both sides. Version 1.

1. Only JSON's own types, lists (as tuples) and mappings of them, and classes of this module.
2. A field is only ever added, with a default: an older client ignores it, a newer one does without it.
3. Moments are seconds since the epoch, durations seconds, sizes bytes, rates bits per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, frozen

Json = Any

MOST_ROWS = 1000  # of one page of a list
BEGINS = "batchns-begins"  # header of a job's output: the byte of its file that comes first


class _Values:
    """Equality and text of all classes here: written once, where attrs would compile them for each class, and each
    command line would take 5 ms longer to begin.
    """

    __slots__ = ()
    __attrs_attrs__: ClassVar[Any]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values()))

    def __repr__(self) -> str:
        names = (one.name for one in self.__attrs_attrs__)
        shown = (f"{name}={value!r}" for name, value in zip(names, self._values(), strict=True))
        return f"{type(self).__name__}({', '.join(shown)})"

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, one.name) for one in self.__attrs_attrs__)


@frozen(kw_only=True, eq=False, repr=False)
class JobFile(_Values):
    """One job file to submit. `options`: as of `model.options`, instead of what the file says."""

    text: str
    source: str = ""  # its absolute path, for messages and for where output goes; "": standard input
    folder: str = "/"  # absolute: what relative paths start from
    options: Mapping[str, Json] = field(factory=dict)


@frozen(kw_only=True, eq=False, repr=False)
class SubmitRequest(_Values):
    """All files, or none of them.

    `key`: a text of the client's own making, new for each submission. The same user's submission with the same key is
    answered as the first one was, and nothing is submitted again; "" for no such promise.
    """

    files: tuple[JobFile, ...] = ()
    commands: tuple[CommandLine, ...] = ()
    key: str = ""


@frozen(kw_only=True, eq=False, repr=False)
class CommandLine(_Values):
    """A job from options alone, `command` among them."""

    options: Mapping[str, Json] = field(factory=dict)
    folder: str = "/"


@frozen(kw_only=True, eq=False, repr=False)
class SubmittedJob(_Values):
    id: str  # an array's id stands for its tasks
    name: str
    tasks: int = 1


@frozen(kw_only=True, eq=False, repr=False)
class Submitted(_Values):
    jobs: tuple[SubmittedJob, ...] = ()


@frozen(kw_only=True, eq=False, repr=False)
class JobRow(_Values):
    """A job in a list. The three sums of seconds hold at `since`: what has passed after it belongs to the state."""

    id: str
    array_id: str
    index: int | None = None
    name: str
    user: str
    queue: str
    state: str
    reason: str = ""  # why it waits, stands still or ended
    priority: int = 50
    attempt: int = 1
    cpus: float = 1.0
    memory: int | None = None
    time_limit: float | None = None
    submitted: float
    started: float | None = None  # the last attempt's command
    ended: float | None = None  # set when it is over for good
    since: float = 0.0
    queued_seconds: float = 0.0
    running_seconds: float = 0.0
    frozen_seconds: float = 0.0
    cpu_list: str = ""  # "0-3": where it runs
    exit_code: int | None = None
    signal: str | None = None


@frozen(kw_only=True, eq=False, repr=False)
class JobPage(_Values):
    """`next`: the cursor of the page that follows, "" at the end."""

    jobs: tuple[JobRow, ...] = ()
    next: str = ""


@frozen(kw_only=True, eq=False, repr=False)
class Limit(_Values):
    """As of `model.result.LimitReading`."""

    value: int | str | None = None
    source: str = ""
    why: str = ""


@frozen(kw_only=True, eq=False, repr=False)
class Happened(_Values):
    """One entry of a job's journal."""

    at: float
    event: str  # "submitted", "launched", "started", "frozen", "thawed", ...
    detail: str = ""


@frozen(kw_only=True, eq=False, repr=False)
class JobDetail(_Values):
    row: JobRow
    spec: Mapping[str, Json] = field(factory=dict)  # the job as a job file's table, complete
    source: str = ""
    limits: Mapping[str, Limit] = field(factory=dict)
    usage: Mapping[str, float | int | None] = field(factory=dict)  # as of `model.result.Usage`
    stdout: str | None = None
    stderr: str | None = None
    pid: int | None = None  # init's, while it runs
    cgroup: str = ""
    happened: tuple[Happened, ...] = ()


@frozen(kw_only=True, eq=False, repr=False)
class Why(_Values):
    """Why a job does not run, and when that is expected to change."""

    id: str
    code: str = ""  # of `core.reasons.Why`, or "running", "over"
    text: str = ""
    behind: str = ""  # the job that goes first
    lacks: Mapping[str, Json] = field(factory=dict)  # {"resource": ..., "wanted": ..., "free": ...}
    expected: float | None = None  # the moment at which it is expected to start or go on
    not_before: float | None = None  # where that was not found soon: not expected before this moment
    at: float | None = None  # the moment at which it may begin, or its deadline, where that is why


@frozen(kw_only=True, eq=False, repr=False)
class ActRequest(_Values):
    """What to do with jobs. `jobs`: selectors: "7", "7_3", "7_1-5", "12-15", a name.

    `verb`: cancel, hold, release, freeze, thaw, requeue, priority, signal.
    """

    verb: str
    jobs: tuple[str, ...]
    signal: str | None = None  # cancel, signal: "TERM", "SIGINT", "9"
    priority: int | None = None
    user: str | None = None  # only jobs of this user (administrators)


@frozen(kw_only=True, eq=False, repr=False)
class Acted(_Values):
    """What became of it, for one job. `done` False: `text` says why not."""

    id: str
    done: bool
    text: str = ""
    hint: str = ""


@frozen(kw_only=True, eq=False, repr=False)
class ActAnswer(_Values):
    jobs: tuple[Acted, ...] = ()


@frozen(kw_only=True, eq=False, repr=False)
class QueueRow(_Values):
    name: str
    priority: int
    open_to_you: bool = True
    waiting: int = 0
    running: int = 0
    frozen: int = 0
    preempts: tuple[str, ...] = ()
    preempt_mode: str = ""  # what giving way is for its own jobs that do not say: suspend, requeue, cancel, off
    limits: Mapping[str, Json] = field(factory=dict)  # {"per_job": {...}, "per_user": {...}, "total": {...}}


@frozen(kw_only=True, eq=False, repr=False)
class NodeInfo(_Values):
    """What the node has (`total`) and what is not handed out (`free`): cpus, memory, egress, ingress, named ones."""

    host: str
    version: str
    pid: int  # the daemon's
    started: float  # the daemon
    cgroup: str  # "v1", "v2", "hybrid"
    state: str  # "open", "drained"
    detail: str = ""  # why it is drained
    cpus: str = ""  # "0-3"
    total: Mapping[str, float] = field(factory=dict)
    free: Mapping[str, float] = field(factory=dict)
    waiting: int = 0
    running: int = 0
    frozen: int = 0
    troubles: tuple[str, ...] = ()  # what an administrator should know: a store that cannot be written, ...


@frozen(kw_only=True, eq=False, repr=False)
class DrainRequest(_Values):
    detail: str = ""


@frozen(kw_only=True, eq=False, repr=False)
class UsageRow(_Values):
    """Asked against used, of a user's ended jobs of one name: medians and largest values."""

    user: str
    name: str
    jobs: int
    completed: int = 0
    cpus: float = 1.0  # asked for, the last time
    cpu_efficiency: float | None = None  # CPU seconds used by CPU seconds held, 0 to 1
    memory: int | None = None  # asked for, the last time
    memory_peak: int | None = None  # the largest
    time_limit: float | None = None
    running_seconds: float = 0.0  # the median
    longest_seconds: float = 0.0
    advice: tuple[str, ...] = ()  # what to ask for next time


@frozen(kw_only=True, eq=False, repr=False)
class UsageAnswer(_Values):
    rows: tuple[UsageRow, ...] = ()
    more: bool = False  # older ends have been left out: there are too many


@frozen(kw_only=True, eq=False, repr=False)
class QueuesAnswer(_Values):
    queues: tuple[QueueRow, ...] = ()


@frozen(kw_only=True, eq=False, repr=False)
class You(_Values):
    """Who the daemon takes the caller for."""

    user: str
    uid: int
    admin: bool
    version: str = ""
    api: int = 1


@frozen(kw_only=True, eq=False, repr=False)
class ExecRequest(_Values):
    """A process in a running job. `terminal`: its rows and columns; None: three pipes."""

    command: tuple[str, ...] = ()  # empty: a shell
    env: Mapping[str, str] = field(factory=dict)
    cwd: str = ""
    terminal: tuple[int, int] | None = None


@frozen(kw_only=True, eq=False, repr=False)
class Failure(_Values):
    """The body of every answer that is not 2xx. `code`: "not_found", "forbidden", "invalid", "conflict", "full", ..."""

    code: str
    message: str
    hint: str = ""
