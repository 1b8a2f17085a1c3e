"""What the job file's format has and this version does not act on yet: refused by name, never ignored.

The one place to delete a line from when a part of the format comes to life.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from attrs import frozen

from batchns.errors import UserError
from batchns.model.job import PreemptMode
from batchns.model.kinds import Kind, choice

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


@frozen
class Gap:
    """Why it is refused, and what works instead; `values` are those of a choice, empty where the whole key is."""

    what: str
    hint: str
    values: frozenset[Enum] = frozenset()


NOT_YET: Mapping[str, Gap] = {
    "preempt.mode": Gap(
        "preemption is not available in this version",
        'remove it or write mode = "off"',
        frozenset({PreemptMode.SUSPEND, PreemptMode.REQUEUE, PreemptMode.CANCEL}),
    ),
}


def offered(place: str, enum: type[E]) -> Kind[E]:
    """The choice at `place`, "table.key", among what this version acts on."""
    gap = NOT_YET.get(place, Gap("", ""))
    kind = choice(enum, gap.values)
    words = {member.value for member in gap.values}

    def read(value: Any) -> E:
        if isinstance(value, str) and value in words:
            raise UserError(gap.what, gap.hint)
        return kind.read(value)

    return Kind(read, kind.schema)
