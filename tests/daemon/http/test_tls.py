"""Over TCP only those with a certificate of the authority are let in, as the user whom it names."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchns.daemon.http import Tls
from batchns.daemon.http.peers import common_name
from batchns.errors import HostError
from batchns.wire import frames

from .fake import FakeService, Running, running
from .raw import ask, eventually, read_until

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


def issue(folder: Path, name: str, authority: str, subject: str, *more: str) -> None:
    """`name`.pem and `name`.key, signed by `authority`."""
    key, request = folder / f"{name}.key", folder / f"{name}.csr"
    openssl("req", *CURVE, "-nodes", "-keyout", key, "-out", request, "-subj", subject, *more)
    openssl("x509", "-req", "-in", request, "-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key",
            "-CAcreateserial", "-days", 1, "-copy_extensions", "copy", "-out", folder / f"{name}.pem")  # fmt: skip


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    for authority in ("ours", "theirs"):
        openssl("req", "-x509", *CURVE, "-nodes", "-days", 1,
                "-keyout", folder / f"{authority}.key", "-out", folder / f"{authority}.pem",
                "-subj", f"/CN={authority}")  # fmt: skip
    issue(folder, "server", "ours", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    issue(folder, "nobody", "ours", "/O=lab/CN=nobody")
    issue(folder, "root", "ours", "/CN=root")
    issue(folder, "boss", "ours", "/CN=The Boss")
    issue(folder, "ghost", "ours", "/CN=no such user")
    issue(folder, "forged", "theirs", "/CN=nobody")
    return folder


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def remote(service: FakeService, tmp_path: Path, papers: Path, port: int) -> Iterator[Running]:
    tls = Tls(
        host="127.0.0.1", port=port, certificate=papers / "server.pem", key=papers / "server.key",
        authority=papers / "ours.pem", users={"The Boss": "root"},
    )  # fmt: skip
    with running(service, tmp_path, tls=tls) as server:
        yield server


def trusted(papers: Path, name: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=papers / "ours.pem")
    if name:
        context.load_cert_chain(papers / f"{name}.pem", papers / f"{name}.key")
    return context


def you(papers: Path, port: int, name: str | None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusted(papers, name), timeout=10)
    try:
        connection.request("GET", "/v1/you")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.usefixtures("remote")
class TestWhoComes:
    def test_a_user_with_a_certificate_is_that_user(self, papers: Path, port: int) -> None:
        status, answer = you(papers, port, "nobody")
        assert (status, answer["user"], answer["uid"], answer["admin"]) == (200, "nobody", 65534, False)

    def test_nobody_without_one_gets_to_ask(self, papers: Path, port: int, service: FakeService) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            you(papers, port, None)
        assert service.peers == []

    def test_nor_with_one_of_another_authority(self, papers: Path, port: int, service: FakeService) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            you(papers, port, "forged")
        assert service.peers == []

    def test_root_must_be_named_in_the_configuration(self, papers: Path, port: int) -> None:
        assert you(papers, port, "root")[0] == 403
        assert you(papers, port, "boss")[1]["uid"] == 0

    def test_a_certificate_of_nobody_here_is_told_so(self, papers: Path, port: int) -> None:
        status, answer = you(papers, port, "ghost")
        assert (status, answer["message"]) == (403, "your certificate names no user of this machine")

    @pytest.mark.parametrize("stdin", [1000, 300_000], ids=["some", "more than is read ahead"])
    def test_a_client_that_leaves_is_noticed_though_its_process_does_not_read(
        self, papers: Path, port: int, service: FakeService, stdin: int
    ) -> None:
        body = '{"command":["deaf"]}'
        head = "POST /v1/jobs/1/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: batchns-exec\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            connection = trusted(papers, "nobody").wrap_socket(plain, server_hostname="127.0.0.1")
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            read_until(connection, b"\r\n\r\n")
            connection.sendall(frames.frame(frames.STDIN, bytes(stdin)))
            connection.close()
        assert eventually(lambda: service.streams == 0)

    def test_plain_http_is_not_spoken(self, port: int, remote: Running) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"GET /v1/you HTTP/1.1\r\nHost: x\r\n\r\n")
            got = connection.recv(1000)
        assert b"HTTP/1.1 200" not in got
        assert ask(remote.socket, "GET", "/v1/you").status == 200


def test_files_that_are_no_papers_are_refused_at_the_start(
    service: FakeService, tmp_path: Path, papers: Path, port: int
) -> None:
    for wrong in (papers / "missing.pem", papers / "nobody.key"):
        tls = Tls(
            host="127.0.0.1", port=port, certificate=wrong, key=papers / "server.key", authority=papers / "ours.pem"
        )
        with pytest.raises(HostError, match="no TLS with"), running(service, tmp_path, tls=tls):
            pass
    assert not (tmp_path / "api.sock").exists()


def test_a_port_that_somebody_has_is_refused_at_the_start(service: FakeService, tmp_path: Path, papers: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        tls = Tls(
            host="127.0.0.1", port=other.getsockname()[1], certificate=papers / "server.pem", key=papers / "server.key",
            authority=papers / "ours.pem",
        )  # fmt: skip
        with pytest.raises(HostError, match="cannot listen at"), running(service, tmp_path, tls=tls):
            pass


def test_two_common_names_are_none() -> None:
    """What a certificate with two of them means is anybody's guess."""
    subject = ((("commonName", "ada"),), (("commonName", "root"),))
    assert common_name({"subject": subject}) == ""
    assert common_name({"subject": subject[:1]}) == "ada"
    assert common_name(None) == ""
