"""Write the manual pages beside this file: those of section 1 from the commands' help, those of section 5 from the
tables that read job files and batchns.toml. Run it after a change of either: python packaging/man/make.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from batchns.cli.main import ALIASES, COMMANDS, GROUPS, cli
from batchns.model.config import Config
from batchns.model.config_table import config_table
from batchns.model.job_table import job_table
from batchns.model.kinds import Table
from batchns.model.queue_table import PER_JOB, PER_USER, QUEUE, TOTAL

HERE = Path(__file__).parent

EXIT_STATUS = {
    "0": "Done.",
    "1": "A job did not complete, or something was not done.",
    "2": "What was written or typed is wrong.",
    "125": "No daemon answers, or it, this machine or batchns failed.",
    "130": "Interrupted.",
}
ENVIRONMENT = {
    "BATCHNS_SOCKET": "The daemon's socket, where --socket does not name it.",
    "BATCHNS_CONFIG": "The batchns.toml to use, where --config does not name it.",
    "BATCHNS_ENGINE": "Where jobs go, local or slurm, where --to does not say.",
    "NO_COLOR": "Set to anything: no colours, also on a terminal.",
    "COLUMNS": "The width to print for, instead of that of the terminal.",
}
FILES = {
    "/etc/batchns/batchns.toml": "The settings, see batchns.toml(5).",
    "/run/batchns/batchns.sock": "The daemon's socket, unless batchns.toml says otherwise.",
    "/var/lib/batchns": "What the daemon knows, unless batchns.toml says otherwise.",
}
OWN_CODES = {"run", "exec", "attach"}  # their help says what they return


def text(words: str) -> str:
    """For roff: nothing in it is a request, a hyphen is one that can be copied; `code` is bold."""
    escaped = words.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    escaped = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", escaped)
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def bold(words: str) -> str:
    return f"\\fB{text(words)}\\fR"


def head(name: str, section: int, what: str) -> list[str]:
    title = name.upper()
    return [
        '.\\" Made by make.py from the program itself: change that.',
        f'.TH "{title}" {section} "" "batchns" "batchns"',
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{text(name)} \\- {text(what.rstrip('.'))}",
    ]


def paragraphs(help_text: str) -> Iterator[str]:
    """Of a command's help; what click is told not to wrap stays as it is."""
    for number, paragraph in enumerate(inspect.cleandoc(help_text).split("\n\n")):
        if paragraph.startswith("\b"):
            yield from (".PP", ".nf", text(paragraph.removeprefix("\b").strip("\n")), ".fi")
            continue
        if number:
            yield ".PP"
        yield text(" ".join(paragraph.split()))


def definitions(pairs: Mapping[str, str]) -> Iterator[str]:
    for name, what in pairs.items():
        yield from (".TP", bold(name), text(what))


def options(command: click.Command, context: click.Context) -> dict[str, str]:
    typed = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    records = [record for one in typed if (record := one.get_help_record(context))]
    return {names: " ".join(what.split()) for names, what in records}


