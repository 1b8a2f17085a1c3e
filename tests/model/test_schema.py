"""The JSON Schemas that editors use: made from the tables, valid, and of one mind with the parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from job_strategies import JOBS, to_table
from jsonschema import Draft202012Validator
from test_codec import FULL
from test_codec_messages import HEAD, IN_A_JOB
from test_config_file import MISTAKES, SETTINGS

from batchns.model.job import JobSpec
from batchns.model.schema import FOLDER, config_schema, job_schema, rendered, write

EXAMPLE = Path(__file__).parents[2] / "batchns.toml"
JOB = Draft202012Validator(job_schema())
CONFIG = Draft202012Validator(config_schema())
# What JSON Schema cannot know: the node, the user's queues, what runs backwards, what a pattern decodes to.
BEYOND = (
    "than the node has", "that jobs may use", "there is no queue", "runs backwards", "is there twice", "step of 0",
    "more than 10000", "in any kernel", "too small", "but cpuset names", "unknown key - other resources", "holds a NUL",
    "control character", "no number of tasks", "three decimals", "4095 bytes", "would cover", "begins with ~",
    "is a folder", "is no pattern", "did you mean gpus?", "not 5.0", "nan is out", "64 bits", 'holds ".."',
    "not allowed on this", "ports are 1", "not written as a range", "is not outside", "has no array", "does not exist",
    "is not before the", "out of range - write a year", "no time limit", "a time limit of", "there are no retries",
    "cannot be handled", '"USR1+1"', "must be a moment, not a", "deadline: \"+0s\"",
)  # fmt: skip


def test_the_files_in_the_package_are_made_from_the_tables() -> None:
    """When this fails: python -m batchns.model.schema"""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == rendered()


def test_writing_them_gives_the_same_files(tmp_path: Path) -> None:
    write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == rendered()


@pytest.mark.parametrize("schema", [job_schema(), config_schema()])
def test_they_are_json_schemas_and_describe_every_key(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema

    def check(node: Any) -> None:
        if isinstance(node, dict):
            for key, below in node.get("properties", {}).items():
                assert below is False or isinstance(below, dict)
                if isinstance(below, dict) and "const" not in below:
                    assert below.get("description", "").rstrip(".") != "", key
            for below in node.values():
                check(below)
        elif isinstance(node, list):
            for below in node:
                check(below)

    check(schema)


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        HEAD,
        'name = "x"\nscript = "true"',
        f"[[job]]\n{HEAD}[[job]]\n{HEAD}",
        f"{HEAD}resources.licences = 3",
    ],
)
def test_valid_job_files_pass(text: str) -> None:
    assert [error.message for error in JOB.iter_errors(tomli.loads(text))] == []


@settings(deadline=None, max_examples=60)
@given(JOBS)
def test_every_valid_job_passes(job: JobSpec) -> None:
    assert [error.message for error in JOB.iter_errors(to_table(job))] == []


@pytest.mark.parametrize(("line", "message"), [c for c in IN_A_JOB if not any(words in c[1] for words in BEYOND)])
def test_what_the_parser_refuses_fails(line: str, message: str) -> None:
    assert not JOB.is_valid(tomli.loads(f"{HEAD}{line}"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job = []",
        "[job]",
        'name = "x"',
        'command = ["a"]',
        f"{HEAD}script = 'x'",
        f"{HEAD}[[job]]\n{HEAD}",
        "job = [1]",
    ],
)
def test_files_of_the_wrong_shape_fail(text: str) -> None:
    assert not JOB.is_valid(tomli.loads(text))


def test_settings_pass_and_mistakes_in_them_fail() -> None:
    assert CONFIG.is_valid({})
    assert CONFIG.is_valid(tomli.loads(EXAMPLE.read_text()))
    for text in ("[nod]", "node.memory = 64", 'node.egress = "1Gbps"', "queues.'a b' = {}", "network.mtu = 1"):
        assert not CONFIG.is_valid(tomli.loads(text))


def test_every_setting_passes() -> None:
    assert [error.message for error in CONFIG.iter_errors(tomli.loads(SETTINGS))] == []


# What JSON Schema cannot know of settings: what one key demands of another, and what is on this machine.
BEYOND_SETTINGS = (
    "there is no queue", "cannot preempt itself", "is more than per_job", "needs the shortest", "is above freeze_above",
    "that every job file has", "beyond the prefix", "is reserved", "is not written as", "not for every job",
    "cannot be reached", "go beyond the last id", "is too small", "none of what can be allowed",
    "is not an IPv4 network", "is not an IPv6 network", "bytes long", '"h:65536"', "the program's full path",
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"), [c for c in MISTAKES if not any(words in c[1] for words in BEYOND_SETTINGS)]
)
def test_what_the_parser_refuses_of_settings_fails(line: str, message: str) -> None:
    assert not CONFIG.is_valid(tomli.loads(line))
