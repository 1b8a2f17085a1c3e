"""Job files and requests that are nearly right: each is understood, or refused by what is wrong with it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from batchns.daemon.service import Refused
from batchns.daemon.submitting import read_request
from batchns.errors import UserError
from batchns.model.config import Config
from batchns.wire import strict
from batchns.wire import types as wire

from .malformed import TOML, submissions


@pytest.mark.parametrize("seed", range(4))
def test_what_is_nearly_right_is_refused_in_words_or_understood(seed: int) -> None:
    draw, config, understood, refused = random.Random(seed), Config(), 0, 0
    for _ in range(300):
        data = json.dumps(submissions(draw)).encode()
        try:
            understood += bool(read_request(strict.read(wire.SubmitRequest, data), config))
        except (UserError, Refused):
            refused += 1
    assert understood > 3
    assert refused > 100


@pytest.mark.parametrize("option", ["env", "resource"])
@pytest.mark.parametrize("value", [1, True, 1.5, [None], [[]], "A=b", ["A"]])
def test_pairs_are_a_list_of_texts(option: str, value: Any) -> None:
    request = wire.SubmitRequest(commands=(wire.CommandLine(options={"command": ["true"], option: value}),))
    with pytest.raises(UserError, match=f"--{option}: "):
        read_request(request, Config())


def test_options_are_no_larger_than_a_job_file() -> None:
    """An environment of a megabyte does not fit into what the launcher is sent; it would be kept for a day, too."""
    options = {"command": ["true"], "env": {"A": "x" * 70_000}}
    for request in (
        wire.SubmitRequest(commands=(wire.CommandLine(options=options),)),
        wire.SubmitRequest(files=(wire.JobFile(text=TOML, options=options),)),
    ):
        with pytest.raises(Refused) as refused:
            read_request(request, Config())
        assert "larger than 64 KiB" in refused.value.message


def test_a_wrong_option_is_said_once_and_standard_input_is_a_dash() -> None:
    files = (wire.JobFile(text=TOML, options={"memory": "8"}), wire.JobFile(text=TOML, options={"memory": "8"}))
    with pytest.raises(UserError) as refused:
        read_request(wire.SubmitRequest(files=files), Config())
    assert str(refused.value) == '--memory: "8" has no unit - write "8MiB" or "8GiB"'
    with pytest.raises(UserError, match=r"^-:1: no job in this file"):
        read_request(wire.SubmitRequest(files=(wire.JobFile(text=""),)), Config())


def test_a_request_has_a_thousand_files_at_most() -> None:
    with pytest.raises(Refused) as refused:
        read_request(wire.SubmitRequest(files=(wire.JobFile(text="a=["),) * 1001), Config())
    assert refused.value.message == "1001 job files are more than 1000"