def synopsis(path: str, command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    return f"{bold(path)} {text(usage)}"


def command_page(name: str, command: click.Command) -> str:
    path = f"batchns {name}"
    context = click.Context(command, info_name=path, max_content_width=400, help_option_names=["-h", "--help"])
    lines = head(f"batchns-{name}", 1, COMMANDS[name][1])
    parts = command.commands if isinstance(command, click.Group) else {}
    lines += [".SH SYNOPSIS"]
    for part, one in parts.items():
        lines += [synopsis(f"{path} {part}", one, context), ".br"]
    if not parts:
        lines.append(synopsis(path, command, context))
    lines += [".SH DESCRIPTION", *paragraphs(command.help or "")]
    for part, one in parts.items():
        lines += [f".SH {part.upper()}", *paragraphs(one.help or ""), *definitions(options(one, context))]
    if not parts:
        lines += [".SH OPTIONS", *definitions(options(command, context))]
    if name not in OWN_CODES:
        lines += [".SH EXIT STATUS", *definitions(EXIT_STATUS)]
    lines += [".SH SEE ALSO", "\\fBbatchns\\fR(1), \\fBbatchns\\-job\\fR(5), \\fBbatchns.toml\\fR(5)"]
    return "\n".join(lines) + "\n"


def main_page() -> str:
    lines = [
        *head("batchns", 1, cli.help or ""),
        ".SH SYNOPSIS",
        "\\fBbatchns\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        text("A job is a TOML file, see batchns-job(5). The daemon queues it and, when its turn comes, runs it in a "
        "sandbox of the kernel's namespaces, held to its share of CPU, memory, block I/O and network."),
        ".PP",
        text("Jobs are named by their ids (12, and 12_3 for task 3 of array 12), by ranges of them (12_1-5, 12-15) and "
        "by their names. What lists something has --json: one object on a line, keys that stay."),
    ]  # fmt: skip
    for title, commands in GROUPS.items():
        lines.append(f".SH {title.upper()}")
        for name, (_, what) in commands.items():
            lines += [".TP", f"\\fBbatchns\\-{text(name)}\\fR(1)", text(what)]
    also = ", ".join(f"{alias} for {name}" for alias, name in ALIASES.items())
    lines += [".PP", text(f"Also: {also}.")]
    lines += [".SH EXIT STATUS", *definitions(EXIT_STATUS)]
    lines += [".SH ENVIRONMENT", *definitions(ENVIRONMENT)]
    lines += [".SH FILES", *definitions(FILES)]
    lines += [".SH SEE ALSO", "\\fBbatchns\\-job\\fR(5), \\fBbatchns.toml\\fR(5)"]
    return "\n".join(lines) + "\n"


def keys(table: Table[Any]) -> Iterator[str]:
    """A key of a table each: what it means, and what holds without it."""
    for key, field in table.fields.items():
        if not isinstance(field.kind, Table):
            default = field.default or ("required" if field.required else "none")
            yield from (".TP", bold(key), text(f"{field.doc} Default: {default}."))


def tables(table: Table[Any]) -> Iterator[str]:
    for key, field in table.fields.items():
        if isinstance(field.kind, Table):
            yield from (f".SH [{key.upper()}]", *keys(field.kind))


JOB = """\
name = "train"
command = ["python3", "train.py"]
time_limit = "2h30m"
array = "0\\-99%10"

[resources]
cpus = 2
memory = "4GiB"
"""


def job_page() -> str:
    table = job_table(Config(), "/")
    lines = [
        *head("batchns-job", 5, "job files"),
        ".SH DESCRIPTION",
        text("A job file is TOML: one job, or several as [[job]] tables. Values with a unit are strings with the unit: "
        '"4GiB", "50mbit", "2h30m". Unknown keys are refused; batchns check says what is wrong with a file.'),
        ".SH EXAMPLE",
        ".nf",
        JOB.rstrip(),
        ".fi",
        ".SH KEYS OF A JOB",
        *keys(table),
        *tables(table),
        ".SH SEE ALSO",
        "\\fBbatchns\\fR(1), \\fBbatchns\\-submit\\fR(1), \\fBbatchns\\-check\\fR(1), \\fBbatchns.toml\\fR(5)",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def config_page() -> str:
    lines = [
        *head("batchns.toml", 5, "settings of batchns"),
        ".SH DESCRIPTION",
        text("/etc/batchns/batchns.toml says what the machine hands out and to whom. Every setting has a default; "
        "without the file all defaults hold. batchns check --schema config prints a JSON Schema for editors."),
        *tables(config_table()),
        ".SH [QUEUES.NAME]",
        *keys(QUEUE),
    ]  # fmt: skip
    for name, table in (("per_job", PER_JOB), ("per_user", PER_USER), ("total", TOTAL)):
        lines += [f".SH [QUEUES.NAME.{name.upper()}]", *keys(table)]
    lines += [".SH SEE ALSO", "\\fBbatchns\\fR(1), \\fBbatchns\\-job\\fR(5)"]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """All of them, by file name."""
    found = {"batchns.1": main_page(), "batchns-job.5": job_page(), "batchns.toml.5": config_page()}
    context = click.Context(cli)
    for name, (module, _) in COMMANDS.items():
        if find_spec(f"batchns.cli.{module}") is None:  # a build may lack it
            continue
        command = cli.get_command(context, name)
        assert command is not None
        found[f"batchns-{name}.1"] = command_page(name, command)
    return found


if __name__ == "__main__":
    made = pages()
    for old in HERE.glob("batchns*.[15]"):
        if old.name not in made:
            old.unlink()
    for name, page in made.items():
        (HERE / name).write_text(page)
