"""Seccomp profiles that batchns.toml names: what they refuse, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from .conftest import batchns

pytestmark = pytest.mark.kernel

JOB = """\
name = "{name}"
script = "mkdir made-{name}; echo $?"
stdout = "{name}.out"
[isolation]
seccomp = "{name}"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Settings with one profile: the built-in one, but that no folder can be made."""
    profile = json.loads((resources.files("batchns.kernel.seccomp") / "default.json").read_text())
    profile["syscalls"].append({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1})
    (tmp_path / "nomkdir.json").write_text(json.dumps(profile))
    (tmp_path / "batchns.toml").write_text(f'[isolation.seccomp]\nnomkdir = "{tmp_path}/nomkdir.json"\n')
    return tmp_path


def run(site: Path, *names: str):
    for name in names:
        (site / f"{name}.toml").write_text(JOB.format(name=name))
    return batchns("run", "--config", "batchns.toml", *(f"{name}.toml" for name in names), cwd=site)


def test_each_job_is_under_the_profile_that_it_names(site):
    ran = run(site, "default", "nomkdir")
    assert ran.code == 0, ran.stderr
    assert (site / "made-default").exists()
    assert not (site / "made-nomkdir").exists()
    assert (site / "nomkdir.out").read_text() == "1\n"


def test_a_profile_that_is_not_named_is_refused_with_a_suggestion(site):
    ran = run(site, "nomkdirr")
    assert ran.code == 2
    assert 'there is no profile "nomkdirr" in batchns.toml - did you mean "nomkdir"?' in ran.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("{", "no JSON"),
        ('{"defaultAction": "SCMP_ACT_ERRNO"}', "init"),
    ],
)
def test_a_profile_that_cannot_be_used_ends_the_run_before_a_job_starts(site, text, message):
    path = site / "nomkdir.json"
    path.unlink() if text is None else path.write_text(text)
    ran = run(site, "nomkdir")
    assert ran.code in (2, 125)
    assert str(path) in ran.stderr and message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (site / "made-nomkdir").exists()
