"""Several users and one daemon: what each may see and do is decided by the kernel's word about them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..people import users, way_for_all
from ..system.conftest import Ran, until
from .live import Live, holds, live

pytestmark = pytest.mark.kernel

ADA, BOB, CAROL = 31001, 31002, 31003
NOBODY_HAS = "99999"
SLEEP = ("sleep", "600")
SETTINGS = """
[node]
memory = "1GiB"
[daemon]
admins = { users = ["carol"] }
SEE
[queues.normal]
max_priority = 60
[queues.bobs]
users = ["bob"]
[notify]
command = ["/bin/sh", "-c", "f=BASE/told/$$; { id -u; id -G; pwd; env; echo :; cat; } > $f.new; mv $f.new $f"]
on = ["failed"]
"""


@pytest.fixture(scope="module")
def machine(_alone: None) -> Iterator[Live]:
    with way_for_all(), users(ada=ADA, bob=BOB, carol=CAROL), live(SETTINGS.replace("SEE", "")) as made:
        yield made


@pytest.fixture
def daemon(machine: Live) -> Iterator[Live]:
    yield machine
    machine.clear()


# As whom


def test_a_job_runs_as_its_submitter_and_as_nobody_else(daemon: Live) -> None:
    script = "id -u; id -G; umask; env | grep -c OF_THE_DAEMON; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs'"
    job = daemon.submit("--name", "who", "--", "sh", "-c", script, user="ada")
    daemon.over(job)
    uid, gids, umask, secrets, capabilities, no_new = daemon("logs", job, user="ada").stdout.splitlines()
    assert int(uid) == ADA and {*map(int, gids.split())} == {ADA, CAROL + 1} and umask == "0022"
    assert secrets == "0" and int(capabilities.split()[1], 16) == 0 and no_new.split()[1] == "1"
    row = daemon.row(job)
    assert row.user == "ada" and row.state == "COMPLETED"


def test_no_request_says_whose_a_job_is(daemon: Live) -> None:
    folder = daemon.folder("bob")
    request = {"commands": [{"options": {"name": "x", "command": ["id", "-u"]}, "folder": str(folder)}]}
    for more in ({}, {"user": "ada", "uid": ADA}, {"uid": 0, "user": "root"}):
        answer = asked(
            daemon, "POST", "/v1/jobs", {**request, **more}, "X-User: root\r\nAuthorization: Basic cm9vdDo=\r\n"
        )
        if answer[0] in (200, 201):
            job = answer[1]["jobs"][0]["id"]
            daemon.over(job)
            assert daemon.row(job).user == "bob" and daemon("logs", job).stdout == f"{BOB}\n"
        else:
            assert more and answer[0] == 400, answer
    assert asked(daemon, "GET", "/v1/you")[1]["uid"] == BOB


def asked(daemon: Live, method: str, path: str, body: object = None, more: str = "") -> tuple[int, dict]:  # type: ignore[type-arg]
    """bob's request, letter by letter."""
    text = "" if body is None else json.dumps(body)
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}Content-Length: {len(text)}\r\n\r\n{text}"
    )
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(sys.stdin.buffer.read())\n"
        "while data := s.recv(65536): sys.stdout.buffer.write(data)"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", program, str(daemon.socket)],
        input=request.encode(),
        capture_output=True,
        user=BOB,
        group=BOB,
        extra_groups=[],
        check=True,
        timeout=20,
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    if b"chunked" in head:
        content = content[content.index(b"{") : content.rindex(b"}") + 1]
    return int(head.split()[1]), json.loads(content)


# Others' jobs


