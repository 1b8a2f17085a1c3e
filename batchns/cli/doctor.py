"""`batchns doctor`: what this machine offers to jobs, what is missing and what to type.

Exit code 0: jobs with default settings run here; 1: something they need is missing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchns.kernel.facts import Fact, Status
from batchns.units import printable

if TYPE_CHECKING:  # the rest takes 0.2 s to import: for --help nobody waits that long
    from rich.console import Console

_STYLES = {Status.OK: "green", Status.LIMITED: "yellow", Status.MISSING: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def doctor(as_json: bool) -> None:
    """Say what this machine offers to jobs, what is missing, and what to type.

    Exits with 0 when jobs can run here, with 1 when something that they need is missing.
    """
    from batchns.cli.load import find_config
    from batchns.cli.tables import make_console
    from batchns.kernel.facts import Place
    from batchns.kernel.probe import probe, usable
    from batchns.supervise import users
    from batchns.supervise.rootless import own_paths

    config = find_config(None)
    if os.geteuid() != 0:
        config = own_paths(config, users.current())
    facts = probe(Place(state=Path(config.paths.state), run=Path(config.paths.run), dns=config.network.dns))
    if as_json:
        click.echo(facts_to_json(facts))
    else:
        print_facts(make_console(sys.stdout), facts)
    sys.exit(0 if usable(facts) else 1)


def facts_to_json(facts: Sequence[Fact]) -> str:
    """`{"usable": true, "facts": [{"name", "status", "found", "meaning", "hint", "needed"}, ...]}`, on one line."""
    from batchns.kernel.probe import usable

    rows = [
        {
            "name": fact.name,
            "status": fact.status.value,
            "found": fact.found,
            "meaning": fact.meaning,
            "hint": fact.hint,
            "needed": fact.needed,
        }
        for fact in facts
    ]
    return json.dumps({"usable": usable(facts), "facts": rows})


def print_facts(console: Console, facts: Sequence[Fact]) -> None:
    """One line for each fact; below those that are not ok, what it means and what to type; a verdict."""
    from rich.cells import cell_len
    from rich.text import Text

    from batchns.cli.tables import fit

    names = max(cell_len(fact.name) for fact in facts)
    words = max(len(status.value) for status in Status)
    indent = " " * (names + words + 4)
    for fact in facts:
        name = fact.name + " " * (names - cell_len(fact.name))
        found = printable(fact.found)
        if fact.status is Status.OK:
            found = fit(found, console.width - len(indent))
        word = (f"{fact.status.value:<{words}}", _STYLES[fact.status])
        first, *rest = Text(found).wrap(console, console.width - len(indent))
        console.print(Text.assemble(name, "  ", word, "  ", first.plain.rstrip()), soft_wrap=True)
        for line in (*rest, *Text(printable(fact.meaning)).wrap(console, console.width - len(indent))):
            if line.plain:
                console.print(Text(indent + line.plain.rstrip(), "dim"), soft_wrap=True)
        # What to type is for copying: never broken over two lines.
        if fact.hint:
            console.print(Text.assemble(indent, ("-> ", "dim"), (printable(fact.hint), "bold")), soft_wrap=True)
    console.print()
    console.print(Text(verdict(facts), "bold"))


def verdict(facts: Sequence[Fact]) -> str:
    missing = [fact.name for fact in facts if fact.needed and fact.status is Status.MISSING]
    if missing:
        return f"Jobs cannot run here: {', '.join(missing)}."
    limited = [fact.name for fact in facts if fact.status is not Status.OK]
    return f"Jobs can run here; limited: {', '.join(limited)}." if limited else "Jobs can run here."
