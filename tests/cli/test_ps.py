"""`batchns ps`: what is listed, how it looks, and that ten thousand rows are no burden."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from attrs import evolve

from batchns.cli.history import history_lines, usage_lines
from batchns.cli.node import node_lines, queue_lines
from batchns.cli.plain import fit, listing, wants_colour, width_of
from batchns.cli.rows import job_listing, matches
from batchns.cli.show import why_lines
from batchns.wire import types as wire

from .conftest import Batchns
from .fake import NOW, Daemon, many, people, row, serving, usage


def lines_of(rows: list[wire.JobRow], width: int = 80, *, colour: bool = False, short: bool = False) -> list[str]:
    return job_listing(rows, now=NOW, width=width, colour=colour, short=short)


def test_jobs_that_are_not_over_are_listed(batchns: Batchns, server: object) -> None:
    done = batchns("ps")
    assert (done.code, done.err) == (0, "")
    ids = [line.split()[0] for line in done.out.splitlines()]
    assert ids == ["JOB", "12", "13_1", "13_2", "13_3", "15", "16", "17"]


def test_ls_is_the_same(batchns: Batchns, server: object) -> None:
    assert batchns("ls").out.split()[0] == "JOB"


def test_with_all_those_that_ended_are_there(batchns: Batchns, server: object) -> None:
    out = batchns("ps", "--all").out
    assert "COMPLETED" in out
    assert "FAILED" in out


def test_columns_are_aligned_and_say_what_they_should() -> None:
    head, first, *_ = lines_of(people()[:1])
    assert head.split() == ["JOB", "NAME", "QUEUE", "PRIO", "STATE", "TIME", "LIMIT", "CPUS", "ON", "MEM"]
    assert first.split() == ["12", "train", "normal", "50", "RUNNING", "3m12s", "2h30m", "2", "0-1", "4GiB"]
    assert head.index("STATE") == first.index("RUNNING")
    assert head.index("MEM") + 3 == first.index("4GiB") + 4


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    """As far as columns can give way at all."""
    assert max(width_of(line) for line in lines_of(people(), width)) <= max(width, 64)


def test_whatever_stands_in_it_no_list_is_wider_than_80_columns() -> None:
    """Many users, long names, large numbers, long ago."""
    months = 12 * 86400 + 23 * 3600.0
    large: dict[str, Any] = {"cpus": 127.25, "memory": 1023 << 30, "time_limit": months, "running_seconds": months}
    of = {"started": NOW - 9e6, "ended": NOW - 9e5, "signal": "SIGRTMIN+10", "reason": "5 processes killed"}
    name, user = "a-name-as-long-as-they-may-be-0123456789", "christopherson"
    ended = row("1234567_12345", name, "OUT_OF_MEMORY", user=user, queue=name, **large, **of)
    rows = [ended, evolve(people()[1], ended=NOW)]
    used = wire.UsageRow(
        user=user, name=name, jobs=123456, completed=123456, cpus=127.25, cpu_efficiency=1.0, memory=1023 << 30,
        memory_peak=1023 << 30, time_limit=months, running_seconds=months, longest_seconds=months,
    )  # fmt: skip
    busy = wire.QueueRow(
        name=name, priority=100, open_to_you=False, waiting=123456, running=1234, frozen=12, preempts=(name, name),
        preempt_mode="requeue",
    )  # fmt: skip
    for lines in (
        lines_of(rows),
        history_lines(rows, NOW, 80),
        usage_lines([used, *usage()], 80),
        queue_lines((busy, wire.QueueRow(name="normal", priority=50)), 80),
    ):
        assert max(map(width_of, lines)) <= 80, lines


def test_a_wide_screen_shows_more() -> None:
    wide = lines_of(people(), 160)
    assert "waits" not in wide[0]
    assert {"PRIO", "LIMIT", "ON"} <= set(wide[0].split())
    assert any("memory: 12GiB needed, 3.5GiB of 16GiB free" in line for line in wide)


def test_users_are_shown_when_there_are_several() -> None:
    assert "USER" in lines_of(people())[0]
    assert "USER" not in lines_of(people()[:1])[0]


def test_time_goes_on_while_a_job_runs_and_stands_still_while_it_is_frozen() -> None:
    running = row("1", "a", "RUNNING", running_seconds=10.0, since=NOW - 5)
    frozen = row("2", "b", "SUSPENDED", running_seconds=10.0, since=NOW - 5)
    texts = [line.split() for line in lines_of([running, frozen])]
    at = texts[0].index("TIME")
    assert [text[at] for text in texts[1:]] == ["15s", "10s"]


def test_what_comes_from_outside_cannot_command_the_terminal() -> None:
    bad = row("1", "a\x1b[2Jb", "PENDING", user="x\ny", reason="\x07ring")
    text = "\n".join(lines_of([bad, row("2", "c", "PENDING")], 200))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[2J" in text


def test_wide_characters_keep_the_columns_straight() -> None:
    lines = lines_of([row("1", "日本", "PENDING"), row("2", "plain", "PENDING")])
    cells = [width_of(line[: line.index("PENDING")]) for line in lines[1:]]
    assert cells[0] == cells[1]
    assert width_of(fit("日本語", 4)) <= 4


def test_colour_only_on_a_terminal_and_never_with_no_color(batchns: Batchns, server: object) -> None:
    assert "\x1b" not in batchns("ps").out
    assert "\x1b[36mRUNNING" in "\n".join(lines_of(people(), colour=True))

    class Terminal:
        def isatty(self) -> bool:
            return True

    assert wants_colour(Terminal(), {"TERM": "xterm"})  # type: ignore[arg-type]
    assert not wants_colour(Terminal(), {"NO_COLOR": "1"})  # type: ignore[arg-type]
    assert not wants_colour(Terminal(), {"TERM": "dumb"})  # type: ignore[arg-type]


def test_without_colour_the_same_is_said() -> None:
    import re

    plain = re.sub(r"\x1b\[[0-9]*m", "", "\n".join(lines_of(people(), colour=True)))
    assert plain == "\n".join(lines_of(people()))


def test_short_states_are_slurms(batchns: Batchns, server: object) -> None:
    texts = [line.split() for line in batchns("ps", "--short", "12", "13_1", "16").out.splitlines()]
    at = texts[0].index("ST")
    assert [text[at] for text in texts[1:]] == ["R", "S", "PD"]


@pytest.mark.parametrize("typed", ["PD", "pending", "PENDING"])
def test_states_are_asked_for_by_long_and_short_names(
    batchns: Batchns, server: object, fake: Daemon, typed: str
) -> None:
    out = batchns("ps", "--state", typed, "--user", "bob", "--queue", "normal").out
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["16", "17"]


def test_a_state_that_is_over_needs_no_all(batchns: Batchns, server: object) -> None:
    assert "14" in batchns("ps", "--state", "F").out


def test_a_wrong_state_names_those_there_are(batchns: Batchns, server: object) -> None:
    done = batchns("ps", "--state", "SLEEPING")
    assert done.code == 2
    assert '--state: "SLEEPING" is no state' in done.err
    assert "PD PENDING" in done.err


def test_what_means_no_job_is_an_error_and_the_others_are_listed(batchns: Batchns, server: object) -> None:
    done = batchns("ps", "12", "99", "nix")
    assert done.code == 2
    assert done.out.splitlines()[1].startswith("12 ")
    assert 'no job is meant by "99", "nix"' in done.err


def test_no_jobs_at_all_is_no_error(batchns: Batchns, server: object, fake: Daemon) -> None:
    fake.known.clear()
    done = batchns("ps")
    assert (done.code, done.out) == (0, "")
    assert "no jobs" in done.err


def test_watching_outlasts_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHNS_SOCKET", str(tmp_path / "api.sock"))
    with serving(Daemon(), tmp_path):
        process = subprocess.Popen(
            [sys.executable, "-m", "batchns", "ps", "--watch", "12"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("JOB")
        assert process.stdout.readline().startswith("12")
    assert process.stderr.readline().startswith("batchns: no batchns daemon answers at")
    with serving(Daemon(), tmp_path):
        assert process.stdout.readline().startswith("JOB")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert process.communicate() == ("", "") or process.returncode == 130


def test_watch_is_for_people(batchns: Batchns) -> None:
    done = batchns("ps", "--watch", "--json")
    assert done.code == 2
    assert "--watch and --json do not mix" in done.err


def test_json_has_the_wires_fields(batchns: Batchns, server: object) -> None:
    lines = batchns("ps", "--json").out.splitlines()
    assert len(lines) == 7
    assert list(json.loads(lines[0])) == [field.name for field in attrs.fields(wire.JobRow)]
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(
    ("selector", "meant"),
    [
        ("13", ["13_0", "13_1", "13_2", "13_3"]),
        ("13_1", ["13_1"]),
        ("13_1-2", ["13_1", "13_2"]),
        ("13_0,2-9", ["13_0", "13_2", "13_3"]),
        ("13_[1,3]", ["13_1", "13_3"]),
        ("14-16", ["14", "15", "16"]),
        ("sweep", ["13_0", "13_1", "13_2", "13_3"]),
        ("1", []),
        ("13_9", []),
        ("", []),
    ],
)
def test_selectors(selector: str, meant: list[str]) -> None:
    assert [one.id for one in people() if matches(one, selector)] == meant


def test_listing_without_a_row_is_its_titles() -> None:
    from batchns.cli.plain import Column

    assert listing([Column(title="A", cells=[]), Column(title="B", cells=[], least=3)], 80) == ["A"]


def test_ten_thousand_rows_cost_little(tmp_path: Path) -> None:
    """CPU time of the whole client process, its start included; the machine may be busy, so not of the clock."""
    with serving(Daemon(many(10_200)), tmp_path) as server:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "batchns", "ps"],
            env={**os.environ, "BATCHNS_SOCKET": str(server.socket)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert len(done.stdout.splitlines()) == 10_201
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.8


@pytest.mark.parametrize("module", ["rich", "trio", "cattrs", "batchns.model.codec", "batchns.supervise", "asyncio"])
def test_ps_loads_nothing_heavy(tmp_path: Path, module: str, fake: Daemon) -> None:
    with serving(fake, tmp_path) as server:
        code = (
            "import sys; sys.argv = ['batchns', 'ps']; from batchns.cli.main import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"print(sorted(name for name in sys.modules if name.split('.')[0] == {module!r} or name == {module!r}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "BATCHNS_SOCKET": str(server.socket)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout.splitlines()[0].startswith("JOB")
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_longer_than_a_line_hangs_below_its_beginning() -> None:
    bounds = {"per_user": {"jobs": 2, "cpus": 2.0, "memory": 1 << 30, "time_limit": 1800.0}}
    queue = wire.QueueRow(name="express", priority=80, limits=bounds)
    first, *rest = [line for line in queue_lines((queue,), 40) if "PRIO" not in line][2:]
    assert first.startswith("express: a user has") and rest and all(line.startswith("  ") for line in rest)
    node = wire.NodeInfo(
        host="here", version="0", pid=1, started=NOW, cgroup="v2", state="open", troubles=("nothing can be " * 9,),
    )  # fmt: skip
    first, *rest = [line for line in node_lines(node, NOW, 40) if "nothing" in line or "can be" in line]
    assert first.startswith("! nothing") and rest and all(line.startswith("  ") and len(line) <= 40 for line in rest)


def test_a_summary_of_the_latest_ends_only_says_so(batchns: Batchns, server: object, fake: Daemon) -> None:
    async def usage_of_some(*_: object) -> wire.UsageAnswer:
        return wire.UsageAnswer(rows=usage(), more=True)

    fake.usage = usage_of_some  # type: ignore[method-assign]
    assert batchns("usage").err.startswith("there are more: this is of the latest ends only")


def test_a_turn_that_nobody_has_looked_for_is_not_expected_before(batchns: Batchns) -> None:
    looked = wire.Why(id="7", code="behind", text="waits: it would delay 6", not_before=NOW + 3600)
    assert "  its turn is not expected before " in why_lines(looked, NOW, 80)[1]
    soon = evolve(looked, not_before=NOW)
    assert why_lines(soon, NOW, 80)[1] == "  its turn is not expected soon: too many go first to look further ahead"
