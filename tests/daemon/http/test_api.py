"""Each route: what it passes on, what it answers, what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from batchns.daemon.http import openapi
from batchns.daemon.http.routes import ROUTES
from batchns.daemon.service import HistoryQuery, JobQuery
from batchns.wire import types as wire

from .fake import FakeService, Running
from .raw import answer_of, ask, connect, read_until

ONE_OF_EACH = [
    ("GET", "/v1/you", None),
    ("POST", "/v1/jobs", {"files": [{"text": "x"}]}),
    ("GET", "/v1/jobs", None),
    ("GET", "/v1/jobs/{id}", None),
    ("GET", "/v1/jobs/{id}/why", None),
    ("GET", "/v1/jobs/{id}/logs", None),
    ("POST", "/v1/actions", {"verb": "cancel", "jobs": ["7"]}),
    ("GET", "/v1/history", None),
    ("GET", "/v1/usage", None),
    ("GET", "/v1/node", None),
    ("POST", "/v1/node/drain", {"detail": "new disk"}),
    ("POST", "/v1/node/resume", None),
    ("GET", "/v1/queues", None),
    ("GET", "/v1/openapi.json", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), ONE_OF_EACH)
def test_every_answer_is_what_the_openapi_document_says(server: Running, method: str, path: str, body: object) -> None:
    """The schema is closed for the test: a field that the document does not have would be noticed."""
    document = json.loads(openapi.text())
    route = document["paths"][path][method.lower()]
    if body is not None:
        schema = route["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**schema, "components": _closed(document)})
    answer = ask(server.socket, method, path.replace("{id}", "1"), body)
    content = route["responses"][str(answer.status)]["content"]
    assert answer.headers["content-type"] in content
    if answer.headers["content-type"] == "application/json" and path != "/v1/openapi.json":
        schema = content["application/json"]["schema"]
        jsonschema.validate(answer.json, {**schema, "components": _closed(document)})


def _closed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    return {"schemas": {name: {**schema, "additionalProperties": False} for name, schema in schemas.items()}}


def test_each_route_is_tried_here() -> None:
    """Those that go on are in test_streams."""
    tried = {(method, path) for method, path, _ in ONE_OF_EACH}
    left = {(route.method, route.path) for route in ROUTES} - tried
    assert left == {("GET", "/v1/events"), ("POST", "/v1/jobs/{id}/exec")}


def test_the_copy_of_the_openapi_document_is_up_to_date() -> None:
    """`python -m batchns.daemon.http > docs/openapi.json` writes it."""
    copy = Path(__file__).parents[3] / "docs" / "openapi.json"
    assert copy.read_text() == openapi.text()


def test_a_submission_arrives_as_it_was_sent(server: Running, service: FakeService) -> None:
    body = {"files": [{"text": "a", "source": "/x/a.toml", "folder": "/x", "options": {"memory": "1GiB"}}]}
    answer = ask(server.socket, "POST", "/v1/jobs", body)
    assert (answer.status, answer.json) == (201, {"jobs": [{"id": "1", "name": "train", "tasks": 1}]})
    file = wire.JobFile(text="a", source="/x/a.toml", folder="/x", options={"memory": "1GiB"})
    assert service.asked == [wire.SubmitRequest(files=(file,))]


def test_a_header_can_say_the_key_of_a_submission(server: Running, service: FakeService) -> None:
    """So that curl needs not write it into the body; there it comes first."""
    for body in ({}, {"key": "inner"}):
        ask(server.socket, "POST", "/v1/jobs", body, "Idempotency-Key: outer")
    assert service.asked == [wire.SubmitRequest(key="outer"), wire.SubmitRequest(key="inner")]


def test_a_query_arrives_with_its_types(server: Running, service: FakeService) -> None:
    ask(server.socket, "GET", "/v1/jobs?select=7&select=a+b%2Cc&state=RUNNING&user=u&queue=q&ended=1&limit=5&after=0")
    ask(server.socket, "GET", "/v1/history?user=*&since=1.5&until=2e9&name=a&name=b&state=FAILED&queue=q&limit=2")
    assert service.asked == [
        JobQuery(select=("7", "a b,c"), states=("RUNNING",), user="u", queue="q", ended=True, limit=5, after="0"),
        HistoryQuery(
            user="*", since=1.5, until=2e9, names=("a", "b"), states=("FAILED",), queue="q", limit=2
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("/v1/jobs?sate=X", 'unknown parameter "sate"', "did you mean state?"),
        ("/v1/node?x=1", 'unknown parameter "x"', "there are none"),
        ("/v1/jobs?limit=0", '?limit= wants a whole number from 1 to 1000, not "0"', ""),
        ("/v1/jobs?limit=1e3", '?limit= wants a whole number from 1 to 1000, not "1e3"', ""),
        ("/v1/jobs?limit=%D9%A3", '?limit= wants a whole number from 1 to 1000, not "\u0663"', ""),
        ("/v1/jobs?limit=1&limit=2", "?limit= is there twice", "once is enough"),
        ("/v1/jobs?ended=maybe", '?ended= wants 1 or 0, not "maybe"', ""),
        ("/v1/jobs?user=%00", "?user= has a NUL character in it", ""),
        ("/v1/jobs?user=%FF", "the query is not UTF-8", "write other bytes as %XX"),
        ("/v1/history?since=nan", '?since= wants a number, not "nan"', ""),
        ("/v1/jobs/1/logs?stream=stdin", '?stream= wants stdout or stderr, not "stdin"', ""),
        ("/v1/jobs/1/logs?attempt=0", '?attempt= wants a whole number of at least 1, not "0"', ""),
        ("/v1/events?after=x", '"x" is no event\'s id', "leave it out to hear what comes from now on"),
        ("/v1/jobs?" + "&".join(["select=1"] * 2000), "the query has more than 1000 parts", ""),
    ],
)  # fmt: skip
def test_a_query_is_read_strictly(server: Running, target: str, message: str, hint: str) -> None:
    answer = ask(server.socket, "GET", target)
    assert (answer.status, answer.json) == (400, {"code": "invalid", "message": message, "hint": hint})


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/v1/jobs/99", 404, "not_found"),
        ("GET", "/v1/nix", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("GET", "/v1/jobs/404/logs", 404, "not_found"),
        ("DELETE", "/v1/jobs/1", 405, "wrong_method"),
        ("HEAD", "/v1/events", 405, "wrong_method"),
        ("OPTIONS", "/v1/jobs", 405, "wrong_method"),
        ("POST", "/v1/actions", 400, "invalid"),
        ("GET", "/v1/jobs/break", 500, "defect"),
    ],
)  # fmt: skip
def test_every_failure_is_a_failure_of_the_wire(
    server: Running, method: str, target: str, status: int, code: str
) -> None:
    answer = ask(server.socket, method, target)
    assert answer.status == status
    if method != "HEAD":
        assert set(answer.json) == {"code", "message", "hint"}
        assert answer.json["code"] == code


def test_a_defect_is_logged_and_the_next_question_answered(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with connect(server.socket) as connection:
        connection.sendall(b"GET /v1/jobs/break HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_of(connection).status == 500
        connection.sendall(b"GET /v1/jobs/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_of(connection).status == 200
    assert [record.getMessage() for record in caplog.records] == ["defect in GET /v1/jobs/break"]
    assert "RuntimeError: a defect" in caplog.text


def test_a_page_of_the_web_is_turned_away(server: Running, service: FakeService) -> None:
    """A browser with a certificate would act in its user's name: it says where the page is from."""
    answer = ask(server.socket, "POST", "/v1/jobs", {}, "Origin: https://example.org")
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert service.asked == []


