"""Compiled filters: all of them are replaced, or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchns.errors import UserError
from batchns.supervise.filters import DEFAULT, write_all_filters

pytestmark = pytest.mark.kernel  # libseccomp

STRICTER = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]}'
STRICTEST = STRICTER.replace('"ptrace"', '"ptrace", "mount"')


def test_every_profile_is_compiled_and_replaced_at_once(tmp_path: Path) -> None:
    profile = tmp_path / "own.json"
    profile.write_text(STRICTER)
    made = write_all_filters({"own": str(profile)}, str(tmp_path))
    assert sorted(made) == [DEFAULT, "own"]
    with Path(made["own"]).open("rb") as reading:  # as an init does
        profile.write_text(STRICTEST)
        assert write_all_filters({"own": str(profile)}, str(tmp_path)) == made
        before = reading.read()
    assert before and before != Path(made["own"]).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["own.json", f"seccomp-{DEFAULT}.bpf", "seccomp-own.bpf"]


@pytest.mark.parametrize("bad", ["{", '{"defaultAction": "SCMP_ACT_NOTHING"}', None])
def test_a_bad_profile_leaves_all_as_they_were(tmp_path: Path, bad: str | None) -> None:
    good, profile = tmp_path / "good.json", tmp_path / "own.json"
    good.write_text(STRICTER)
    profile.write_text(STRICTER)
    profiles = {"a": str(good), "own": str(profile)}
    made = write_all_filters(profiles, str(tmp_path))
    before = {path: Path(path).read_bytes() for path in made.values()}
    good.write_text(STRICTEST)
    if bad is None:
        profile.unlink()
    else:
        profile.write_text(bad)
    with pytest.raises(UserError, match=r"own\.json"):
        write_all_filters(profiles, str(tmp_path))
    assert {path: Path(path).read_bytes() for path in made.values()} == before
