"""Requests that are nearly right, and what a daemon says to thousands of them.

1. Bodies of submissions, actions and the rest are drawn by changing right ones; queries and paths by the API's own
   document; now and then the bytes of the request itself are changed.
2. An answer is right if it is no 5xx, comes in time, and the daemon's memory stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections import Counter
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from batchns.client.errors import ApiError
from batchns.wire import types as wire

from .ground import PATIENCE, Ground
from .http.raw import ask

TOML = """
[[job]]
name = "prep"
command = ["sh", "-c", "echo hi"]
env = { A = "1", B = "2" }
priority = 40
time_limit = "5m"
hold = true
stdout = "logs/%x-%j.out"
array = "0-3%2"
begin = "5m"
deadline = "2d"
warn_signal = "USR1@30s"
[job.resources]
cpus = 1
memory = "100MiB"
[job.network]
mode = "private"
egress = "10mbit"
allow = ["jobs"]
[job.isolation]
binds = ["/tmp:/mnt:ro"]
[[job]]
name = "next"
command = ["true"]
dependency = ["afterok:prep"]
"""
OPTIONS = {
    "command": ["true"],
    "name": "o",
    "env": ["A=b"],
    "resource": ["licences=1"],
    "cpus": "1",
    "memory": "10MiB",
    "time_limit": "5m",
    "array": "0-2",
    "dependency": ["singleton"],
    "bind": ["/tmp:/mnt"],
    "allow": ["jobs"],
    "network": "private",
    "notify": ["failed"],
    "begin": "1h",
    "script": None,
    "stdout": "x.out",
}
TEXTS = ["", "\0", "\ud800", "\u202e", "é", "\n", '"', "[", "]", "{", "=", "#", "%", "..", "~", "9" * 30, "1e999"]
TEXTS += ["[[", '"""', "\x7f", "\\u0000", "\\", "A" * 3000, "job.", "%n", "0-9999", "host", "1979-05-27", "2026-99-99"]
VALUES: list[Any] = [None, True, 0, -1, 1.5, 1e308, 2**63, 2**64, "", "x", "\0", "é" * 100, "\ud800", [], {}, [[]]]
VALUES += [[None]]
VALUES += [{"a": 1}, ["a"] * 50, "0-9999", "/", "a/../b", "%j%q", "9" * 400, [[[[[[[1]]]]]]], {"a": {"b": {"c": {}}}}]


def other_text(draw: random.Random, text: str) -> str:
    for _ in range(draw.choice([1, 1, 2, 5])):
        begin = draw.randrange(len(text) + 1)
        end = begin + draw.choice([0, 1, 2, 40])
        text = text[:begin] + draw.choice([*TEXTS, text[begin:end] * 3]) + text[end:]
    return text


def other_value(draw: random.Random, value: Any) -> Any:
    if draw.random() < 0.25 or not value:
        return draw.choice(VALUES)
    if isinstance(value, dict):
        key = draw.choice([*value, "x"])
        return {**value, key: other_value(draw, value.get(key))}
    if isinstance(value, list):
        place = draw.randrange(len(value))
        return [*value[:place], other_value(draw, value[place]), *value[place + 1 :]]
    return other_text(draw, value) if isinstance(value, str) else draw.choice(VALUES)


def submissions(draw: random.Random) -> Any:
    file = {"text": TOML, "folder": "/home/alice", "source": "/home/alice/a.toml", "options": {"priority": "3"}}
    match draw.randrange(4):
        case 0:
            return {"files": [{**file, "text": other_text(draw, TOML)}]}
        case 1:
            return other_value(draw, {"files": [file], "commands": [], "key": "k"})
        case 2:
            return {"commands": [{"options": other_value(draw, OPTIONS), "folder": "/home/alice"}]}
        case _:
            return other_value(draw, {"commands": [{"options": other_value(draw, OPTIONS), "folder": "/home/alice"}]})


