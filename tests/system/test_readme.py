"""What the README and the page on `batchns run` show is what happens: their examples are run, their output compared.

1. A ```toml block whose first line is `# NAME.toml` is a file of the examples' folder.
2. In a ```console block each line `$ COMMAND` is run by a shell in that folder; the lines below are its output.
3. Ids, times and sizes differ from run to run and are made alike first (`alike`); everything else must be the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchns.model.codec import parse_jobs
from batchns.model.config import Config
from batchns.model.config_table import parse_config

ROOT = Path(__file__).parents[2]
FOLDER = "/root/first"  # what the pages call the folder of the examples
PAGES = ("README.md", "docs/run.md")

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRESS = re.compile(r"\d\d:\d\d:\d\d  (\d+)((?:_\d+)?  .*)")
_ROW = re.compile(r"(\d+)((?:_\d+)?)\s+(\S+)\s+([A-Z_]+)\s+(\S+)(?:\s+\S+){4}(?:\s+.*)?")
_FOR = re.compile(r"(?<=makes room for )\d+")
_DETAIL = re.compile(r"(\d+)((?:_\d+)? \S+: [A-Z_]+)")
_OVER = re.compile(r"(\d+)((?:_\d+)? \S+: [A-Z_]+ after) [\d.]+(?:ms|s|m|h)\w*(:.*)?")
_DURATION = re.compile(r"(?<=  )\d[\d.]*(?:ms|s|m|h)\w*(?=  |$)")


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of this kind, without their fences."""
    return [body for name, body in _FENCE.findall(text) if name == kind]


def files(text: str) -> dict[str, str]:
    """The files that the page shows: their name, and their text with the line that names them."""
    found = {}
    for body in blocks(text, "toml"):
        name = re.match(r"# ([\w.-]+\.toml)\n", body)
        if name:
            found[name[1]] = body
    return found


def commands(text: str) -> list[tuple[str, str]]:
    """Every command of the page's console blocks, in order, with the output that it is said to have."""
    found: list[tuple[str, str]] = []
    for body in blocks(text, "console"):
        first, *rest = re.split(r"^\$ ", body, flags=re.MULTILINE)
        assert first == "", f"a console block begins with a command, not with {first!r}"
        found += [(part.partition("\n")[0], part.partition("\n")[2]) for part in rest]
    return found


def alike(output: str, folder: str = FOLDER) -> list[str]:
    """The output's lines with ids, times and sizes replaced.

    Ids count from the first one of the output, since those of one run follow each other. Lines of progress are
    sorted: which of two jobs that run at a time is told first is chance. Of the result table's rows the numbers and
    the reason are left out (how much of a reason is shown depends on the numbers); the reason in full is below it.
    """
    first: int | None = None
    progress: list[str] = []
    lines: list[str] = []

    def number(text: str) -> str:
        nonlocal first
        first = int(text) if first is None else first
        return f"ID+{int(text) - first}"

    for line in output.replace(folder, FOLDER).splitlines():
        if match := _PROGRESS.fullmatch(line):
            told = _DURATION.sub("DURATION", f"TIME  {number(match[1])}{match[2]}")
            progress.append(_FOR.sub(lambda found: number(found[0]), told))
        elif re.match(r"JOB +NAME +STATE +EXIT ", line):
            lines.append("JOB NAME STATE EXIT")
        elif match := _ROW.fullmatch(line):
            lines.append(f"{number(match[1])}{match[2]} {match[3]} {match[4]} {match[5]}")
        elif match := _DETAIL.fullmatch(line):
            lines.append(f"{number(match[1])}{match[2]}")
        elif match := _OVER.fullmatch(line):
            lines.append(f"{number(match[1])}{match[2]} DURATION{match[3] or ''}")
        else:
            line = re.sub(r"-(\d+)((?:_\d+)?(?:-r\d+)?\.(?:out|err))\b", r"-ID\2", line)
            lines.append(re.sub(r"^(\d+ jobs?: .*) in [\d.]+ s$", r"\1 in DURATION", line))
    return sorted(progress) + lines


def output_of(command: str, folder: Path, **environment: str) -> str:
    """What a person sees: stdout and stderr of the command, in the order in which they came."""
    tools = folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    program = tools / "batchns"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m batchns "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(folder), "LANG": "C.UTF-8", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def differences(text: str, outputs: list[str], folder: str) -> list[str]:
    """Every command of the page whose output is not the one that is shown."""
    told = commands(text)
    assert len(told) == len(outputs)
    return [
        f"$ {command}\nshown:\n{shown}\ngiven:\n{given}"
        for (command, shown), given in zip(told, outputs, strict=True)
        if alike(shown) != alike(given, folder)
    ]


