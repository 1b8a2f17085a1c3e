"""What batchns.toml says of the order of jobs: [schedule], [fair_share], [neighbour]; and policy files.

A policy file is a [schedule] of its own, for trying out what another one would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve

from batchns.errors import UserError
from batchns.model.config import Backfill, FairShare, Neighbour, Order, Preemption, ScheduleSettings
from batchns.model.document import parse_document
from batchns.model.kinds import Field, Kind, Table, boolean, choice, duration, integer, mapping_of, number, size
from batchns.model.problems import Finding, describe
from batchns.model.queue_table import user_or_group
from batchns.units import format_duration

MAX_RESERVATIONS = 10_000
MAX_FREEZES = 1000


def parse_policy(data: bytes, file: str) -> ScheduleSettings:
    """The settings of a policy file: keys of [schedule], at its top or below a [schedule] line.

    Raises:
        JobFileErrors: all that is wrong with it, each with its line.
    """

    def read(values: dict[str, Any]) -> ScheduleSettings:
        if "schedule" not in values:
            return evolve(
                SCHEDULE, more=f"a policy file has the keys of [schedule]: {', '.join(SCHEDULE.fields)}"
            ).read(values)
        whole = Table(
            make=lambda schedule: schedule,
            fields={"schedule": Field(SCHEDULE, "How the queue is worked through.")},
            where="schedule",
            more="a policy file has nothing beside [schedule]",
        )
        settings: ScheduleSettings = whole.read(values)
        return settings

    return parse_document(data, file).read(read)


def _reservations() -> Kind[int | None]:
    """A number, or None for "all"."""
    counted = integer(0, MAX_RESERVATIONS, example="1")

    def read(value: Any) -> int | None:
        if value == "all":
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            return counted.read(value)
        raise UserError(f'must be a whole number or "all", not {describe(value)}', 'write for example 1, or "all"')

    return Kind(read, {"anyOf": [counted.schema, {"const": "all"}]})


def _not_negative(value: float) -> float:
    if value < 0:
        raise UserError(f"{value:g} is out of range", "write 0 or more")
    return value


def _share(value: float) -> float:
    if value <= 0:
        raise UserError(
            f"{value:g} is not above 0", "write for example 2 for twice the share of those that are not named"
        )
    return value


def _part(value: float) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"{value:g} is out of range", "write 0 to 1, the part of the node's CPUs")
    return value


def _shorter_needs_an_order(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if "order" in raw and "order" not in values:
        return
    if values.get("preempt") is Preemption.SHORTER and values.get("order", _SCHEDULE.order) is not Order.SHORTEST:
        what = 'preempt = "shorter" needs the shortest to go first'
        yield ("preempt",), UserError(what, 'write order = "shortest" besides, or preempt = "queues"')


def _thaws_below(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    if any(key in raw and key not in values for key in ("freeze_above", "thaw_below")):
        return
    freeze = values.get("freeze_above", _NEIGHBOUR.freeze_above)
    thaw = values.get("thaw_below", _NEIGHBOUR.thaw_below)
    if thaw > freeze:
        key = "thaw_below" if "thaw_below" in raw else "freeze_above"
        what = f"thaw_below = {thaw:g} is above freeze_above = {freeze:g}: jobs would be frozen and thawed in turn"
        yield (key,), UserError(what, f"write thaw_below = {freeze:g} or less")


def _neighbour(**values: Any) -> Neighbour:
    if "for" in values:  # a word of Python's own
        values["seconds"] = values.pop("for")
    return Neighbour(**values)


_SCHEDULE = ScheduleSettings()
_FAIR_SHARE = FairShare()
_NEIGHBOUR = Neighbour()
_PART = number(_part, example="0.5", minimum=0, maximum=1)

SCHEDULE: Table[ScheduleSettings] = Table(
    make=ScheduleSettings,
    fields={
        "order": Field(
            choice(Order),
            "Among equals: submitted (who came first), or shortest (who is soonest over).",
            f'"{_SCHEDULE.order.value}"',
        ),
        "aging": Field(
            number(_not_negative, example="0.01", minimum=0),
            'With order = "shortest": how much waiting makes up for length; 0: not at all, long jobs may starve.',
            f"{_SCHEDULE.aging:g}",
        ),
        "backfill": Field(
            choice(Backfill),
            "Whether a job may start before one that has to wait, when it delays no reservation: "
            "off, submitted (in order), shortest (the shortest first).",
            f'"{_SCHEDULE.backfill.value}"',
        ),
        "reservations": Field(
            _reservations(),
            'For how many of the first waiting jobs a start is kept free: a number, or "all".',
            str(_SCHEDULE.reservations),
        ),
        "preempt": Field(
            choice(Preemption),
            "Who may take a running job's place: off (nobody), queues (queues that say so), "
            "shorter (besides, a job of the same queue that is sooner over).",
            f'"{_SCHEDULE.preempt.value}"',
        ),
        "assume": Field(
            duration(example='"1d"'),
            "How long a job is expected to take that has neither a time limit nor a history.",
            f'"{format_duration(_SCHEDULE.assume)}"',
        ),
        "learn": Field(
            boolean(), "Expect what the user's earlier jobs of the name took.", str(_SCHEDULE.learn).lower()
        ),
        "max_frozen": Field(
            duration(example='"1d"', zero=True),
            "How long one job may be frozen for others, in all.",
            f'"{format_duration(_SCHEDULE.max_frozen)}"',
        ),
        "max_freezes": Field(
            integer(0, MAX_FREEZES, example="20"),
            "How often one job may be frozen for others.",
            str(_SCHEDULE.max_freezes),
        ),
        "min_run": Field(
            duration(example='"5m"', zero=True),
            "How long a job runs before it may be preempted.",
            f'"{format_duration(_SCHEDULE.min_run)}"',
        ),
        "frozen_memory": Field(
            size(0, example='"16GiB"'), "Memory that frozen jobs may hold together.", "half of the node's"
        ),
        "time_slice": Field(
            duration(example='"10m"'), "After so long a job gives way to a waiting one of the same rank.", "never"
        ),
    },
    where="schedule",
    rules=(_shorter_needs_an_order,),
)

FAIR_SHARE: Table[FairShare] = Table(
    make=FairShare,
    fields={
        "enabled": Field(
            boolean(),
            "Among jobs of the same queue and priority, those of the user who has used less go first.",
            str(_FAIR_SHARE.enabled).lower(),
        ),
        "half_life": Field(
            duration(example='"7d"'),
            "After so long, past use counts half.",
            f'"{format_duration(_FAIR_SHARE.half_life)}"',
        ),
        "shares": Field(
            mapping_of(
                number(_share, example="2", exclusiveMinimum=0),
                user_or_group("a user's name", '"alice"'),
                where="fair_share.shares",
            ),
            "Users with more or less than a share of 1: alice = 2.",
            "1 for everyone",
        ),
    },
    where="fair_share",
)

NEIGHBOUR: Table[Neighbour] = Table(
    make=_neighbour,
    fields={
        "freeze_above": Field(
            _PART,
            "Jobs are frozen when others use more than this part of the node's CPUs.",
            f"{_NEIGHBOUR.freeze_above:g}",
        ),
        "thaw_below": Field(_PART, "They are thawed when others use less than this.", f"{_NEIGHBOUR.thaw_below:g}"),
        "for": Field(
            duration(example='"10s"', zero=True),
            "For so long without interruption, before either.",
            f'"{format_duration(_NEIGHBOUR.seconds)}"',
        ),
    },
    where="neighbour",
    rules=(_thaws_below,),
)