ACTION = {"verb": "cancel", "jobs": ["1", "2-5", "o"], "signal": None, "priority": 5, "detail": "why"}
EXEC = {"command": ["true"], "env": {"A": "b"}, "cwd": "/", "terminal": [24, 80]}
VERBS = ["cancel", "hold", "release", "freeze", "thaw", "requeue", "priority", "signal", "x"]
GROWTH = 16 << 20  # bytes by which the daemon may have grown
EACH = 100  # requests between two looks at it

Request = tuple[str, str, bytes]


def request(draw: random.Random, document: dict[str, Any]) -> Request:
    """Method, target and body."""
    path, methods = draw.choice(list(document["paths"].items()))
    method, operation = draw.choice(list(methods.items()))
    one = draw.choice(["1", "2", "3_0", "1_x", "0", "-1", "9" * 30, "\0", "..", "o", "é", "1-3"])
    target = path.replace("{id}", quote(one, safe=""))
    names = [part["name"] for part in operation.get("parameters", ()) if part["in"] == "query"]
    query = [f"{name}={quote(word(draw, name), safe='')}" for name in names if draw.random() < 0.4]
    target += "?" + "&".join(query) if query else ""
    body = None
    if path == "/v1/jobs":
        body = submissions(draw)
    elif path == "/v1/actions":
        body = other_value(draw, {**ACTION, "verb": draw.choice(VERBS)})
    elif path.endswith("/exec"):
        body = other_value(draw, EXEC)
    elif method == "post":
        body = other_value(draw, {"detail": "x"})
    data = b"" if body is None or method == "get" else json.dumps(body).encode()
    return method.upper(), target, data


def word(draw: random.Random, name: str) -> str:
    if name in ("follow",):  # it would wait for the job
        return draw.choice(["0", "x", ""])
    return (
        str(draw.choice([*TEXTS, *VALUES, 1, 5, "RUNNING", "o", "1-3", "stdout"])).encode("utf-8", "replace").decode()
    )


def bytes_of(draw: random.Random, asked: Request) -> bytes:
    method, target, body = asked
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    data = head.encode() + body
    if draw.random() < 0.1:
        place = draw.randrange(len(data))
        data = (
            data[:place]
            + draw.choice([b"", b"\0", b"\r\n", b"\xff", b" ", b"9" * 20])
            + data[place + draw.randrange(3) :]
        )
    return data


def status(path: Path, data: bytes) -> int:
    """Of the answer; 0: the connection was closed without one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = HTTPResponse(connection)
        try:
            answer.begin()
            answer.read()
        except (HTTPException, ConnectionResetError):
            return 0
        return answer.status


def malformed(on: Ground, *, count: int, seed: str) -> tuple[list[str], Counter[str]]:
    """`count` requests that are nearly right, or not at all, to a daemon that may run nothing of it."""
    draw, found, counts = random.Random(seed), list[str](), Counter[str]()
    on.start()
    with on.client() as client:
        document = ask(on.socket, "GET", "/v1/openapi.json").json
        for path in ("/v1/events", "/v1/node/resume"):  # endless; and it would run what was taken
            del document["paths"][path]
        client.drain("campaign")
        before = 0
        for number in range(count):
            data = bytes_of(draw, request(draw, document))
            begun = time.monotonic()
            code = status(on.socket, data)
            counts[f"{code // 100}xx"] += 1
            counts["executions"] += 1
            if code >= 500:
                found.append(f"{code}: {data[:2000]!r}")
            if (took := time.monotonic() - begun) > 10:
                found.append(f"{took:.0f} s: {data[:2000]!r}")
            if number % EACH == 0:
                with contextlib.suppress(ApiError):  # there is none
                    client.act(wire.ActRequest(verb="cancel", jobs=("1-999999999",)))
                if number // EACH == count // EACH // 4:
                    before = resident(on.pid)
        if (grown := resident(on.pid) - before) > GROWTH:
            found.append(f"the daemon has grown by {grown >> 20} MiB")
        with contextlib.suppress(ApiError):
            client.act(wire.ActRequest(verb="cancel", jobs=("1-999999999",)))
        client.resume()
    on.stop()
    if not (counts["2xx"] and counts["4xx"]):
        found.append(f"not all kinds of answers: {dict(counts)}")
    return found + on.complaints(), counts


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