def run_page(text: str, folder: Path, **environment: str) -> list[str]:
    """The output of every command of the page, run in order in `folder`; `environment`: variables besides."""
    folder.mkdir()
    for name, body in files(text).items():
        (folder / name).write_text(body)
    return [output_of(command, folder, **environment) for command, _ in commands(text)]


@pytest.mark.kernel
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_do_what_the_page_shows(page, tmp_path, nothing_left):
    text = (ROOT / page).read_text()
    folder = tmp_path / "first"
    outputs = run_page(text, folder)
    assert outputs, "the page has examples"
    assert differences(text, outputs, str(folder)) == []


@pytest.mark.kernel
def test_a_page_that_is_wrong_is_noticed(tmp_path, nothing_left):
    """Each with one fault: in a job file, in a command, in the output that is shown."""
    page = (
        '```toml\n# hello.toml\nname = "hello"\ncommand = ["echo", "hello, world"]\n```\n'
        "```console\n$ batchns run hello.toml\n"
        "11:04:15  254  hello  PENDING  is next\n11:04:15  254  hello  RUNNING\n"
        "11:04:15  254  hello  COMPLETED  301ms\n"
        "JOB  NAME   STATE      EXIT  QUEUED    RUN   CPU      MEM\n"
        "254  hello  COMPLETED     0     1ms  301ms  19ms  2.25MiB\n\n1 job: 1 completed in 0.9 s\n"
        "$ cat hello-*.out\nhello, world\n```\n"
    )
    outputs = run_page(page, tmp_path / "right")
    assert differences(page, outputs, str(tmp_path / "right")) == []
    for right, wrong in (
        ("hello  COMPLETED  301ms\n", "hello  FAILED  301ms\n"),
        ("254  hello  COMPLETED     0 ", "254  hello  COMPLETED     1 "),
        ("254  hello  RUNNING", "255  hello  RUNNING"),
        ("11:04:15  254  hello  RUNNING\n", ""),
        ("1 job: 1 completed", "1 job: 1 failed"),
        ("\nhello, world\n", "\nhello, moon\n"),
    ):
        broken = page.replace(right, wrong)
        assert broken != page
        assert differences(broken, outputs, str(tmp_path / "right")), f"{wrong!r} was not noticed"
    for number, (right, wrong) in enumerate(
        (('"hello, world"]', '"hello, moon"]'), ("$ batchns run hello.toml", "$ batchns run helo.toml"))
    ):
        broken = page.replace(right, wrong)
        folder = tmp_path / f"wrong-{number}"
        assert differences(broken, run_page(broken, folder), str(folder)), f"{wrong!r} was not noticed"


@pytest.mark.parametrize("page", PAGES)
def test_the_job_files_shown_are_right(page):
    """Those, too, that no example runs; with the settings, where the page shows some."""
    text = (ROOT / page).read_text()
    settings = files(text).get("batchns.toml")
    config = Config() if settings is None else parse_config(settings.encode(), "batchns.toml")
    for body in blocks(text, "toml"):
        if body != settings:
            assert parse_jobs(body.encode(), file="example.toml", folder=FOLDER, config=config) or "bad" in body[:9]


@pytest.mark.kernel
def test_the_json_shown_has_the_keys_and_types_of_a_real_result(tmp_path):
    """And its states, kernel files and units are of those that there are."""
    (shown,) = (json.loads(body) for body in blocks((ROOT / "docs/run.md").read_text(), "json"))
    options = "--name spin --memory 64MiB --egress 20mbit --blkio-weight 500 --json"
    line = output_of(f"batchns run {options} -- sh -c 'exit 3'", tmp_path).splitlines()[0]
    given = json.loads(line)
    assert list(shown) == list(given)
    kinds = {key: {type(shown[key]), type(given[key])} - {type(None)} for key in shown}
    assert {key: kind for key, kind in kinds.items() if len(kind) > 1 and kind != {int, float}} == {}
    assert list(shown["limits"]) == list(given["limits"])
    for reading in shown["limits"].values():
        assert set(reading) == ({"value", "why"} if reading["value"] is None else {"value", "source"})
