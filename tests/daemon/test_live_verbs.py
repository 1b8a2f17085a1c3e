"""Every verb, from the command line to the kernel and back."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator

import pytest

from ..people import users, way_for_all
from ..system.conftest import until
from .live import Live, children, holds, live, lives, ticks, toml

pytestmark = pytest.mark.kernel

SETTINGS = """
[node]
memory = "1GiB"
[defaults]
grace_time = "20s"
[schedule]
learn = false
[queues.low]
priority = 10
max_priority = 30
"""
SPIN = ("sh", "-c", "while :; do :; done")
SLEEP = ("sleep", "600")


@pytest.fixture(scope="module")
def machine(_alone: None) -> Iterator[Live]:
    with way_for_all(), users(ada=31001), live(SETTINGS) as made:
        yield made


@pytest.fixture
def daemon(machine: Live) -> Iterator[Live]:
    yield machine
    machine.clear()


def lines(text: str, *wanted: str) -> bool:
    """Whether these stand in it, in this order."""
    found = 0
    for one in wanted:
        at = text.find(one, found)
        if at < 0:
            return False
        found = at + len(one)
    return True


# submit


def test_files_and_stdin_and_options_become_jobs(daemon: Live) -> None:
    folder = daemon.folder()
    (folder / "one.toml").write_text(toml(name="one", command=["sh", "-c", "echo one $A; pwd"]) + 'env.A = "a"\n')
    (folder / "two.toml").write_text(toml(name="two", script="echo two; exit 3\n"))
    three = toml(name="three", command=["echo", "three"])
    ran = daemon("submit", "--parsable", "--priority", "20", "one.toml", "two.toml", "-", cwd=folder, given=three)
    assert ran.code == 0, ran
    ids = ran.stdout.split()
    assert [daemon.row(job).name for job in ids] == ["one", "two", "three"]
    assert {daemon.row(job).priority for job in ids} == {20}
    ended = [daemon.over(job) for job in ids]
    assert [(one.state, one.exit_code) for one in ended] == [("COMPLETED", 0), ("FAILED", 3), ("COMPLETED", 0)]
    assert daemon("logs", ids[0]).stdout == f"one a\n{folder}\n"
    assert (folder / f"three-{ids[2]}.out").read_text() == "three\n"


def test_of_several_files_none_is_submitted_when_one_is_wrong(daemon: Live) -> None:
    folder = daemon.folder()
    (folder / "good.toml").write_text(toml(name="good", command=["true"]))
    (folder / "bad.toml").write_text('name = "bad"\ncommand = ["true"]\npriorty = 3\n')
    ran = daemon("submit", "good.toml", "bad.toml", cwd=folder)
    assert ran.code == 2 and "bad.toml:3" in ran.stderr and "priority" in ran.stderr, ran
    too_large = daemon(
        "submit", "good.toml", "-", cwd=folder, given='name = "x"\ncommand = ["true"]\nresources.cpus = 512\n'
    )
    assert too_large.code == 2 and "cpus" in too_large.stderr, too_large
    with daemon.client() as client:
        assert [job for job in client.jobs(ended=True) if job.name == "good"] == []


def test_submit_waits_and_returns_what_became_of_it(daemon: Live) -> None:
    good = daemon("submit", "--wait", "--name", "good", "--", "true")
    assert good.code == 0 and "good: COMPLETED" in good.stdout, good
    bad = daemon("submit", "--wait", "--name", "bad", "--", "sh", "-c", "exit 7")
    assert bad.code == 1 and "bad: FAILED" in bad.stdout and "exit code 7" in bad.stdout, bad
    assert daemon("submit", "--memory", "2kB", "--", "true").code == 2


def test_a_priority_above_the_queues_is_refused(daemon: Live) -> None:
    ran = daemon("submit", "--queue", "low", "--priority", "31", "--", "true", user="ada")
    assert ran.code == 2 and "30" in ran.stderr, ran
    job = daemon.submit("--queue", "low", "--hold", "--", "true", user="ada")
    assert daemon.row(job).priority == 30
    ran = daemon("prio", "31", job, user="ada")
    assert ran.code == 1 and "up to 30" in ran.stdout + ran.stderr, ran
    assert daemon("prio", "31", job).code == 0  # an administrator


# Many


def test_an_array_has_ranges_and_a_throttle(daemon: Live) -> None:
    array = daemon.submit(
        "--name", "sweep", "--array", "0-5%2", "--", "sh", "-c", "echo $BATCHNS_ARRAY_TASK_ID; sleep 60"
    )
    daemon.until(f"{array}_1", "RUNNING")
    with daemon.client() as client:
        states = [job.state for job in client.jobs(select=[array])]
    assert states[2:] == ["PENDING"] * 4, states
    assert "2 tasks at a time" in daemon("why", f"{array}_4").stdout
    ran = daemon("cancel", f"{array}_1-3,5")
    assert ran.code == 0 and [line.split()[0] for line in ran.stdout.splitlines()] == [
        f"{array}_{n}" for n in (1, 2, 3, 5)
    ], ran
    daemon.until(f"{array}_4", "RUNNING")
    assert daemon.state(f"{array}_0") == "RUNNING"
    until(lambda: daemon.output(f"{array}_4") == "4\n")
    shown = daemon("show", array).stdout
    assert lines(shown, f"{array}_0", "RUNNING", f"{array}_1", "CANCELLED", f"{array}_4", "RUNNING")
    assert daemon("cancel", "sweep").code == 0  # by its name: the two that are left
    assert [daemon.over(f"{array}_{n}").state for n in (0, 4)] == ["CANCELLED"] * 2


def test_why_of_an_array_is_of_its_next_task(daemon: Live) -> None:
    array = daemon.submit("--hold", "--array", "0-3", "--", "true")
    ran = daemon("why", array)
    assert ran.code == 0 and ran.stdout == f"{array}_0: waits: it is held\n", ran


def test_a_name_means_all_jobs_that_have_it_and_are_not_over(daemon: Live) -> None:
    jobs = [daemon.submit("--name", "same", "--hold", "--", "true") for _ in range(2)]
    other = daemon.submit("--name", "other", "--hold", "--", "true")
    assert daemon("release", "same").code == 0
    assert [daemon.over(job).state for job in jobs] == ["COMPLETED"] * 2
    assert daemon.state(other) == "PENDING"
    assert daemon("release", "same").code == 2


# Looking


def test_why_says_what_is_lacking_and_when_it_is_expected(daemon: Live) -> None:
    first = daemon.submit("--cpus", "2", "--time-limit", "100s", "--", *SLEEP)
    began = daemon.until(first, "RUNNING")
    second = daemon.submit("--cpus", "2", "--", "true")
    with daemon.client() as client:
        why = client.why(second)
    assert why.code == "resources" and why.lacks["resource"] == "cpus" and why.lacks["wanted"] == 2
    assert why.expected is not None and abs(why.expected - (began.started + 100)) < 20, (why, began)
    ran = daemon("why", second)
    assert lines(ran.stdout, f"{second}: waits for cpus: 2 needed", "expected in 1m"), ran
    assert "is RUNNING" in daemon("why", first).stdout


def test_logs_are_followed_across_attempts(daemon: Live) -> None:
    script = "echo attempt $BATCHNS_ATTEMPT; test $BATCHNS_ATTEMPT = 2 || sleep 60; echo last"
    job = daemon.submit("--", "sh", "-c", script)
    follower = daemon.popen("logs", "-f", job)
    assert follower.stdout.readline() == "attempt 1\n"
    assert daemon("requeue", job).code == 0
    assert daemon.over(job).attempt == 2
    rest, _ = follower.communicate(timeout=20)
    assert rest == "attempt 2\nlast\n" and follower.returncode == 0
    ran = daemon("logs", "--attempt", "3", job)
    assert (ran.code, ran.stderr) == (2, f"job {job} has no attempt 3 - see batchns show {job}\n")
    assert daemon("logs", "-n", "1", job).stdout == "last\n"


def test_what_is_over_is_in_history_and_usage(daemon: Live) -> None:
    busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    jobs = [daemon.submit("--name", "counts", "--", "sh", "-c", busy) for _ in range(2)]
    for job in jobs:
        daemon.over(job)
    listed = daemon("history", "--name", "counts", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in listed] and {json.loads(line)["id"] for line in listed} == set(jobs)
    (use,) = [json.loads(line) for line in daemon("usage", "--name", "counts", "--json").stdout.splitlines()]
    assert use["jobs"] == 2 and use["completed"] == 2 and use["memory_peak"] > 100_000 and use["cpu_efficiency"] > 0.1


def test_node_and_queues_count_what_is_there(daemon: Live) -> None:
    running, held = daemon.submit("--cpus", "1", "--", *SLEEP), daemon.submit("--queue", "low", "--hold", "--", "true")
    daemon.until(running, "RUNNING")
    node = json.loads(daemon("node", "--json").stdout)
    assert node["state"] == "open" and (node["running"], node["waiting"]) == (1, 1)
    assert node["total"]["cpus"] - node["free"]["cpus"] == 1
    queues = {row["name"]: row for row in map(json.loads, daemon("queues", "--json").stdout.splitlines())}
    assert queues["low"]["waiting"] == 1 and queues["normal"]["running"] == 1
    assert {row["preempt_mode"] for row in queues.values()} == {"suspend"}, "of its own jobs, whomever it preempts"
    listed = daemon("ps").stdout
    assert lines(listed, running, "RUNNING", held, "PENDING", "it is held") and max(map(len, listed.splitlines())) <= 80


# Waiting


def test_waits_exit_code_says_what_became_of_the_jobs(daemon: Live) -> None:
    good, bad = daemon.submit("--", "true"), daemon.submit("--", "false")
    assert daemon("wait", good).code == 0
    ran = daemon("wait", good, bad)
    assert ran.code == 1 and "1 completed, 1 failed" in ran.stdout, ran
    long = daemon.submit("--", *SLEEP)
    began = time.monotonic()
    assert daemon("wait", "--timeout", "1s", long).code == 1
    assert time.monotonic() - began < 10 and daemon.state(long) in ("STARTING", "RUNNING")
    waiting = daemon.popen("wait", long)
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=20)
    assert waiting.returncode == 130 and daemon.state(long) == "RUNNING"
    assert daemon("wait", "999").code == 2


# Ends


def test_what_waits_and_is_cancelled_never_starts(daemon: Live) -> None:
    folder = daemon.folder()
    job = daemon.submit("--hold", "--", "touch", "ran", cwd=folder)
    ran = daemon("cancel", job)
    assert ran.code == 0 and ran.stdout == f"{job} cancelled\n"
    row = daemon.over(job)
    assert row.state == "CANCELLED" and row.started is None and not (folder / "ran").exists()


def test_what_runs_is_asked_to_end_and_a_second_cancel_kills(daemon: Live) -> None:
    polite = daemon.submit("--", "sh", "-c", "trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    stubborn = daemon.submit("--", "sh", "-c", "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done")
    for job in (polite, stubborn):
        until(lambda job=job: daemon.output(job) == "up\n")
    assert daemon("cancel", polite, stubborn).code == 0
    assert daemon.over(polite, 10).state == "CANCELLED"
    assert daemon("logs", polite).stdout == "up\nasked\n"
    assert daemon.state(stubborn) == "COMPLETING"
    assert holds(lambda: daemon.state(stubborn) == "COMPLETING", 0.5)
    began = time.monotonic()
    assert "killed" in daemon("cancel", stubborn).stdout
    row = daemon.over(stubborn)
    assert row.signal == "SIGKILL" and time.monotonic() - began < 10  # not its 20 s of grace
    assert daemon("logs", stubborn).stdout == "up\nasked\n"


def test_a_signal_is_sent_and_nothing_else(daemon: Live) -> None:
    job = daemon.submit("--", "sh", "-c", "trap 'echo heard; ' USR1; echo up; while :; do sleep 0.05; done")
    until(lambda: daemon.output(job) == "up\n")
    assert daemon("cancel", "--signal", "USR1", job).code == 0
    until(lambda: daemon.output(job) == "up\nheard\n")
    assert daemon.state(job) == "RUNNING"
    assert daemon("cancel", "--signal", "STOP", job).code == 2


def test_a_job_that_is_over_cannot_be_cancelled(daemon: Live) -> None:
    job = daemon.submit("--", "true")
    daemon.over(job)
    ran = daemon("cancel", job)
    assert ran.code == 2 and "over" in ran.stderr, ran


# Order


def test_the_held_waits_and_the_larger_priority_goes_first(daemon: Live) -> None:
    block = daemon.submit("--cpus", "2", "--", *SLEEP)
    daemon.until(block, "RUNNING")
    folder = daemon.folder()
    jobs = [
        daemon.submit("--cpus", "2", "--", "sh", "-c", f"echo {name} >> order", cwd=folder) for name in ("a", "b", "c")
    ]
    assert daemon("prio", "70", jobs[1]).code == 0 and daemon("hold", jobs[0]).code == 0
    assert daemon.row(jobs[1]).priority == 70
    daemon("cancel", block)
    daemon.over(jobs[2])
    assert daemon.state(jobs[0]) == "PENDING" and "held" in daemon("why", jobs[0]).stdout
    assert daemon("release", jobs[0]).code == 0
    daemon.over(jobs[0])
    assert (folder / "order").read_text().split() == ["b", "c", "a"]


def test_a_frozen_job_uses_no_cpu_until_it_is_thawed(daemon: Live) -> None:
    job = daemon.submit("--cpus", "2", "--", *SPIN)
    daemon.until(job, "RUNNING")
    (command,) = until(lambda: children(daemon.pid(job)))
    there = ticks(command)
    until(lambda: ticks(command) > there)
    assert daemon("freeze", job).code == 0
    daemon.until(job, "SUSPENDED")
    assert daemon("freeze", job).stdout == f"{job} frozen\n"
    before = ticks(command)
    other = daemon.submit("--cpus", "2", "--", *SLEEP)  # has its CPUs meanwhile
    daemon.until(other, "RUNNING")
    assert daemon("why", job).stdout == f"{job}: frozen until batchns thaw {job}\n"
    assert daemon("thaw", job).code == 0
    assert daemon.row(job).reason == "thawed, waits for its CPUs"
    assert "waits for cpus" in daemon("why", job).stdout and ticks(command) == before
    assert daemon("cancel", other).code == 0
    row = daemon.until(job, "RUNNING")
    assert row.frozen_seconds > 0.3
    until(lambda: ticks(command) > before)
    assert daemon("thaw", job).code == 1


def test_a_job_that_is_put_back_runs_again(daemon: Live) -> None:
    folder = daemon.folder()
    job = daemon.submit("--", "sh", "-c", "echo $BATCHNS_ATTEMPT >> ran; sleep 60", cwd=folder)
    until(lambda: (folder / "ran").exists())
    ran = daemon("requeue", job)
    assert ran.code == 0, ran
    until(lambda: (folder / "ran").read_text() == "1\n2\n")
    assert daemon.row(job).attempt == 2 and daemon.state(job) == "RUNNING"
    held = daemon.submit("--hold", "--", "true")
    assert daemon("requeue", held).code == 1


# In a job


def test_exec_has_pipes_and_the_commands_exit_code(daemon: Live) -> None:
    job = daemon.submit("--name", "host", "--env", "OF=job", "--", *SLEEP)
    daemon.until(job, "RUNNING")
    script = 'tr a-z A-Z; echo "$OF $BATCHNS_JOB_ID" >&2; ls /proc | grep -c "^[0-9]*$" >&2; exit 4'
    ran = daemon("exec", job, "--", "sh", "-c", script, given="hello\n" * 20_000)
    assert ran.code == 4 and ran.stdout == "HELLO\n" * 20_000
    text, count = ran.stderr.splitlines()
    assert text == f"job {job}" and int(count) < 10  # its processes, and no others
    for program, code, message in (
        ("no-such-program", 127, "exec: no-such-program: No such file or directory - no such command inside"),
        ("/etc/passwd", 126, "exec: /etc/passwd: Permission denied"),
        ("/etc", 126, "exec: /etc: Permission denied"),
    ):
        for terminal in ((), ("-t",)):
            ran = daemon("exec", *terminal, job, "--", program)
            assert (ran.code, ran.stdout) == (code, "") and message in ran.stderr, ran
    assert daemon("exec", job, "--", "sh", "-c", "kill -9 $$").code == 137
    process = daemon.popen(
        "exec", job, "--", "sh", "-c", "trap 'echo int; exit 6' INT; echo up; while :; do sleep 0.05; done"
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "int\n" and process.returncode == 6
    held = daemon.submit("--hold", "--", "true")
    ran = daemon("exec", held, "--", "true")
    assert ran.code not in (0, 127) and "PENDING" in ran.stderr, ran


@pytest.mark.parametrize("terminal", [(), ("-t",)], ids=["pipes", "terminal"])
def test_a_process_that_ignores_it_all_is_gone_with_its_client_and_the_job_runs_on(
    daemon: Live, terminal: tuple[str, ...]
) -> None:
    folder = daemon.folder()
    job = daemon.submit("--", *SLEEP, cwd=folder)
    daemon.until(job, "RUNNING")
    script = "trap '' HUP INT TERM; while :; do date +%N > beat; sleep 0.05; done"
    process = daemon.popen("exec", *terminal, job, "--", "sh", "-c", script)
    until(lambda: (folder / "beat").exists())
    process.kill()

    def silent() -> bool:
        before = (folder / "beat").read_text()
        return holds(lambda: (folder / "beat").read_text() == before, 0.5)

    until(silent, 8)
    assert daemon.state(job) == "RUNNING" and lives(daemon.pid(job))


def test_a_process_is_killed_and_stopped_by_signals(daemon: Live) -> None:
    folder = daemon.folder()
    job = daemon.submit("--", *SLEEP, cwd=folder)
    daemon.until(job, "RUNNING")
    with daemon.client() as client, client.execute(job, ("sh", "-c", "echo $$; exec sleep 60")) as process:
        found = process.read()
        assert found is not None
        for number, state in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S")):
            process.signal(number)
            until(
                lambda state=state: (
                    f" {state} " in daemon("exec", job, "--", "cat", f"/proc/{int(found[1])}/stat").stdout
                )
            )
        process.signal(signal.SIGKILL)
        assert process.wait() == (None, signal.SIGKILL)
    assert daemon.state(job) == "RUNNING"


def test_attach_is_a_shell_on_a_terminal(daemon: Live) -> None:
    job = daemon.submit("--", *SLEEP)
    daemon.until(job, "RUNNING")
    ours, theirs = pty.openpty()
    process = daemon.popen("attach", job, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, b'test -t 0 && stty size && echo "in $BATCHNS_JOB_ID" | tr i I\n')
    seen = read_until(ours, rf"In {job}\b")
    assert re.search(r"\d+ \d+", seen), seen
    os.write(ours, b"exit 9\n")
    assert process.wait(20) == 9
    os.close(ours)


def read_until(terminal: int, pattern: str) -> str:
    seen, end = "", time.monotonic() + 20
    while not re.search(pattern, seen):
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode()
    return seen


# The node


def test_a_drained_node_starts_nothing_until_it_is_resumed(daemon: Live) -> None:
    running = daemon.submit("--", *SLEEP)
    daemon.until(running, "RUNNING")
    assert daemon("drain", "new", "disk").code == 0
    try:
        job = daemon.submit("--", "true")
        assert holds(lambda: daemon.state(job) == "PENDING", 0.5) and daemon.state(running) == "RUNNING"
        assert "new disk" in daemon("why", job).stdout and "new disk" in daemon("node").stdout
    finally:
        assert daemon("resume").code == 0
    assert daemon.over(job).state == "COMPLETED"


# run --remote


def test_run_remote_shows_output_as_it_comes_and_returns_the_exit_code(daemon: Live) -> None:
    folder = daemon.folder()
    script = "echo one; echo error >&2; until test -e go; do sleep 0.05; done; echo two; exit 4"
    process = daemon.popen("run", "--remote", "--", "sh", "-c", script, cwd=folder)
    assert process.stdout.readline() == "one\n"
    (folder / "go").touch()
    out, err = process.communicate(timeout=20)
    assert out == "two\n" and process.returncode == 4
    assert "error" in err


def test_ctrl_c_on_run_remote_cancels_and_a_second_one_kills(daemon: Live) -> None:
    script = "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done"
    process = daemon.popen("run", "--remote", "--name", "stubborn", "--", "sh", "-c", script)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL  # as the job's command
    with daemon.client() as client:
        (job,) = [one for one in client.jobs(ended=True) if one.name == "stubborn"]
    assert daemon.over(job.id).signal == "SIGKILL"


def test_a_job_outlives_the_terminal_of_run_remote(daemon: Live) -> None:
    folder = daemon.folder()
    process = daemon.popen(
        "run", "--remote", "--name", "goes-on", "--", "sh", "-c", "echo up; sleep 1; touch done", cwd=folder
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=20)
    until(lambda: (folder / "done").exists())
