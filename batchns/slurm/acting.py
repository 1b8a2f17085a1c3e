"""What is done to jobs on a cluster: each verb is a call of a tool, for as many jobs as there are at a time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from attrs import frozen

from batchns.model.parcel import FREEZE, THAW
from batchns.slurm.mapping import NEUTRAL, NICE_PER_POINT
from batchns.slurm.polled import Entry
from batchns.slurm.states import FINAL
from batchns.slurm.tools import Tools
from batchns.wire import types as wire
from batchns.wire.engine import Refusal

AT_ONCE = 200  # ids in one call
FREEZE_SECONDS = 5.0  # for the node to confirm
_PAUSE = 0.1
_OVER = ("it is over", "batchns show tells how")
_WAITS = ("it does not run", "batchns why says what it waits for")
_UNSEEN = ("its node has not said that it runs", "the folder of [slurm] must be one that all nodes see")
_OWN = {
    "KILL": "batchns cancel asks a job to end, and a second time kills it",
    "STOP": "batchns freeze",
    "TSTP": "batchns freeze",
    "CONT": "batchns thaw",
    **dict.fromkeys((str(FREEZE), "RTMIN+1"), "batchns freeze"),
    **dict.fromkeys((str(THAW), "RTMIN+2"), "batchns thaw"),
}
_SLURMS = ("Slurm has suspended it", "it goes on when Slurm lets it; an operator types: scontrol resume")


@frozen(kw_only=True)
class Acting:
    """`state`: what the node has written of a job by now, "" for nothing."""

    tools: Tools
    state: Callable[[Entry], str]
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def act(self, request: wire.ActRequest, jobs: Sequence[tuple[Entry, wire.JobRow]]) -> list[wire.Acted]:
        """In the order of `jobs`."""
        if request.verb == "signal":
            signal_word(request.signal or "TERM")
        refused = {entry.id: why for entry, row in jobs if (why := self._why_not(request.verb, entry, row))}
        todo = [(entry, row) for entry, row in jobs if entry.id not in refused]
        done: dict[str, wire.Acted] = {}
        for words, some in self._calls(request, todo).items():
            for at in range(0, len(some), AT_ONCE):
                done |= self._call(words, some[at : at + AT_ONCE])
        if request.verb in ("freeze", "thaw"):
            self._confirm(request.verb, [entry for entry, _ in todo if done[entry.id].done], done)
        return [
            done.get(entry.id)
            or wire.Acted(id=entry.id, done=False, text=refused[entry.id][0], hint=refused[entry.id][1])
            for entry, _ in jobs
        ]

    def _why_not(self, verb: str, entry: Entry, row: wire.JobRow) -> tuple[str, str] | None:
        if entry.state in FINAL:
            return _OVER
        if verb in ("freeze", "signal", "thaw"):
            if row.state in ("PENDING", "STARTING"):
                return _WAITS
            if entry.state == "SUSPENDED":
                return _SLURMS
            if not self.state(entry):  # before it listens such a signal would end it
                return _UNSEEN
        if verb == "freeze" and row.state == "SUSPENDED":
            return ("it is frozen", "")
        if verb == "thaw" and row.state != "SUSPENDED":
            return ("it is not frozen", "")
        if verb in ("hold", "release") and row.state != "PENDING":
            return ("it has started", "")
        if verb == "requeue" and row.state in ("PENDING", "STARTING"):
            return _WAITS
        return None

    def _calls(
        self, request: wire.ActRequest, jobs: Sequence[tuple[Entry, wire.JobRow]]
    ) -> dict[tuple[str, ...], list[str]]:
        """The ids for each call. Of a job that is ending already all processes are killed."""
        if request.verb == "cancel":
            ending = [entry.id for entry, row in jobs if row.state == "COMPLETING"]
            others = [entry.id for entry, row in jobs if row.state != "COMPLETING"]
            calls = {("scancel", "--full", "--signal=KILL"): ending, ("scancel",): others}
            return {words: ids for words, ids in calls.items() if ids}
        ids = [entry.id for entry, _ in jobs]
        words: Mapping[str, tuple[str, ...]] = {
            "hold": ("scontrol", "hold"),
            "release": ("scontrol", "release"),
            "requeue": ("scontrol", "requeue"),
            "freeze": ("scancel", "--batch", f"--signal={FREEZE}"),
            "thaw": ("scancel", "--batch", f"--signal={THAW}"),
            "signal": ("scancel", "--batch", f"--signal={signal_word(request.signal or 'TERM')}"),
            "priority": (
                *("scontrol", "update"),
                f"Nice={(NEUTRAL - (NEUTRAL if request.priority is None else request.priority)) * NICE_PER_POINT}",
            ),
        }
        return {words[request.verb]: ids} if ids else {}

    def _call(self, words: tuple[str, ...], ids: Sequence[str]) -> dict[str, wire.Acted]:
        """For all of them at a time; where that is refused, for each alone, so that each has its own reason."""
        named = [f"JobId={','.join(ids)}"] if words[:2] == ("scontrol", "update") else list(ids)
        if words[0] == "scontrol" and words[1] != "update":
            named = [",".join(ids)]
        try:
            self.tools.run(*words, *named)
        except Refusal as error:
            if len(ids) == 1:
                return {ids[0]: wire.Acted(id=ids[0], done=False, text=error.message, hint=error.hint)}
            return {job_id: acted for one in ids for job_id, acted in self._call(words, [one]).items()}
        return {job_id: wire.Acted(id=job_id, done=True) for job_id in ids}

    def _confirm(self, verb: str, jobs: Sequence[Entry], done: dict[str, wire.Acted]) -> None:
        """Wait until the nodes have written that it is so."""
        wanted = "SUSPENDED" if verb == "freeze" else "RUNNING"
        left = {entry.id: entry for entry in jobs}
        until = self.clock() + FREEZE_SECONDS
        while True:
            left = {job_id: entry for job_id, entry in left.items() if self.state(entry) != wanted}
            if not left or self.clock() > until:
                break
            self.sleep(_PAUSE)
        if verb == "freeze":
            for entry in jobs:
                if entry.ended is not None:
                    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.ended))
                    done[entry.id] = wire.Acted(id=entry.id, done=True, text=f"Slurm's clock goes on, and ends it {at}")
        for job_id in left:
            what = f"its node has not confirmed it within {FREEZE_SECONDS:g} s"
            done[job_id] = wire.Acted(id=job_id, done=False, text=what, hint="batchns show tells how it is")


def signal_word(named: str) -> str:
    """As scancel has it: "USR1".

    Raises:
        Refusal: who runs the job on its node would take it for himself, or die of it.
    """
    word = named.upper().removeprefix("SIG")
    if word.isdecimal():
        with suppress(ValueError):
            word = signal.Signals(int(word)).name.removeprefix("SIG")
    if (hint := _OWN.get(word)) is not None:
        raise Refusal("invalid", f"SIG{word} is not for a command on a cluster", hint)
    return word
