"""`batchns doctor`: one line for each fact, what to type in one piece, and an exit code that scripts can use."""

from __future__ import annotations

import io
import json

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from batchns.cli.doctor import doctor, facts_to_json, print_facts, verdict
from batchns.cli.tables import make_console
from batchns.kernel.facts import Fact, Status

OK = Fact(name="kernel", status=Status.OK, found="6.18.44 " + "x" * 200, needed=True)
LIMITED = Fact(
    name="blkio_weight",
    status=Status.LIMITED,
    found="no disk uses bfq",
    meaning="blkio_weight has no effect; jobs that ask for it run, and their result says so in its limits",
    hint="modprobe bfq; echo bfq > /sys/block/a-disk-with-a-rather-long-name/queue/scheduler",
)
MISSING = Fact(name="nftables", status=Status.MISSING, found="\x1b[2Jbad", meaning="m", hint="h", needed=True)


def printed(facts: list[Fact]) -> str:
    stream = io.StringIO()
    print_facts(make_console(stream, {}), facts)
    return stream.getvalue()


class TestTable:
    def test_fits_80_columns_but_for_what_to_type(self) -> None:
        for line in printed([OK, LIMITED, MISSING]).splitlines():
            assert cell_len(line) <= 80 or "-> " in line

    def test_what_to_type_is_on_one_line(self) -> None:
        assert f"-> {LIMITED.hint}\n" in printed([LIMITED])

    def test_what_it_means_is_said_whole(self) -> None:
        assert LIMITED.meaning in " ".join(printed([OK, LIMITED]).split())

    def test_words_of_the_machine_cannot_command_the_terminal(self) -> None:
        assert "\x1b" not in printed([MISSING])


class TestVerdict:
    def test_names_what_is_missing(self) -> None:
        assert verdict([OK, LIMITED, MISSING]) == "Jobs cannot run here: nftables."

    def test_names_what_is_limited(self) -> None:
        assert verdict([OK, LIMITED]) == "Jobs can run here; limited: blkio_weight."
        assert verdict([OK]) == "Jobs can run here."

    @pytest.mark.parametrize(("facts", "code"), [([OK, LIMITED], 0), ([OK, MISSING], 1)])
    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_exit_code(self, monkeypatch: pytest.MonkeyPatch, facts: list[Fact], code: int, options: list[str]) -> None:
        monkeypatch.setattr("batchns.kernel.probe.probe", lambda place: facts)
        assert CliRunner().invoke(doctor, options).exit_code == code


class TestJson:
    def test_holds_every_fact_on_one_line(self) -> None:
        assert "\n" not in facts_to_json([OK, MISSING])
        record = json.loads(facts_to_json([OK, MISSING]))
        assert record["usable"] is False
        assert record["facts"][1] == {
            "name": "nftables",
            "status": "missing",
            "found": "\x1b[2Jbad",
            "meaning": "m",
            "hint": "h",
            "needed": True,
        }


@pytest.mark.kernel
def test_says_what_this_machine_offers() -> None:
    """The real machine: a table that ends in a verdict, and the same facts as JSON."""
    table = CliRunner().invoke(doctor, [])
    record = json.loads(CliRunner().invoke(doctor, ["--json"]).output)
    assert table.output.splitlines()[-1].startswith("Jobs can")
    assert table.exit_code == (0 if record["usable"] else 1)
    for fact in record["facts"]:
        assert any(
            line.split()[: len(fact["name"].split())] == fact["name"].split() for line in table.output.splitlines()
        )
        assert fact["status"] == "ok" or fact["meaning"]
