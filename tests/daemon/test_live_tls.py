"""A daemon with [daemon.tls], asked by curl: a certificate's name is a user, or what the settings make of it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .http.test_tls import CURVE, issue, openssl
from .live import Live, live

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


def assert_refused_without(daemon: Live, papers: Path, port: int) -> None:
    words = ("curl", "--silent", "--cacert", papers / "ours.pem", f"https://127.0.0.1:{port}/v1/you")
    assert subprocess.run(words, capture_output=True, check=False, timeout=20).returncode != 0
    assert "defect" not in daemon.said
