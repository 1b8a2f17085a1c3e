"""A daemon with [daemon.tls], asked by curl: a certificate's name is a user, or what the settings make of it."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .http.test_tls import CURVE, issue, openssl
from .live import Live, live, until

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")]

SETTINGS = """
[daemon.tls]
listen = "127.0.0.1:PORT"
certificate = "PAPERS/server.pem"
key = "PAPERS/server.key"
ca = "PAPERS/ours.pem"
users = { "The Boss" = "root", "N. O. Body" = "nobody" }
"""


def test_curl_is_whom_its_certificate_names(_alone: None, tmp_path: Path) -> None:
    openssl("req", "-x509", *CURVE, "-nodes", "-days", 1, "-keyout", tmp_path / "ours.key",
            "-out", tmp_path / "ours.pem", "-subj", "/CN=ours")  # fmt: skip
    issue(tmp_path, "server", "ours", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    for name, subject in {"boss": "The Boss", "body": "N. O. Body", "nobody": "nobody", "root": "root"}.items():
        issue(tmp_path, name, "ours", f"/CN={subject}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with live(SETTINGS.replace("PORT", str(port)).replace("PAPERS", str(tmp_path))) as daemon:

        def you(name: str) -> Any:
            papers = ("--cert", tmp_path / f"{name}.pem", "--key", tmp_path / f"{name}.key")
            words = ("curl", "--silent", "--cacert", tmp_path / "ours.pem", *papers, f"https://127.0.0.1:{port}/v1/you")
            return json.loads(subprocess.run(words, capture_output=True, check=True, timeout=20).stdout)

        assert (you("boss")["user"], you("boss")["uid"], you("boss")["admin"]) == ("root", 0, True)
        assert (you("body")["user"], you("body")["admin"]) == ("nobody", False)
        assert you("nobody")["user"] == "nobody"
        assert you("root")["message"] == "your certificate names no user of this machine"
        assert_refused_without(daemon, tmp_path, port)


def test_a_reload_takes_renewed_papers_and_sends_away_whom_they_do_not_name(_alone: None, tmp_path: Path) -> None:
    for authority in ("ours", "theirs"):
        openssl("req", "-x509", *CURVE, "-nodes", "-days", 1, "-keyout", tmp_path / f"{authority}.key",
                "-out", tmp_path / f"{authority}.pem", "-subj", f"/CN={authority}")  # fmt: skip
    issue(tmp_path, "server", "ours", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    issue(tmp_path, "boss", "ours", "/CN=The Boss")
    issue(tmp_path, "body", "ours", "/CN=N. O. Body")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with live(SETTINGS.replace("PORT", str(port)).replace("PAPERS", str(tmp_path))) as daemon:

        def connected(name: str = "boss") -> http.client.HTTPSConnection:
            made = ssl.create_default_context(cafile=tmp_path / "ours.pem")
            made.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            return http.client.HTTPSConnection("127.0.0.1", port, context=made, timeout=10)

        def asked(connection: http.client.HTTPSConnection) -> dict[str, Any]:
            connection.request("GET", "/v1/you")
            return json.loads(connection.getresponse().read())  # type: ignore[no-any-return]

        def serial(connection: http.client.HTTPSConnection) -> object:
            return connection.sock.getpeercert()["serialNumber"]

        def reload(says: str = "batchns.toml has been read again") -> None:
            times = daemon.said.count(says) + 1
            assert daemon.daemon is not None
            daemon.daemon.send_signal(signal.SIGHUP)
            until(lambda: daemon.said.count(says) == times, 20)

        first = connected()
        assert asked(first)["uid"] == 0

        issue(tmp_path, "server", "ours", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
        reload()
        second = connected()
        assert asked(second)["uid"] == 0 and asked(first)["uid"] == 0  # the same are let in: nobody is sent away
        assert serial(second) != serial(first)

        (tmp_path / "server.key").rename(tmp_path / "kept.key")
        reload("is not used, the settings stay as they were")
        assert asked(second)["uid"] == 0
        (tmp_path / "kept.key").rename(tmp_path / "server.key")

        begun = connected()
        begun.connect()
        begun.sock.sendall(b"GET /v1/you HTTP/1.1\r\n")
        time.sleep(0.5)  # until it is read
        daemon.configure(daemon.settings.replace('"The Boss" = "root", ', ""))
        reload()
        begun.sock.sendall(b"Host: localhost\r\n\r\n")
        assert b" 403 " in begun.sock.recv(4096).splitlines()[0]
        for one in (first, second):
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                asked(one)
        assert asked(connected())["message"] == "your certificate names no user of this machine"
        third = connected("body")
        assert asked(third)["user"] == "nobody"

        (tmp_path / "theirs.pem").replace(tmp_path / "trusted.pem")
        daemon.configure(daemon.settings.replace("/ours.pem", "/trusted.pem"))
        reload()
        for one in (third, connected("body")):
            with pytest.raises((OSError, http.client.HTTPException)):
                asked(one)


def assert_refused_without(daemon: Live, papers: Path, port: int) -> None:
    words = ("curl", "--silent", "--cacert", papers / "ours.pem", f"https://127.0.0.1:{port}/v1/you")
    assert subprocess.run(words, capture_output=True, check=False, timeout=20).returncode != 0
    assert "defect" not in daemon.said
