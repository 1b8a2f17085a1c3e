"""All attacks, without a sandbox, in batchns and in others: a table. Ends with 1 where batchns breaks a promise.

usage: python -m tests.attacks [--write PAGE]   as root; PAGE: between its two marks `<!-- attacks -->`
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from ..alone import alone
from ..daemon.live import live
from ..people import users, way_for_all
from . import batch_system, escapes, interference, runners, terminals
from .modes import CONNECTED, MALLORY, MODES, ON_HOST, SETTINGS, VICTOR, World, world
from .runners import Outcome
from .table import Attack

COLUMNS = ("attack", "without", "user", "root", "without root", "bwrap", "runc")
OURS = ("user", "root", "without root")
PEERS = ("bwrap", "runc")
HELD, SUCCEEDS, UNTRIED, NOT_SHOWN, NONE = "held", "**succeeds**", "not tried", "not shown", ""
_MARK = "<!-- attacks -->"


@frozen(kw_only=True)
class Family:
    """`beside`: each run has another one of its kind beside it. `more`: what its jobs ask for in [resources]."""

    title: str
    module: str
    attacks: tuple[Attack, ...]
    beside: bool = False
    more: str = ""


FAMILIES = (
    Family(title="out of the sandbox", module="escapes", attacks=escapes.ESCAPES),
    Family(
        title="on other jobs",
        module="interference",
        attacks=interference.INTERFERENCE,
        beside=True,
    ),
    Family(
        title="on the batch system",
        module="batch",
        attacks=batch_system.BATCH,
        more='cpuset = "0"',
    ),
)
# Of these others have nothing that could be attacked; without cgroups of its own a user's run gets what a user gets.
_NOT_OF_OTHERS = ("use_up_files", "use_up_processes", "control_socket", "folders_of_the_daemon", "more_processors")
_NOT_OF_PEERS = ("later_in_line_to_be_killed",)  # they give no score: their commands are in line with everybody
_ON_INIT = ("limits_of_init", "trace_init", "stop_init", "write_to_init")  # in runc the command itself is PID 1


Cell = list[Outcome]


def rows_of(machine: World, family: Family) -> dict[str, dict[str, Cell]]:
    """By attack and column: the outcome in each of its modes."""
    found: dict[str, dict[str, Cell]] = {attack.name: {} for attack in family.attacks}

    def note(column: str, run: Callable[[], dict[str, Outcome]]) -> None:
        print(f"{family.module}: {column}", file=sys.stderr)
        for name, outcome in run().items():
            found[name].setdefault(column, []).append(outcome)

    for mode in {"escapes": MODES, "interference": ON_HOST}.get(family.module, CONNECTED):
        column = mode.column
        if family.beside:
            note(column, lambda mode=mode: machine.run_beside(mode, family.module, family.attacks))  # type: ignore[misc]
        else:
            note(column, lambda mode=mode: machine.run(mode, family.module, family.attacks, family.more))  # type: ignore[misc]
    control = machine.controls_beside if family.beside else machine.controls
    note("without", lambda: control(family.attacks, family.module))
    # Who has no limits takes what there is from everybody on this machine, so that is not run.
    safe = tuple(one for one in family.attacks if not re.match("would take|the kernel bounds", one.lacks()))
    others = tuple(one for one in safe if one.name not in _NOT_OF_OTHERS)
    for column, name in (("without root", "batchns"), ("bwrap", "bwrap"), ("runc", "runc")):
        without = {"bwrap": _NOT_OF_PEERS, "runc": (*_NOT_OF_PEERS, *_ON_INIT)}.get(column, ())
        these = tuple(one for one in others if one.name not in without)
        for group in groups(these, apart=family.beside):
            note(column, lambda name=name, group=group: machine.peer(name, family.module, group, beside=family.beside))  # type: ignore[misc]
    return found


def groups(attacks: tuple[Attack, ...], *, apart: bool) -> list[tuple[Attack, ...]]:
    """Those that would keep others from being seen are run by themselves."""
    alone = [(one,) for one in attacks if apart and (one.disturbs or one.apart)]
    return [tuple(one for one in attacks if not (apart and (one.disturbs or one.apart))), *alone]


def word(cell: Cell | None) -> str:
    """What a cell says: the worst of its modes, and on whom where that is one of both."""
    if not cell:
        return NONE
    whom = {one for outcome in cell for one in outcome.whom}
    if whom:
        only = f" ({whom.pop()} user)" if whom in ({"own"}, {"another"}) else ""
        return SUCCEEDS + only
    return UNTRIED if all(outcome.untried for outcome in cell) else HELD


def wrongs(name: str, row: dict[str, Cell]) -> tuple[list[str], list[tuple[str, str]]]:
    """What batchns should have held, and what it is said not to: with the reasons.

    Nothing excuses what another sandbox holds, unless it is out of that one's sight.
    """
    broken, gaps = [], []
    better = [peer for peer in PEERS if row.get(peer) and word(row[peer]) == HELD]
    for column in OURS:
        for outcome in row.get(column, []):
            why = runners.excuse(outcome, column == "without root")
            if outcome.succeeded and (not why or better):
                broken.append(f"{name}: {column}" + (f", which {' and '.join(better)} held" if better else ""))
            elif outcome.succeeded:
                gaps.append((name, why))
            elif outcome.untried:
                broken.append(f"{name}: {column} could not be tried: {outcome.untried}")
    shown = row.get("without", [])
    broken += [
        f"{name}: does not work without a sandbox: {one.report.strip()[-200:]}" for one in shown if not one.succeeded
    ]
    return list(dict.fromkeys(broken)), list(dict.fromkeys(gaps))


def terminal_row(machine: World) -> dict[str, str]:
    """Typing on the terminal, which needs one of its own."""
    row = {}
    for column, argv_of in (
        ("without", None),
        ("without root", runners.without_root),
        ("bwrap", runners.in_bwrap),
    ):
        with machine.scene(MALLORY) as one:
            given = list if argv_of is None else argv_of(one.work) if column == "bwrap" else argv_of
            row[column] = SUCCEEDS if terminals.typed(one, given) else HELD  # type: ignore[arg-type]
    return row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", metavar="PAGE", type=Path, help=f"put the table between its two marks {_MARK}")
    page = parser.parse_args().write
    lines, broken, known, gaps = [], [], [], []
    with (
        alone(),
        way_for_all(),
        users(mallory=MALLORY, victor=VICTOR),
        live(SETTINGS) as daemon,
        world(daemon) as machine,
    ):
        for family in FAMILIES:
            rows = rows_of(machine, family)
            lines += [f"\nAttacks {family.title}:\n", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
            attacks = {attack.name: attack for attack in family.attacks}
            known += [(name, why) for name, attack in attacks.items() if (why := attack.lacks())]
            for name, row in rows.items():
                lines.append(line(family, name, {column: word(cell) for column, cell in row.items()}))
                wrong, excused = wrongs(name, row)
                broken += wrong
                gaps += excused
            if family.module == "escapes":
                typed = terminal_row(machine)
                lines.append(line(family, "type_on_the_terminal", typed))
                broken += [f"type_on_the_terminal: {column}" for column in OURS if typed.get(column) == SUCCEEDS]
    lines += ["\nWhat succeeds in batchns, and why:\n", *reasons(gaps)]
    lines += ["\nWhat is not shown without a sandbox, and why:\n", *reasons(known)]
    text = "\n".join(lines).strip() + "\n"
    print(text)
    if page:
        before, _, after = page.read_text().split(_MARK)
        page.write_text(f"{before}{_MARK}\n\n{text}\n{_MARK}{after}")
    for promise in broken:
        print(f"batchns breaks a promise: {promise}", file=sys.stderr)
    return bool(broken)


@functools.cache
def gains(module: str) -> dict[str, str]:
    """What each attack is after: the first lines of its program."""
    tree = ast.parse((Path(__file__).parent / "inside" / f"{module}.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name: re.sub(r"\s+", " ", ast.get_docstring(node) or "") for node in functions}


def reasons(found: list[tuple[str, str]]) -> list[str]:
    """One line for each reason, with the attacks that have it."""
    return [
        f"- {why}: {', '.join(f'`{name}`' for name, other in found if other == why)}"
        for why in dict.fromkeys(why for _, why in found)
    ]


def line(family: Family, name: str, row: dict[str, str]) -> str:
    gain = gains(family.module)[name]
    without = row.get("without") or NOT_SHOWN
    cells = [without, *(row.get(column, NONE) for column in COLUMNS[2:])]
    return f"| `{name}`: {gain} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