def test_what_is_not_yours_is_not_there(daemon: Live) -> None:
    secret = daemon.folder("ada", 0o700)
    job = daemon.submit("--name", "private", "--", "sh", "-c", "echo secret; sleep 600", user="ada", cwd=secret)
    ended = daemon.submit("--name", "over", "--", "echo", "secret", user="ada", cwd=secret)
    daemon.until(job, "RUNNING")
    daemon.over(ended)
    acts = [
        ("cancel",), ("cancel", "--signal", "KILL"), ("hold",), ("release",), ("freeze",), ("thaw",), ("requeue",),
        ("prio", "10"), ("show",), ("why",), ("logs",), ("logs", "-f"), ("wait", "--timeout", "1s"), ("ps",),
    ]  # fmt: skip
    for act in acts:
        missing = ours(daemon(*act, NOBODY_HAS, user="bob"), NOBODY_HAS)
        assert missing.code == 2, (act, missing)
        for other in (job, ended) if act[0] in ("show", "why", "logs", "wait", "ps") else (job,):
            assert ours(daemon(*act, other, user="bob"), other) == missing, act
    for act in (("exec",), ("attach",)):
        tail = ("--", "id") if act == ("exec",) else ()
        missing = ours(daemon(*act, NOBODY_HAS, *tail, user="bob"), NOBODY_HAS)
        for other in (job, ended):
            assert missing.code and ours(daemon(*act, other, *tail, user="bob"), other) == missing, act
    assert daemon("cancel", "private", user="bob").code == 2
    assert '"ada"' not in daemon("ps", "--all", "--json", user="bob").stdout
    assert "over" not in daemon("history", user="bob").stdout and "over" in daemon("history", user="ada").stdout
    assert daemon("history", "--user", "ada", user="bob").code != 0
    assert daemon("usage", "--all-users", user="bob").code != 0
    assert daemon.state(job) == "RUNNING" and daemon.row(job).priority == 50
    with_dependency = daemon("submit", "--dependency", f"afterok:{job}", "--", "true", user="bob")
    unknown = daemon("submit", "--dependency", f"afterok:{NOBODY_HAS}", "--", "true", user="bob")
    assert unknown.code == 2 and ours(with_dependency, job) == ours(unknown, NOBODY_HAS)
    # Its owner has all of it, and nobody else has its files.
    assert daemon("logs", job, user="ada").stdout == "secret\n"
    assert (secret / f"private-{job}.out").stat().st_mode & 0o777 == 0o600


def ours(ran: Ran, job_id: str) -> Ran:
    """An answer, whatever id it was about."""
    return Ran(
        code=ran.code, **{name: re.sub(rf"\b{job_id}\b", "ID", getattr(ran, name)) for name in ("stdout", "stderr")}
    )


def test_the_events_of_others_are_not_told(daemon: Live) -> None:
    program = (
        "import sys; from batchns.client.sync import Client\n"
        "with Client(sys.argv[1]) as c, c.events() as events:\n"
        "    print('listening', flush=True)\n"
        "    for event in events: print(event[1].user, event[1].name, flush=True)\n"
    )
    listener = subprocess.Popen(
        [sys.executable, "-c", program, str(daemon.socket)],
        stdout=subprocess.PIPE,
        text=True,
        user=BOB,
        group=BOB,
        extra_groups=[],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert listener.stdout is not None
    try:
        assert listener.stdout.readline() == "listening\n"
        daemon.over(daemon.submit("--name", "hers", "--", "true", user="ada"))
        daemon.over(daemon.submit("--name", "his", "--", "true", user="bob"))
        assert listener.stdout.readline() == "bob his\n"
    finally:
        listener.kill()
        listener.communicate()


def test_an_administrator_may_do_with_jobs_what_their_owners_may(daemon: Live) -> None:
    job = daemon.submit("--name", "hers", "--", "sh", "-c", "id -u; sleep 600", user="ada")
    daemon.until(job, "RUNNING")
    assert "hers" in daemon("ps", user="carol").stdout
    until(lambda: daemon("logs", job, user="carol").stdout == f"{ADA}\n")
    assert daemon("exec", job, "--", "id", "-u", user="carol").code not in (0, 125)  # its rights are its owner's
    assert daemon("exec", job, "--", "id", "-u").stdout == f"{ADA}\n"  # root has them, and acts as the owner
    assert daemon("prio", "100", job, user="carol").code == 0  # not bound by the queue
    assert daemon("drain", "x", user="carol").code == 0 and daemon("resume", user="carol").code == 0
    for verb in (("drain", "x"), ("resume",)):
        ran = daemon(*verb, user="ada")
        assert ran.code == 1 and "may not" in ran.stderr, ran
    assert daemon("cancel", job, user="carol").code == 0
    assert daemon.over(job).reason == "cancelled by carol"


def test_with_see_all_others_see_jobs_and_no_more(daemon: Live) -> None:
    job = daemon.submit(
        "--name", "hers", "--env", "TOKEN=hunter2", "--", "sh", "-c", "echo secret; sleep 600", user="ada"
    )
    daemon.until(job, "RUNNING")
    daemon.configure(SETTINGS.replace("SEE", 'see = "all"'))
    assert daemon.daemon is not None
    daemon.daemon.send_signal(1)
    until(lambda: "has been read again" in daemon.said)
    assert "hers" in daemon("ps", user="bob").stdout
    shown = daemon("show", job, user="bob")
    assert shown.code == 0 and "RUNNING" in shown.stdout and "hunter2" not in shown.stdout
    assert "hunter2" not in daemon("show", "--json", job, user="bob").stdout
    assert "hunter2" in daemon("show", "--json", job, user="ada").stdout
    for act in (("logs", job), ("exec", job, "--", "id"), ("cancel", job), ("freeze", job), ("prio", "1", job)):
        assert daemon(*act, user="bob").code not in (0, 125), act
    assert daemon.state(job) == "RUNNING"


# Queues


def test_queues_are_for_those_who_may_use_them(daemon: Live) -> None:
    ran = daemon("submit", "--queue", "bobs", "--", "true", user="ada")
    assert ran.code == 2 and "bobs" in ran.stderr, ran
    assert daemon.over(daemon.submit("--queue", "bobs", "--", "true", user="bob")).state == "COMPLETED"
    assert "bobs (not for you)" in daemon("queues", user="ada").stdout
    ran = daemon("submit", "--priority", "61", "--", "true", user="ada")
    assert ran.code == 2 and "60" in ran.stderr, ran


# Files


def test_state_and_run_folders_are_closed_to_users_and_to_jobs(daemon: Live) -> None:
    state, socket = daemon.base / "state", daemon.socket
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(socket)!r})"
    script = (
        f"ls {state} && echo SEEN; cat {state}/batchns.db >/dev/null && echo SEEN; ls {daemon.run} && echo SEEN\n"
        f"ls {daemon.run}/run-*/ && echo SEEN; python3 -c {json.dumps(connect)} && echo SEEN; echo done\n"
    )
    folders = {"ada": daemon.folder("ada"), None: daemon.folder()}
    for user, folder in folders.items():
        job = daemon.submit("--name", "looks", "--", "sh", "-c", script, user=user, cwd=folder)
        assert daemon.over(job).state == "COMPLETED"
        said = daemon("logs", job).stdout
        assert said == "done\n", said
        for bound in (state, daemon.run, daemon.base, daemon.run.parent, Path("/run"), Path("/")):
            job = daemon.submit("--name", "binds", "--bind", f"{bound}:/mnt", "--", "true", user=user, cwd=folder)
            row = daemon.over(job)
            assert row.state == "FAILED" and "batchns" in row.reason, (bound, row)
    outside = subprocess.run(
        ["sh", "-c", f"cat {state}/* {daemon.run}/run-*/*"], user=ADA, capture_output=True, check=False
    )
    assert outside.stdout == b""


