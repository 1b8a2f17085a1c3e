"""Every question that the API answers, in one table: the app, the OpenAPI document and the tests are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import field, frozen

from batchns.daemon.service import HistoryQuery, JobQuery, Peer, RowsPage, Service
from batchns.wire import types as wire

Handler = Callable[[Service, "Call"], Awaitable[object]]


@frozen(kw_only=True)
class Call:
    """A request that has been read. `query`: values by name, with every parameter of the route that was given."""

    peer: Peer
    job_id: str = ""
    query: Mapping[str, Any] = field(factory=dict)
    body: Any = None


@frozen(kw_only=True)
class Parameter:
    """Of the query. `kind`: text, texts (may be there several times), integer, number, switch."""

    name: str
    kind: str
    about: str
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None


@frozen(kw_only=True)
class Route:
    """`stream`: instead of `handler`, the name of what `app` has for it. `answer`: a wire class or a media type."""

    method: str
    path: str
    about: str
    answer: Any
    handler: Handler | None = None
    stream: str = ""
    request: Any = None
    query: tuple[Parameter, ...] = ()
    status: int = 200
    can_fail: tuple[str, ...] = ()  # codes beyond those that any route has


async def _you(service: Service, call: Call) -> wire.You:
    return await service.you(call.peer)


async def _submit(service: Service, call: Call) -> wire.Submitted:
    return await service.submit(call.peer, call.body)


async def _jobs(service: Service, call: Call) -> RowsPage:
    return await service.jobs(call.peer, JobQuery(**_renamed(call.query, state="states")))


async def _job(service: Service, call: Call) -> wire.JobDetail:
    return await service.job(call.peer, call.job_id)


async def _why(service: Service, call: Call) -> wire.Why:
    return await service.why(call.peer, call.job_id)


async def _act(service: Service, call: Call) -> wire.ActAnswer:
    return await service.act(call.peer, call.body)


async def _history(service: Service, call: Call) -> RowsPage:
    return await service.history(call.peer, HistoryQuery(**_renamed(call.query, state="states", name="names")))


async def _usage(service: Service, call: Call) -> wire.UsageAnswer:
    return await service.usage(call.peer, HistoryQuery(**_renamed(call.query, state="states", name="names")))


async def _node(service: Service, call: Call) -> wire.NodeInfo:
    return await service.node(call.peer)


async def _queues(service: Service, call: Call) -> wire.QueuesAnswer:
    return await service.queues(call.peer)


async def _drain(service: Service, call: Call) -> wire.NodeInfo:
    return await service.drain(call.peer, call.body)


async def _resume(service: Service, call: Call) -> wire.NodeInfo:
    return await service.resume(call.peer)


def _renamed(query: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """What is there several times in a query has the name of one there, and of many here."""
    return {names.get(name, name): value for name, value in query.items()}


_SELECT = Parameter(name="select", kind="texts", about='Jobs: "7", "7_3", "7_1-5", "12-15", or a name. None: all.')
_STATE = Parameter(name="state", kind="texts", about="Only jobs in these states.")
_QUEUE = Parameter(name="queue", kind="text", about="Only jobs of this queue.")
_PAGE = (
    Parameter(name="limit", kind="integer", about="At most so many rows.", least=1, most=wire.MOST_ROWS),
    Parameter(name="after", kind="text", about='"next" of the page before.'),
)
_PAST = (
    Parameter(name="user", kind="text", about='Whose jobs; "*": everybody\'s (administrators). None: your own.'),
    Parameter(name="since", kind="number", about="Ended at this moment or after it: seconds since the epoch."),
    Parameter(name="until", kind="number", about="Ended before this moment."),
    Parameter(name="name", kind="texts", about="Only jobs of these names."),
    _STATE,
    _QUEUE,
)

ROUTES = (
    Route(method="GET", path="/v1/you", about="Whom the daemon takes you for.", answer=wire.You, handler=_you),
    Route(
        method="POST",
        path="/v1/jobs",
        about="Submit jobs: all of them, or none. They are durable when the answer comes. The header Idempotency-Key "
        "stands for the key `key` of the body.",
        request=wire.SubmitRequest,
        answer=wire.Submitted,
        handler=_submit,
        status=201,
        can_fail=("conflict", "too_large", "full"),
    ),
    Route(
        method="GET",
        path="/v1/jobs",
        about="Jobs that are not over.",
        query=(
            _SELECT,
            _STATE,
            Parameter(name="user", kind="text", about="Only this user's jobs."),
            _QUEUE,
            Parameter(name="ended", kind="switch", about="Those that ended lately, too."),
            *_PAGE,
        ),
        answer=wire.JobPage,
        handler=_jobs,
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}",
        about="All of one job, over or not.",
        answer=wire.JobDetail,
        handler=_job,
        can_fail=("not_found",),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/why",
        about="Why a job does not run, and when that is expected to change.",
        answer=wire.Why,
        handler=_why,
        can_fail=("not_found",),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/logs",
        about="What a job wrote, byte for byte. An answer that breaks off without its last chunk is not complete.",
        query=(
            Parameter(name="stream", kind="text", about="Which of both; stdout.", choices=("stdout", "stderr")),
            Parameter(name="attempt", kind="integer", about="Of which attempt; the last.", least=1),
            Parameter(name="tail", kind="integer", about="Only the last so many lines.", least=0),
            Parameter(name="start", kind="integer", about="From this byte of its file on, without tail.", least=0),
            Parameter(name="follow", kind="switch", about="And what it will write, until it is over."),
        ),
        answer="text/plain",
        stream="logs",
        can_fail=("not_found",),
    ),
    Route(
        method="POST",
        path="/v1/jobs/{id}/exec",
        about="Start a process in a running job, and go over to frames (Connection: Upgrade, Upgrade: batchns-exec).",
        request=wire.ExecRequest,
        answer="application/octet-stream",
        stream="exec",
        status=101,
        can_fail=("not_found", "conflict", "command_not_found", "command_not_executable"),
    ),
    Route(
        method="POST",
        path="/v1/actions",
        about="Do something with jobs: cancel, hold, release, freeze, thaw, requeue, priority, signal.",
        request=wire.ActRequest,
        answer=wire.ActAnswer,
        handler=_act,
    ),
    Route(
        method="GET",
        path="/v1/events",
        about="Changes of jobs' states as server-sent events: `event: job` with a row, `event: reset` where events are "
        "missing. The header Last-Event-ID stands for `after`.",
        query=(_SELECT, Parameter(name="after", kind="text", about="The id of the last event that is known.")),
        answer="text/event-stream",
        stream="events",
    ),
    Route(
        method="GET",
        path="/v1/history",
        about="Jobs that are over, the newest end first.",
        query=(*_PAST, *_PAGE),
        answer=wire.JobPage,
        handler=_history,
    ),
    Route(
        method="GET",
        path="/v1/usage",
        about="What jobs that are over asked for, and what they used.",
        query=_PAST,
        answer=wire.UsageAnswer,
        handler=_usage,
    ),
    Route(
        method="GET",
        path="/v1/node",
        about="What this machine has, what is free, how the daemon is.",
        answer=wire.NodeInfo,
        handler=_node,
    ),
    Route(
        method="POST",
        path="/v1/node/drain",
        about="Start no more jobs (administrators).",
        request=wire.DrainRequest,
        answer=wire.NodeInfo,
        handler=_drain,
    ),
    Route(
        method="POST",
        path="/v1/node/resume",
        about="Start jobs again (administrators).",
        answer=wire.NodeInfo,
        handler=_resume,
    ),
    Route(
        method="GET",
        path="/v1/queues",
        about="The queues, and what of them is yours.",
        answer=wire.QueuesAnswer,
        handler=_queues,
    ),
    Route(
        method="GET",
        path="/v1/openapi.json",
        about="This document.",
        answer="application/json",
        stream="openapi",
    ),
)
