"""What a person sees: aligned, bounded, and safe for the terminal it is written to."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import threading
import time
from datetime import datetime

import pytest
from rich.cells import cell_len
from rich.console import Console

from batchns.cli.display import LiveDisplay, PlainDisplay, Snapshot, counts, open_display, picture
from batchns.cli.jsonout import result_to_json
from batchns.cli.tables import fit, make_console, print_results, summary
from batchns.model.lifecycle import State
from batchns.model.result import JobResult, LimitReading, Usage
from batchns.supervise.view import JobView

NOON = datetime(2030, 1, 2, 12, 3, 5)

RESULTS = [
    JobResult(
        job_id="1",
        name="prepare",
        state=State.COMPLETED,
        exit_code=0,
        queued_seconds=0.01,
        running_seconds=1.3,
        usage=Usage(cpu_seconds=1.21, memory_peak_bytes=118 << 20),
    ),
    JobResult(job_id="2_3", name="größe-日本語", state=State.COMPLETED, exit_code=0, attempts=2),
    JobResult(
        job_id="3",
        name="a-name-that-is-longer-than-its-column",
        state=State.OUT_OF_MEMORY,
        signal="SIGKILL",
        reason="the memory limit of 64MiB was reached and the kernel ended one process of the job because of that",
        stderr="/srv/a-folder-with-a-long-name/another-folder/results/a-name-that-is-longer-3.err",
        limits={"blkio_weight": LimitReading(None, why="no disk uses bfq"), "memory": LimitReading(64 << 20)},
    ),
    JobResult(job_id="4", name="\x1b]0;owned\x07", state=State.FAILED, exit_code=3, reason="\x1b[2Jbad\nline\u202e"),
]


def view(job_id: str, state: State, **rest: object) -> JobView:
    return JobView(**{"job_id": job_id, "name": "sweep", "state": state, **rest})  # type: ignore[arg-type]


def printed(results: list[JobResult], width: int = 80, **environ: str) -> str:
    stream = io.StringIO()
    print_results(make_console(stream, environ, width), results, 12.34)
    return stream.getvalue()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(results: list[JobResult], **environ: str) -> str:
    stream = Terminal()
    print_results(make_console(stream, {"TERM": "xterm", **environ}, 80), results, 1.0)
    return stream.getvalue()


def read_terminal(leader: int, received: list[bytes]) -> None:
    """Read until the last writer has closed (EIO)."""
    while True:
        try:
            received.append(os.read(leader, 65536))
        except OSError as error:
            assert error.errno == errno.EIO
            return


class TestTable:
    def test_fits_80_columns_except_for_paths(self) -> None:
        """Nothing is wider than the terminal but a path, which stays whole to be copied."""
        for line in printed(RESULTS).splitlines():
            assert cell_len(line) <= 80 or line.startswith("  stderr: /srv/"), line

    def test_columns_stand_below_their_titles_beside_wide_letters(self) -> None:
        """The state begins at the same terminal column in each row, whatever the names are written in."""
        lines = printed(RESULTS).splitlines()
        start = cell_len(lines[0][: lines[0].index("STATE")])
        for line, result in zip(lines[1:], RESULTS, strict=False):
            assert cell_len(line[: line.index(result.state.value)]) == start

    def test_says_a_shortened_reason_in_full_below(self) -> None:
        told = " ".join(printed(RESULTS).split())
        assert RESULTS[2].reason in told
        assert "a-name-that-is-longer-than-its-column: OUT_OF_MEMORY" in told

    def test_shows_the_reason_as_a_column_where_there_is_room(self) -> None:
        assert "REASON" not in printed(RESULTS, 80)
        assert "REASON" in printed(RESULTS, 120)

    def test_says_a_success_after_a_retry(self) -> None:
        assert re.search(r"2_3 größe-日本語: COMPLETED\n  2 attempts\n", printed(RESULTS))

    def test_names_limits_that_are_not_in_force(self) -> None:
        text = printed(RESULTS)
        assert "blkio_weight is not in force: no disk uses bfq (job 3)" in text
        assert "memory is not" not in text

    def test_marks_what_is_not_known_with_a_dash(self) -> None:
        """A job without readings has no CPU time of zero."""
        row = next(line for line in printed(RESULTS).splitlines() if line.startswith("4 "))
        assert row.split()[-2:] == ["-", "-"]

    @pytest.mark.parametrize("width", [80, 40])
    def test_lines_do_not_end_in_blanks(self, width: int) -> None:
        assert not [line for line in printed(RESULTS, width).splitlines() if line != line.rstrip()]

    def test_an_empty_run_is_one_line(self) -> None:
        assert printed([]) == "no jobs\n"


class TestSafety:
    @pytest.mark.parametrize("text", [printed(RESULTS), on_terminal(RESULTS, NO_COLOR="1")])
    def test_control_characters_of_jobs_never_reach_the_terminal(self, text: str) -> None:
        """Escapes, bells, line breaks and text direction overrides of names and reasons are spelled out."""
        left = re.sub(r"\x1b\[[0-9;]*m", "", text)  # our own bold and dim
        assert not set(left) & {"\x1b", "\x07", "\u202e", "\r"}
        assert r"\x1b[2Jbad\nline\u202e" in text

    def test_plain_lines_and_the_live_view_escape_too(self) -> None:
        stream = io.StringIO()
        plain = PlainDisplay(stream, lambda: NOON)
        live = LiveDisplay(Console(file=io.StringIO(), width=80))
        with plain.shown():
            for display in (plain, live):
                display.job_changed(view("1", State.FAILED, name="\x1b[2J", reason="a\nb", result=RESULTS[3]))
        drawn = io.StringIO()
        Console(file=drawn, width=80).print(picture(live.snapshot(), 20))
        for text in (stream.getvalue(), drawn.getvalue()):
            assert "\x1b" not in text
        assert stream.getvalue().count("\n") == 1


class TestColour:
    def test_is_used_on_a_terminal(self) -> None:
        assert "\x1b[31mOUT_OF_MEMORY" in on_terminal(RESULTS)

    def test_is_not_used_with_no_color(self) -> None:
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", on_terminal(RESULTS, NO_COLOR="1"))

    def test_is_not_used_in_a_pipe(self) -> None:
        assert "\x1b" not in printed(RESULTS, FORCE_COLOR="1", TERM="xterm-256color")


class TestSummary:
    def test_counts_by_state(self) -> None:
        assert summary(RESULTS, 12.34) == "4 jobs: 2 completed, 1 failed, 1 out of memory in 12.3 s"

    def test_speaks_of_one_job_as_one(self) -> None:
        assert summary(RESULTS[:1], 90) == "1 job: 1 completed in 1m30s"


class TestFit:
    @pytest.mark.parametrize("width", range(1, 12))
    def test_never_exceeds_the_width(self, width: int) -> None:
        assert cell_len(fit("日本語の長い名前", width)) <= width
        assert fit("日本語の長い名前", width).endswith("…")

    def test_leaves_what_fits(self) -> None:
        assert fit("日本", 4) == "日本"


class TestPlain:
    def lines(self, *views: JobView) -> list[str]:
        stream = io.StringIO()
        display = PlainDisplay(stream, lambda: NOON)
        with display.shown():
            for one in views:
                display.job_changed(one)
        return stream.getvalue().splitlines()

    def test_one_line_for_each_state_with_stable_columns(self) -> None:
        result = JobResult(job_id="7_3", name="sweep", state=State.FAILED, exit_code=3, running_seconds=4.2)
        assert self.lines(
            view("7_3", State.PENDING, reason="waits for prep"),
            view("7_3", State.PENDING, reason="waits for a CPU"),
            view("7_3", State.STARTING),
            view("7_3", State.RUNNING),
            view("7_3", State.RUNNING, running_seconds=2.0),
            view("7_3", State.COMPLETING),
            view("7_3", State.FAILED, reason="exit code 3", result=result),
        ) == [
            "12:03:05  7_3  sweep  PENDING  waits for prep",
            "12:03:05  7_3  sweep  RUNNING",
            "12:03:05  7_3  sweep  FAILED  exit 3  4.2s  exit code 3",
        ]

    def test_tells_another_attempt(self) -> None:
        told = self.lines(
            view("1", State.RUNNING), view("1", State.PENDING, attempt=2), view("1", State.RUNNING, attempt=2)
        )
        assert told[1:] == ["12:03:05  1  sweep  PENDING  attempt 2", "12:03:05  1  sweep  RUNNING  attempt 2"]

    def test_a_reader_that_does_not_read_holds_up_nobody(self) -> None:
        """More lines than a pipe holds are taken without a wait; all arrive once somebody reads."""
        reader, writer = os.pipe()
        received: list[bytes] = []

        def read_all() -> None:
            with os.fdopen(reader, "rb") as pipe:
                received.extend(pipe.readlines())

        late = threading.Thread(target=read_all)
        with os.fdopen(writer, "w") as stream:
            display = PlainDisplay(stream)
            with display.shown():
                started = time.monotonic()
                for number in range(5000):
                    display.job_changed(view(str(number), State.RUNNING))
                took = time.monotonic() - started
                late.start()
        late.join(10)
        assert took < 2.0
        assert len(received) == 5000

    def test_a_reader_that_went_away_is_no_error(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
        display = PlainDisplay(stream)
        with display.shown():
            display.job_changed(view("1", State.RUNNING))
        with pytest.raises(BrokenPipeError):
            stream.close()


class TestLive:
    def snapshot(self, running: int, ends: int = 0) -> Snapshot:
        now = [100.0]
        display = LiveDisplay(Console(file=io.StringIO(), width=80), lambda: now[0])
        for number in range(running):
            display.job_changed(view(f"9_{number}", State.RUNNING, time_limit=60.0, running_seconds=3.0))
        for number in range(ends):
            result = JobResult(job_id=f"8_{number}", name="sweep", state=State.COMPLETED)
            display.job_changed(view(f"8_{number}", State.COMPLETED, result=result))
        display.job_changed(view("10", State.PENDING))
        now[0] = 104.2
        return display.snapshot()

    def lines(self, snapshot: Snapshot, height: int) -> list[str]:
        stream = io.StringIO()
        Console(file=stream, width=80).print(picture(snapshot, height))
        return stream.getvalue().splitlines()

    @pytest.mark.parametrize("height", [5, 10, 24, 60])
    def test_never_grows_beyond_the_terminal_and_counts_what_is_folded(self, height: int) -> None:
        lines = self.lines(self.snapshot(40, 9), height)
        assert len(lines) < height
        assert all(cell_len(line) <= 80 for line in lines)
        shown = sum("9_" in line for line in lines)
        assert any(f"and {40 - shown} more" in line for line in lines)

    def test_shows_all_when_there_is_room(self) -> None:
        lines = self.lines(self.snapshot(3, 2), 24)
        assert len(lines) == 1 + 3 + 2
        assert "more" not in "".join(lines)

    def test_time_advances_between_changes(self) -> None:
        """The supervisor tells of changes only: 3.0 s at 100.0 is 7.2 s at 104.2."""
        assert "7.2s" in self.lines(self.snapshot(1), 24)[1]

    def test_counts_each_job_once(self) -> None:
        found = counts(self.snapshot(3, 2))
        assert found == {"pending": 1, "running": 3, "suspended": 0, "done": 2, "failed": 0}

    def test_a_failure_that_a_retry_follows_is_pending(self) -> None:
        display = LiveDisplay(Console(file=io.StringIO(), width=80))
        display.job_changed(view("1", State.FAILED, result=None))
        assert counts(display.snapshot())["pending"] == 1

    def test_on_a_real_terminal_it_draws_at_most_ten_times_a_second_and_takes_itself_away(self) -> None:
        leader, follower = pty.openpty()
        chunks: list[bytes] = []
        thread = threading.Thread(target=read_terminal, args=(leader, chunks))
        thread.start()
        with os.fdopen(follower, "w") as stream:
            with open_display(stream, {"TERM": "xterm"}) as display:
                assert isinstance(display, LiveDisplay)
                for number in range(2000):
                    display.job_changed(view(str(number % 50), State.RUNNING, running_seconds=number / 1000))
                    time.sleep(0.0005)
            stream.flush()
        thread.join(5)
        os.close(leader)
        text = b"".join(chunks).decode()
        drawn = text.count("batchns")
        assert 2 <= drawn <= 25  # of two seconds or so; one for each change would be 2000
        assert text.rstrip().endswith(("\x1b[2K", "\x1b[?25h", "\x1b[1A\x1b[2K"))

    def test_a_stopped_terminal_holds_up_nobody(self) -> None:
        """The terminal takes not one byte more: changes are taken all the same, and drawn once it goes on."""
        leader, follower = pty.openpty()
        filler = os.open(os.ttyname(follower), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        received: list[bytes] = []
        reader = threading.Thread(target=read_terminal, args=(leader, received))
        with os.fdopen(follower, "w") as stream:
            display = LiveDisplay(make_console(stream, {"TERM": "xterm"}))
            with display.shown():
                with pytest.raises(BlockingIOError):
                    while True:
                        os.write(filler, b"x" * 4096)
                longest = 0.0
                for _ in range(60):
                    before = time.monotonic()
                    display.job_changed(view("1", State.RUNNING))
                    longest = max(longest, time.monotonic() - before)
                    time.sleep(0.01)
                reader.start()
        os.close(filler)
        reader.join(5)
        os.close(leader)
        assert longest < 0.3
        assert b"1 running" in b"".join(received)

    @pytest.mark.parametrize("term", ["dumb", ""])
    def test_a_terminal_that_cannot_redraw_gets_plain_lines(self, term: str) -> None:
        with open_display(Terminal(), {"TERM": term}) as display:
            assert isinstance(display, PlainDisplay)


class TestJson:
    KEYS = (
        "job_id",
        "name",
        "state",
        "exit_code",
        "signal",
        "reason",
        "attempts",
        "queued_seconds",
        "running_seconds",
        "frozen_seconds",
        "cpu_seconds",
        "memory_peak_bytes",
        "io_read_bytes",
        "io_write_bytes",
        "net_sent_bytes",
        "net_received_bytes",
        "stdout",
        "stderr",
        "limits",
    )

    @pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.job_id)
    def test_is_one_line_with_every_key_in_order(self, result: JobResult) -> None:
        line = result_to_json(result)
        assert line.isascii() and line.isprintable()
        assert tuple(json.loads(line)) == self.KEYS

    def test_says_what_is_in_force_or_why_not(self) -> None:
        limits = {
            "memory": LimitReading(67108864, source="memory.max"),
            "cpuset": LimitReading("0-1", source="cpuset.cpus"),
            "blkio_weight": LimitReading(None, why="no disk uses bfq"),
        }
        result = JobResult(job_id="1", name="x", state=State.COMPLETED, limits=limits)
        assert json.loads(result_to_json(result))["limits"] == {
            "memory": {"value": 67108864, "source": "memory.max"},
            "cpuset": {"value": "0-1", "source": "cpuset.cpus"},
            "blkio_weight": {"value": None, "why": "no disk uses bfq"},
        }

    def test_a_name_survives_the_way_there_and_back(self) -> None:
        name = "größe\x1b\x7f\udcff日本"
        assert json.loads(result_to_json(JobResult(job_id="1", name=name, state=State.FAILED)))["name"] == name

    def test_what_is_not_known_is_null(self) -> None:
        record = json.loads(result_to_json(JobResult(job_id="1", name="x", state=State.FAILED)))
        assert record["cpu_seconds"] is None and record["io_read_bytes"] is None


def test_of_many_results_those_that_did_not_complete_have_rows_and_the_rest_is_counted() -> None:
    many = [JobResult(job_id=f"9_{task}", name="sweep", state=State.COMPLETED, exit_code=0) for task in range(10_000)]
    many[7000] = JobResult(job_id="9_7000", name="sweep", state=State.FAILED, exit_code=3, reason="exit code 3")
    lines = printed(many).splitlines()
    assert len(lines) < 15
    assert any(line.startswith("9_7000") for line in lines)
    assert "9999 more jobs have no row here: --json has every job" in lines
    assert lines[-1].startswith("10000 jobs: 9999 completed, 1 failed")
