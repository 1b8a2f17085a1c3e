"""Every command that says something of its own says it as JSON, too."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from batchns.cli.main import GROUPS, cli
from batchns.store.store import Store

from .conftest import Batchns
from .fake import Running

PASS_ON = {"attach", "completion", "exec", "logs"}  # what others wrote


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_every_command_takes_json_but_those_that_pass_on_what_others_wrote() -> None:
    context = click.Context(cli)
    without = set()
    for name in (name for group in GROUPS.values() for name in group):
        command = cli.get_command(context, name)
        assert command is not None
        some = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        without |= {name for one in some if "--json" not in options_of(one)}
    assert without == PASS_ON


def test_top_is_one_snapshot(batchns: Batchns, server: Running) -> None:
    done = batchns("top", "--json")
    node, *jobs = map(json.loads, done.out.splitlines())
    assert (done.code, node["host"]) == (0, "bench7") and "12" in [job["id"] for job in jobs]


@pytest.mark.usefixtures("server")
def test_store_and_daemon_say_what_they_found(batchns: Batchns, tmp_path: Path) -> None:
    state = tmp_path / "state"
    Store.open(state / "batchns.db").close()
    copy = tmp_path / "copy.db"
    made = json.loads(batchns("store", "backup", "--json", "--state", str(state), str(copy)).out)
    assert made == {"file": str(copy), "bytes": copy.stat().st_size}
    assert json.loads(batchns("store", "check", "--json", str(copy)).out) == {
        "file": str(copy), "ok": True, "problems": [],
    }  # fmt: skip
    copy.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    done = batchns("store", "check", "--json", str(copy))
    assert done.code == 1 and json.loads(done.out)["ok"] is False and json.loads(done.out)["problems"]
    config = tmp_path / "batchns.toml"
    config.write_text(f'[paths]\nstate = "{state}"\n')
    found = json.loads(batchns("daemon", "--check", "--json", "--config", str(config)).out)
    assert found == {"usable": True, "socket": "/run/batchns/batchns.sock", "state": str(state)}
    assert batchns("daemon", "--json", "--config", str(config)).code == 2