# Who turns its paths into others while jobs are launched.
SWAPS = """
import os, sys, time
folder, target, closed = sys.argv[1:]
os.chdir(folder)
def to(make):
    try: os.unlink("out")
    except OSError: pass
    try: make()
    except OSError: pass
end = time.monotonic() + 60
while time.monotonic() < end and not os.path.exists("enough"):
    to(lambda: os.symlink(target, "out"))
    to(lambda: os.link(target, "out"))
    to(lambda: os.symlink(closed + "/made", "out"))
    to(lambda: os.mkfifo("out"))
    to(lambda: open("out", "w").close())
    for there in (closed, folder + "/real"):
        try:
            os.symlink(there, "new"); os.rename("new", "into")
        except OSError: pass
"""


def test_a_race_about_output_files_opens_nothing_that_the_user_may_not(daemon: Live) -> None:
    folder, closed = daemon.folder("bob"), daemon.folder()
    target = closed / "target"
    target.write_text("of root\n")
    target.chmod(0o644)
    (folder / "real").mkdir()
    os.chown(folder / "real", BOB, BOB)
    before = target.stat()
    swapper = subprocess.Popen(
        [sys.executable, "-c", SWAPS, folder, target, closed], user=BOB, group=BOB, extra_groups=[], cwd="/"
    )
    try:
        until(lambda: (folder / "into").is_symlink())
        say = ("--", "sh", "-c", "echo bob was here; echo bob was here >&2")
        arrays = [
            daemon.submit("--name", "file", "--array", "0-11", "--stdout", "out", *say, user="bob", cwd=folder),
            daemon.submit("--name", "way", "--array", "0-11", "--stderr", "into/made", *say, user="bob", cwd=folder),
        ]
        plain = daemon.over(daemon.submit("--stdout", f"{closed}/made", *say, user="bob", cwd=folder))
        assert plain.state == "FAILED" and "permission denied" in plain.reason
        rows = [daemon.over(f"{array}_{n}", 60) for array in arrays for n in range(12)]
    finally:
        (folder / "enough").touch()
        swapper.wait(20)
    assert {row.state for row in rows} <= {"COMPLETED", "FAILED"}
    assert os.listdir(closed) == ["target"] and target.read_text() == "of root\n"
    after = target.stat()
    assert (after.st_mtime_ns, after.st_uid, after.st_mode) == (before.st_mtime_ns, before.st_uid, before.st_mode)


def test_logs_are_read_with_the_rights_of_their_owner(daemon: Live) -> None:
    folder, closed = daemon.folder("bob"), daemon.folder(mode=0o700)
    secret = closed / "secret"
    secret.write_text("of root\n")
    job = daemon.submit("--stdout", "out", "--", "echo", "mine", user="bob", cwd=folder)
    daemon.over(job)
    assert daemon("logs", job, user="bob").stdout == "mine\n"
    folder.chmod(0)
    os.chown(folder, 0, 0)
    assert daemon("logs", job, user="bob").stdout == ""
    os.chown(folder, BOB, BOB)
    folder.chmod(0o755)
    (folder / "out").unlink()
    (folder / "out").symlink_to(secret)
    for who in ("bob", None):
        ran = daemon("logs", job, user=who)
        assert "of root" not in ran.stdout + ran.stderr and ran.code != 0, ran


