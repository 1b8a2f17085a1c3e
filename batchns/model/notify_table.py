"""What batchns.toml says of the command that tells of jobs: [notify], and [queues.NAME.notify]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.config import NotifySettings
from batchns.model.job import Notice
from batchns.model.kinds import Field, Table, choice, clean, duration, list_of, text
from batchns.model.problems import Finding
from batchns.units import format_duration, quote

_BUILT_IN = NotifySettings()


def _runs_by_its_path(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """It is run without a shell and with a PATH of few folders: its own path leaves no doubt which program it is."""
    command = values.get("command")
    if command and not command[0].startswith("/"):
        hint = 'write the program\'s full path and its arguments, ["/usr/local/bin/tell"]'
        yield ("command", 0), UserError(f"{quote(command[0])} is not an absolute path", hint)


NOTIFY: Table[NotifySettings] = Table(
    make=NotifySettings,
    fields={
        "command": Field(
            list_of(text(clean, example='"ARGUMENT"'), example='["/usr/local/bin/tell"]'),
            "The program and its arguments; it is run as the job's owner, and reads the job as JSON. []: none is run.",
            "none",
        ),
        "on": Field(
            list_of(choice(Notice), example='["failed"]'),
            "When it is run: started, frozen, requeued, ended (over for good), failed (so, and not as it should).",
            f'["{_BUILT_IN.on[0].value}"]',
        ),
        "time_limit": Field(
            duration(example='"30s"'), "How long it may run.", f'"{format_duration(_BUILT_IN.time_limit)}"'
        ),
    },
    where="notify",
    rules=(_runs_by_its_path,),
)
QUEUE_NOTIFY: Table[dict[str, Any]] = Table(
    make=dict,
    fields={key: evolve(known, default="as in [notify]") for key, known in NOTIFY.fields.items()},
    where="queues.NAME.notify",
    rules=NOTIFY.rules,
)
