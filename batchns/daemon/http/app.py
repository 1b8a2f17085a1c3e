"""The table of routes as an ASGI application: reads, asks the service, answers.

What is raised on purpose becomes its `wire.Failure`; anything else is a defect: logged, answered 500, and the daemon
goes on.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import unquote

import trio
from attrs import evolve
from starlette.exceptions import HTTPException
from starlette.routing import Route as Way
from starlette.routing import Router

from batchns.daemon.http.connection import Gone, Switch
from batchns.daemon.http.execution import serve_execution
from batchns.daemon.http.failures import DEFECT, answered, besides, failure_of, only
from batchns.daemon.http.openapi import document
from batchns.daemon.http.queries import read_query
from batchns.daemon.http.routes import ROUTES, Call, Route
from batchns.daemon.http.scrape import ScrapeApp, Told
from batchns.daemon.http.settings import Limits
from batchns.daemon.http.streams import send_events, send_logs
from batchns.daemon.service import Refused, RowsPage, Service
from batchns.units import quote
from batchns.wire import codec, strict
from batchns.wire import types as wire

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # that are told of by name
IN_A_THREAD = 64 << 10  # bytes of a body from which on reading it would hold others up

log = logging.getLogger("batchns.http")


class Monitor(Told, Protocol):
    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """An answer of the API has begun, so long after its request was complete. `route`: of its table, `method`: of
        `METHODS`; else "other", as a client may make up as many as it likes.
        """


class App:
    """An ASGI application for `Connection`: the scope has the peer, and the way out of HTTP.

    `monitor`: what it is asked beside the API by administrators, and told of every answer; None: nobody is.
    """

    def __init__(self, service: Service, limits: Limits, monitor: Monitor | None = None) -> None:
        self._service = service
        self._limits = limits
        self._monitor = monitor
        self._scrapes = None if monitor is None else ScrapeApp(monitor)
        self._life = secrets.token_hex(4)
        self._router = Router([self._way(route) for route in ROUTES], redirect_slashes=False)

    def _way(self, route: Route) -> Way:
        way = Way(route.path, _Endpoint(route, self._service, self._limits, self._life), methods=[route.method])
        assert way.methods is not None
        way.methods.discard("HEAD")  # starlette adds it; of a stream it would have no end
        return way

    def body_limit(self, method: str, target: str) -> int:
        """Of a request, in bytes."""
        files = method == "POST" and target.partition("?")[0] == "/v1/jobs"
        return self._limits.files if files else self._limits.body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, since = False, trio.current_time()
        scope = {**scope, "app": self}

        def begins(status: int) -> None:
            nonlocal begun
            begun = True
            # What monitors ask is none of the API's: that a drained node is not ready is no failure of anything.
            if self._monitor is not None and scope["path"] not in ScrapeApp.PATHS:
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._monitor.answered(_route(scope), method, status, trio.current_time() - since)

        async def sent(message: Any) -> None:
            if not begun:
                begins(message["status"])
            await send(message)

        switch_to = scope["batchns.upgrade"]

        def upgrade(protocol: str) -> Switch:
            switch = switch_to(protocol)

            async def switched() -> Any:
                begins(101)
                return await switch()

            return switched

        try:
            _no_browser(scope)
            if self._scrapes is not None and scope["path"] in ScrapeApp.PATHS:
                self._service.may_monitor(scope["batchns.peer"])
                await self._scrapes(scope, receive, sent)
            else:
                scope["batchns.upgrade"] = upgrade
                await self._router(scope, receive, sent)
        except Exception as error:
            rest = besides(error, Gone)
            if rest is None:
                raise Gone from None
            failure = _told(only(rest), scope)
            if failure is None:
                log.error("defect in %s %s", scope["method"], scope["path"], exc_info=rest)
            if begun:
                raise Gone from None  # what has been sent is not complete: the client must see that
            answer = answered(failure or DEFECT)
            await _send_json(sent, answer.status, answer.body)


class _Endpoint:
    """One route. An instance, so that starlette leaves requests and answers to it."""

    def __init__(self, route: Route, service: Service, limits: Limits, life: str) -> None:
        self.route = route
        self._service = service
        self._limits = limits
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.route
        headers = dict(scope["headers"])
        body = (await receive())["body"]
        call = Call(
            peer=scope["batchns.peer"],
            job_id=unquote(scope["path_params"].get("id", "")),
            query=read_query(route.query, scope["query_string"]),
            body=await _read(route.request, body, headers) if route.request else None,
        )
        if route.handler is not None:
            answer = await route.handler(self._service, call)
            await _send_json(send, route.status, _encoded(answer))
        elif route.stream == "logs":
            await send_logs(self._service, call, receive, send)
        elif route.stream == "events":
            last = headers.get(b"last-event-id", b"").decode("ascii", "replace")
            await send_events(self._service, call, last, self._life, self._limits.heartbeat, receive, send)
        elif route.stream == "exec":
            await serve_execution(self._service, call, scope["batchns.upgrade"])
        else:
            await _send_json(send, 200, codec.encode(document()))


async def _read(kind: Any, body: bytes, headers: dict[bytes, bytes]) -> Any:
    if len(body) > IN_A_THREAD:
        request = await trio.to_thread.run_sync(strict.read, kind, body)
    else:
        request = strict.read(kind, body)
    if kind is wire.SubmitRequest and not request.key and b"idempotency-key" in headers:
        request = evolve(request, key=headers[b"idempotency-key"].decode("ascii", "replace"))
    return request


def _encoded(answer: object) -> bytes:
    if isinstance(answer, RowsPage):
        return b'{"jobs":[%s],"next":%s}' % (b",".join(answer.rows), codec.encode(answer.next))
    return codec.encode(answer)


async def _send_json(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _no_browser(scope: Scope) -> None:
    """A page of the web must not act in the name of a user whose browser has a certificate.

    Raises:
        Refused: a browser asks for a page of somewhere.
    """
    if any(name in (b"origin", b"sec-fetch-site") for name, _ in scope["headers"]):
        raise Refused("forbidden", "this API is not for pages in a browser")


def _route(scope: Scope) -> str:
    endpoint = scope.get("endpoint")  # starlette's router has put it there
    if isinstance(endpoint, _Endpoint):
        return endpoint.route.path
    return "other"


def _told(error: BaseException, scope: Scope) -> wire.Failure | None:
    if isinstance(error, HTTPException):
        path = quote(scope["path"])
        hint = "GET /v1/openapi.json has what there is"
        if error.status_code == 405:
            return wire.Failure(code="wrong_method", message=f"{path} does not take {scope['method']}", hint=hint)
        return wire.Failure(code="not_found", message=f"there is no {path}", hint=hint)
    return failure_of(error)