# Notices


def test_the_notify_command_is_the_owners_and_knows_nothing_of_the_daemon(daemon: Live) -> None:
    told = daemon.base / "told"
    told.mkdir(exist_ok=True)
    told.chmod(0o777)
    job = daemon.submit("--name", "breaks", "--", "sh", "-c", "exit 3", user="ada")
    daemon.over(daemon.submit("--name", "works", "--", "true", user="ada"))
    daemon.over(job)
    (path,) = until(lambda: [one for one in told.iterdir() if one.suffix != ".new"])
    who, _, text = path.read_text().partition(":\n")
    uid, gids, _, *env = who.splitlines()
    assert int(uid) == ADA and {*map(int, gids.split())} == {ADA, CAROL + 1} and path.stat().st_uid == ADA
    assert not [line for line in env if "OF_THE_DAEMON" in line or "BATCHNS_SOCKET" in line], env
    assert f'"{job}"' in text and json.loads(text)
    assert holds(lambda: len(list(told.iterdir())) == 1, 0.5)


def test_a_reload_takes_rights_away_at_once_also_from_who_is_listening(_alone: None) -> None:
    """The administrator reads and follows everybody's jobs until the reload, and from then on nobody's."""
    with way_for_all(), users(ada=ADA, carol=CAROL), live(SETTINGS.replace("SEE", "")) as daemon:
        job = daemon.submit("--", "sh", "-c", "echo hers; until test -e go; do sleep 0.05; done; echo more", user="ada")
        daemon.until(job, "RUNNING")
        following = daemon.popen("logs", "-f", job, user="carol")
        assert following.stdout.readline() == "hers\n"
        entered = daemon.popen("exec", job, "--", "sleep", "600", user="ada")
        assert daemon("ps", user="carol").stdout.count(job)
        settings = SETTINGS.replace("SEE", "connections = 3").replace("carol", "ada")
        reload(daemon, settings + '[network]\noutside = ["10.0.0.0/8"]\n')  # beside the pool: a key that is there twice
        assert "is not used" in daemon.said
        daemon.configure(settings)
        text = daemon.config.read_text().replace("[network]\n", '[network]\noutside = ["10.0.0.0/8"]\n')
        daemon.config.write_text(text)
        reload(daemon)
        assert daemon.said.splitlines()[-1].endswith("needs a restart: network.outside"), daemon.said
        assert "needs a restart: network.outside" in daemon("node").stdout
        _, err = following.communicate(timeout=20)
        assert following.returncode == 2 and "no job" in err, err
        assert daemon("logs", job, user="carol").code == 2 and daemon("drain", user="carol").code == 1
        assert entered.poll() is None  # an owner's right, which nobody has taken away
        assert daemon("drain", user="ada").code == 0 and daemon("resume", user="ada").code == 0
        assert [turned_away(daemon, count) for count in (2, 3)] == [False, True]
        daemon.config.write_text(text.replace('outside = ["10.0.0.0/8"]\n', ""))
        reload(daemon)
        assert daemon.said.splitlines()[-1].endswith("read again") and "restart" not in daemon("node").stdout


def reload(daemon: Live, settings: str | None = None) -> None:
    """Until it has been told of."""
    if settings is not None:
        daemon.configure(settings)
    assert daemon.daemon is not None
    there = len(daemon.said)
    daemon.daemon.send_signal(signal.SIGHUP)
    until(lambda: re.search("read again\n|is not used.*\n", daemon.said[there:]))
    assert holds(lambda: True, 0.2)  # a second line


def turned_away(daemon: Live, count: int) -> bool:
    """Whether carol, who has so many connections open, is refused another."""
    script = (
        "import socket, sys, time\n"
        "held = []\n"
        "for _ in range(int(sys.argv[2]) + 1):\n"
        "    one = socket.socket(socket.AF_UNIX); one.connect(sys.argv[1]); held.append(one)\n"
        "    one.settimeout(0.5)\n"
        "try:\n"
        "    print(held[-1].recv(100)[9:12].decode())\n"
        "except TimeoutError:\n"
        "    print('in')\n"
    )
    ids = {"user": CAROL, "group": CAROL, "extra_groups": ()}
    words = [sys.executable, "-c", script, str(daemon.socket), str(count)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, **ids)  # type: ignore[call-overload]
    time.sleep(0.2)  # they are closed
    return bool(ran.stdout == "503\n")