def test_several_questions_may_be_sent_at_once(server: Running) -> None:
    with connect(server.socket) as connection:
        connection.sendall(b"GET /v1/jobs/1 HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/jobs/2 HTTP/1.1\r\nHost: x\r\n\r\n")
        data = read_until(connection, b'"job-2"')
    assert data.count(b"HTTP/1.1 200") == 2
    assert data.index(b'"job-1"') < data.index(b'"job-2"')


def test_http_1_0_is_spoken_and_closes(server: Running) -> None:
    with connect(server.socket) as connection:
        connection.sendall(b"GET /v1/jobs/1 HTTP/1.0\r\n\r\n")
        assert answer_of(connection).status == 200
        assert connection.recv(1) == b""


def test_curl_does(server: Running) -> None:
    """With its own head for a body, and with Expect: 100-continue where that is large."""
    run = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "10", "--unix-socket", server.socket]
    you = subprocess.run([*run, "http://batchns/v1/you"], capture_output=True, text=True, check=True)
    assert json.loads(you.stdout)["user"] == "root"
    body = json.dumps({"files": [{"text": "x" * 2_000_000}]})
    made = subprocess.run(
        [*run, "--data", "@-", "http://batchns/v1/jobs"], input=body, capture_output=True, text=True, check=True
    )
    assert json.loads(made.stdout)["jobs"][0]["name"] == "train"
