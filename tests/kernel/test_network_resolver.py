"""Whom jobs ask for names: read from a machine's files, here in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchns.kernel.facts import Place, Status
from batchns.kernel.network.resolver import HOSTS_OWN, UPSTREAM, find, text
from batchns.kernel.probe_network import name_servers

STUB = "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"


def machine(root: Path, **files: str) -> Path:
    for path, content in files.items():
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / path.lstrip("/")).write_text(content)
    return root


def test_servers_of_the_host_are_those_of_jobs_with_everything_else_it_says(tmp_path: Path) -> None:
    own = "; a comment\ndomain example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:2\n"
    found = find(root=machine(tmp_path, **{HOSTS_OWN: own}))
    assert found.servers == ("192.0.2.1", "2001:db8::1")
    assert text(found, ipv6=True).splitlines()[1:] == [
        "nameserver 192.0.2.1",
        "nameserver 2001:db8::1",
        "domain example.org",
        "options ndots:2",
    ]
    assert "2001:db8::1" not in text(found, ipv6=False)


def test_servers_that_only_the_host_reaches_are_left_out(tmp_path: Path) -> None:
    own = "nameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver what\nnameserver 192.0.2.1\n"
    assert find(root=machine(tmp_path, **{HOSTS_OWN: own})).servers == ("192.0.2.1",)


@pytest.mark.parametrize("upstream", UPSTREAM)
def test_behind_a_local_resolver_those_whom_it_asks(tmp_path: Path, upstream: str) -> None:
    files = {HOSTS_OWN: STUB, upstream: "nameserver 192.0.2.1\nnameserver fe80::1%2\nsearch lan\n"}
    found = find(root=machine(tmp_path, **files))
    assert (found.servers, found.lines, found.source) == (("192.0.2.1",), ("search lan",), upstream)


def test_what_batchns_toml_says_goes_first(tmp_path: Path) -> None:
    found = find(("192.0.2.9",), root=machine(tmp_path, **{HOSTS_OWN: STUB}))
    assert found.servers == ("192.0.2.9",)
    assert "search lan" in text(found, ipv6=False)
    assert find(("192.0.2.9",), root=tmp_path / "empty").servers == ("192.0.2.9",)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({HOSTS_OWN: "nameserver 127.0.0.1\nnameserver ::1\n"}, "names 127.0.0.1, ::1 only"),
        ({HOSTS_OWN: STUB, UPSTREAM[0]: "nameserver ::1\n"}, "names 127.0.0.53 only"),
        ({HOSTS_OWN: "search lan\n"}, "names no server"),
        ({}, "there is no"),
    ],
)
def test_a_machine_without_a_usable_server_is_told_what_to_write(
    tmp_path: Path, files: dict[str, str], why: str
) -> None:
    found = find(root=machine(tmp_path, **files))
    assert found.servers == ()
    assert "\nnameserver" not in text(found, ipv6=True)
    assert 'dns = ["ADDRESS"]' in text(found, ipv6=True)
    fact = name_servers(Place(files=tmp_path))
    assert fact.status is Status.LIMITED
    assert why in fact.found
    assert 'dns = ["ADDRESS"]' in fact.hint
    assert name_servers(Place(files=tmp_path, dns=("192.0.2.9",))).status is Status.OK
