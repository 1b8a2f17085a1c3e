"""What a person sees while jobs run: a live view on a terminal, plain lines everywhere else.

1. `job_changed` only remembers: a thread of the display's own writes, so a terminal that is stopped with Ctrl-S or a
   pipe that nobody reads never holds up the supervisor.
2. What is shown is computed by pure functions from the remembered views and the time.
3. A view never grows beyond the terminal: rows that do not fit are counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from queue import SimpleQueue
from typing import Literal, TextIO

from attrs import frozen
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchns.cli.tables import NAME_WIDTH, STYLES, exit_text, fit, make_console
from batchns.model.lifecycle import State
from batchns.model.result import JobResult
from batchns.supervise.view import JobView, Observer
from batchns.units import format_duration, format_size, printable

REFRESHES_PER_SECOND = 8
LIVE_ROWS = 16  # of jobs that are under way; a taller terminal is left to what was there before
RECENT_ENDS = 4
BAR_WIDTH = 16
REASON_WIDTH = 24
STATE_WIDTH = len(State.OUT_OF_MEMORY.value)
TIME_WIDTH = 6
_TIME_COLUMN = 3

_UNDER_WAY = frozenset({State.STARTING, State.RUNNING, State.SUSPENDING, State.SUSPENDED, State.COMPLETING})
_ADVANCING = frozenset({State.RUNNING, State.SUSPENDING, State.COMPLETING})


@frozen
class _Seen:
    """A view and when it came (seconds on the display's clock)."""

    view: JobView
    at: float

    def running_seconds(self, now: float) -> float:
        """The supervisor tells of changes only, so between two of them a running job's time advances here."""
        more = now - self.at if self.view.state in _ADVANCING else 0.0
        return self.view.running_seconds + max(0.0, more)


@frozen
class Snapshot:
    """All that one picture needs: every job's last view, the latest ends (newest first) and the time in seconds."""

    seen: tuple[_Seen, ...]
    ends: tuple[JobResult, ...]
    elapsed: float
    now: float


def counts(snapshot: Snapshot) -> dict[str, int]:
    """Jobs by what a person asks first: pending, running (suspended ones named apart), done, failed."""
    number = {"pending": 0, "running": 0, "suspended": 0, "done": 0, "failed": 0}
    for seen in snapshot.seen:
        state = seen.view.state
        if state in (State.SUSPENDING, State.SUSPENDED):
            number["suspended"] += 1
        elif state in _UNDER_WAY:
            number["running"] += 1
        elif seen.view.result is None:  # PENDING, or a final state that a retry follows
            number["pending"] += 1
        else:
            number["done" if state is State.COMPLETED else "failed"] += 1
    return number


_COUNT_STYLES = {"pending": "dim", "running": "cyan", "suspended": "yellow", "done": "green", "failed": "bold red"}


def _header(snapshot: Snapshot) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    line = Text("batchns", style="bold")
    for word, number in counts(snapshot).items():
        if number or word != "suspended":
            line.append(f"   {number} {word}", _COUNT_STYLES[word] if number else "dim")
    grid.add_row(line, Text(format_duration(snapshot.elapsed), "bold"))
    return grid


def _progress(seen: _Seen, now: float) -> tuple[RenderableType, str]:
    limit = seen.view.time_limit
    if limit:
        ran = seen.running_seconds(now)
        near = ran > 0.9 * limit
        bar = ProgressBar(limit, min(ran, limit), BAR_WIDTH, complete_style="red" if near else "cyan")
        return bar, f"of {format_duration(limit)}"
    memory = seen.view.memory
    return Text(""), "" if memory is None else format_size(memory)


def _grid(*widths: int | None) -> Table:
    """Columns with a least width each, so that rows of jobs and of ends stand below each other and do not jump."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for number, width in enumerate(widths):
        justify: Literal["left", "right"] = "right" if number == _TIME_COLUMN else "left"
        grid.add_column(justify=justify, min_width=width, no_wrap=True, overflow="ellipsis")
    return grid


def _job_rows(snapshot: Snapshot, rows: int, names: tuple[int, int]) -> Table:
    grid = _grid(*names, STATE_WIDTH, TIME_WIDTH, None, None)
    running = [seen for seen in snapshot.seen if seen.view.state in _UNDER_WAY]
    shown = running if len(running) <= rows else running[: max(0, rows - 1)]
    for seen in shown:
        view = seen.view
        bar, note = _progress(seen, snapshot.now)
        grid.add_row(
            Text(f"  {printable(view.job_id)}"),
            Text(fit(printable(view.name), NAME_WIDTH)),
            Text(view.state.value, STYLES[view.state]),
            Text(format_duration(seen.running_seconds(snapshot.now))),
            bar,
            Text(note, "dim"),
        )
    if len(shown) < len(running):
        grid.add_row("", Text(f"and {len(running) - len(shown)} more", "dim"))
    return grid


def _end_rows(snapshot: Snapshot, rows: int, names: tuple[int, int]) -> Table:
    grid = _grid(*names, STATE_WIDTH, TIME_WIDTH, None)
    for result in snapshot.ends[:rows]:
        grid.add_row(
            Text(f"  {printable(result.job_id)}", "dim"),
            Text(fit(printable(result.name), NAME_WIDTH), "dim"),
            Text(result.state.value, STYLES[result.state]),
            Text(format_duration(result.running_seconds), "dim"),
            Text(fit(printable(result.reason), REASON_WIDTH), "dim"),
        )
    return grid


def _name_widths(snapshot: Snapshot) -> tuple[int, int]:
    """The widths of the id and name columns: over all jobs, so that they stay as jobs come and go."""
    ids = max((cell_len(printable(seen.view.job_id)) for seen in snapshot.seen), default=0)
    names = max((cell_len(fit(printable(seen.view.name), NAME_WIDTH)) for seen in snapshot.seen), default=0)
    return ids + 2, names


def picture(snapshot: Snapshot, height: int) -> Group:
    """The live view in at most `height` lines (3 and more): header, jobs under way, latest ends. Pure."""
    room = max(1, height - 2)  # one line for the header, one for the cursor
    ends = min(len(snapshot.ends), RECENT_ENDS, room // 3)
    rows = min(LIVE_ROWS, room - ends)
    names = _name_widths(snapshot)
    parts: list[RenderableType] = [_header(snapshot), _job_rows(snapshot, rows, names)]
    if ends:
        parts.append(_end_rows(snapshot, ends, names))
    return Group(*parts)


class LiveDisplay:
    """Redraws one compact view on a terminal, and takes it away at the end to make room for the result table."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()  # held while remembering or copying, never while writing
        self._seen: dict[str, _Seen] = {}
        self._ends: deque[JobResult] = deque(maxlen=RECENT_ENDS)
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def job_changed(self, view: JobView) -> None:
        """Remember it; the next redraw shows it."""
        with self._lock:
            self._seen[view.job_id] = _Seen(view, self._clock())
            if view.result is not None:
                self._ends.appendleft(view.result)

    def snapshot(self) -> Snapshot:
        with self._lock:
            now = self._clock()
            return Snapshot(tuple(self._seen.values()), tuple(self._ends), now - self._started, now)

    def _render(self) -> Group:
        return picture(self.snapshot(), self._console.height)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw for as long as the block runs."""
        with self._live:
            yield


class PlainDisplay:
    """One line for each change of a job's state: `12:03:05  7_3  sweep  RUNNING`.

    The columns are separated by two blanks: wall-clock time, job id, name, state, and what is known of it. States
    that last for a moment only (STARTING, SUSPENDING, COMPLETING) are left out.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], datetime] = datetime.now) -> None:
        self._stream = stream
        self._clock = clock
        self._told: dict[str, tuple[State, int]] = {}
        self._lines: SimpleQueue[str | None] = SimpleQueue()

    def job_changed(self, view: JobView) -> None:
        """Hand a line to the writing thread, when there is one to say."""
        if view.state in _UNDER_WAY and view.state not in (State.RUNNING, State.SUSPENDED):
            return
        if self._told.get(view.job_id) == (view.state, view.attempt):
            return
        self._told[view.job_id] = (view.state, view.attempt)
        self._lines.put(f"{self._clock():%H:%M:%S}  {plain_text(view)}\n")

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line)
                if self._lines.empty():
                    self._stream.flush()
            except BrokenPipeError:
                return  # the reader has seen enough: the jobs go on without an onlooker

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Write for as long as the block runs, and at its end until everything is written."""
        thread = threading.Thread(target=self._write, name="display", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._lines.put(None)
            thread.join()


def plain_text(view: JobView) -> str:
    """A plain line without its time."""
    parts = [printable(view.job_id), printable(view.name), view.state.value]
    if view.attempt > 1:
        parts.append(f"attempt {view.attempt}")
    if view.result is not None:
        code = exit_text(view.result)
        if code not in ("-", "0"):
            parts.append(f"exit {code}" if view.result.signal is None else code)
        parts.append(format_duration(view.result.running_seconds))
    if view.reason:
        parts.append(printable(view.reason))
    return "  ".join(parts)


@contextmanager
def open_display(stream: TextIO, environ: Mapping[str, str] | None = None) -> Iterator[Observer]:
    """The display that suits `stream` (progress belongs on stderr), for as long as the block runs."""
    environ = os.environ if environ is None else environ
    display: LiveDisplay | PlainDisplay
    if stream.isatty() and environ.get("TERM", "dumb") not in ("dumb", "unknown", ""):
        display = LiveDisplay(make_console(stream, environ))
    else:
        display = PlainDisplay(stream)
    with display.shown():
        yield display
