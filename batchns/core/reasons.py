"""Why a job waits, or why it was cancelled: data first, text last.

1. Policy returns a `Reason`; nobody parses a text to learn what happened.
2. `render` is the one function that turns a reason into words.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from batchns.model.job import Condition, Dependency
from batchns.units import format_rate, format_size

FULL = 1_000_000  # one CPU, in the unit that shares are counted in: integers add up exactly


SCRATCH = "scratch"  # on disk, among the named resources: bytes


class Why(Enum):
    """Why a job waits; the last three: why it was cancelled without having run."""

    NEXT = "next"  # it fits now: the coming decision takes it, unless a more urgent job does first
    DEPENDENCY = "dependency"
    RESOURCES = "resources"
    ARRAY_THROTTLE = "array throttle"
    PAUSED = "paused"
    HELD = "held"
    FROZEN = "frozen"  # by its owner; see detail
    BEGIN = "begin"  # its begin, or its next try, is still to come
    LIMIT = "limit"  # of its queue, or of its user in it
    BEHIND = "behind"  # it would fit, but delay one that goes first
    CLEARING = "clearing"  # room is being made for it
    YIELDING = "yielding"  # its queue yields to what is not batchns's
    CLOSED = "closed"  # nothing is started for the time being; see detail
    UNFIT = "unfit"  # it was admitted, but this machine, or its queue, cannot have it any more
    THAW = "thaw failed"  # its CPUs are there, but the kernel does not let it go on yet; see detail
    DEPENDENCY_NEVER = "dependency never satisfied"
    DEADLINE = "deadline"  # it cannot be over in time any more
    DRAINED = "drained"  # the whole schedule was told to end


@frozen
class Shortage:
    """The resource that is lacking. Bytes, bits per second, millionths of a CPU ("cpus"), else a count."""

    resource: str  # "cpus", "cpuset", "jobs", "memory", "scratch", "egress", "ingress", or a name from batchns.toml
    needed: int
    free: int
    total: int

    def amount(self, value: int) -> str:
        """`value` in the unit of this resource, for people."""
        match self.resource:
            case "cpus":
                return f"{value / FULL:g}"
            case "memory" | "scratch":
                return format_size(value)
            case "egress" | "ingress":
                return format_rate(value)
            case _:
                return str(value)


@frozen(kw_only=True)
class Reason:
    """`why` says which of the details are set."""

    why: Why
    dependency: Dependency | None = None  # DEPENDENCY (the first that is open), DEPENDENCY_NEVER
    shortage: Shortage | None = None  # RESOURCES; UNFIT: the most that there could be, None: its queue is gone
    throttle: int | None = None  # ARRAY_THROTTLE: tasks at a time
    scope: str = ""  # LIMIT, UNFIT: "queue" or "user"; its shortage is of that bound
    behind: str = ""  # RESOURCES, BEHIND: the first job that goes before it
    at: float | None = None  # BEGIN, DEADLINE: the moment, of the schedule's clock
    expected: float | None = None  # the moment at which it is expected to start; None: not looked for, or not known
    not_before: float | None = None  # it is not expected to start before: nobody looked further
    queue: str = ""  # UNFIT: its queue, that is gone
    detail: str = ""  # DRAINED, CLOSED: who asked for it, and why; THAW: what the kernel said; FROZEN: its id


def render(reason: Reason) -> str:
    """A short text for a table: "waits for memory: 4GiB needed, 1GiB of 8GiB free"."""
    match reason:
        case Reason(why=Why.DEPENDENCY, dependency=Dependency(Condition.SINGLETON)):
            return "waits for other jobs of its name"
        case Reason(why=Why.DEPENDENCY, dependency=Dependency(condition, name)):
            return f"waits for {condition.value}:{name}"
        case Reason(why=Why.DEPENDENCY_NEVER, dependency=Dependency(condition, name)):
            return f"dependency {condition.value}:{name} can never be satisfied"
        case Reason(why=Why.RESOURCES, shortage=Shortage() as lack):
            needed, free, total = map(lack.amount, (lack.needed, lack.free, lack.total))
            return f"waits for {lack.resource}: {needed} needed, {free} of {total} free"
        case Reason(why=Why.ARRAY_THROTTLE):
            return f"waits for its array: {reason.throttle} {'task' if reason.throttle == 1 else 'tasks'} at a time"
        case Reason(why=Why.HELD):
            return "waits: it is held"
        case Reason(why=Why.FROZEN):
            return f"frozen until batchns thaw {reason.detail}"
        case Reason(why=Why.BEGIN):
            return "waits for its time to begin"
        case Reason(why=Why.LIMIT, shortage=Shortage() as lack):
            needed, total = lack.amount(lack.needed), lack.amount(lack.total)
            whose = "queue" if reason.scope == "queue" else "user"
            return f"waits for its {whose}'s limit: {lack.resource} {total}, {needed} more needed"
        case Reason(why=Why.BEHIND):
            return f"waits: it would delay {reason.behind}"
        case Reason(why=Why.CLEARING):
            return "waits for others to make room"
        case Reason(why=Why.YIELDING):
            return "waits: the machine is busy with other things"
        case Reason(why=Why.UNFIT, shortage=Shortage() as lack):
            where = f"its {reason.scope}'s limit is" if reason.scope else "this machine has"
            return f"cannot run: {lack.resource} {lack.amount(lack.needed)}, {where} {lack.amount(lack.total)}"
        case Reason(why=Why.UNFIT):
            return f"cannot run: there is no queue {reason.queue}"
        case Reason(why=Why.CLOSED):
            return "waits: the node is drained" + (f": {reason.detail}" if reason.detail else "")
        case Reason(why=Why.THAW):
            return "cannot be thawed" + (f": {reason.detail}" if reason.detail else "")
        case Reason(why=Why.DEADLINE):
            return "its deadline cannot be met"
        case Reason(why=Why.PAUSED):
            return "waits: everything is paused"
        case Reason(why=Why.DRAINED):
            return reason.detail
        case _:
            return "is next"
