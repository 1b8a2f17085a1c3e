"""A policy file: the keys of [schedule] alone, in either of two places."""

from __future__ import annotations

import pytest

from batchns.model.config import Order, ScheduleSettings
from batchns.model.problems import JobFileErrors
from batchns.model.schedule_table import SCHEDULE, parse_policy


@pytest.mark.parametrize("head", ["", "[schedule]\n", "# shortest first\n\n[schedule]\n"])
def test_the_keys_stand_at_the_top_or_below_schedule(head: str) -> None:
    policy = parse_policy(f'{head}order = "shortest"\nreservations = "all"\n'.encode(), "sjf.toml")
    assert policy == ScheduleSettings(order=Order.SHORTEST, reservations=None)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[schedule]\n"])
def test_an_empty_policy_is_the_usual_one(text: str) -> None:
    assert parse_policy(text.encode(), "f") == ScheduleSettings()


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ('ordr = "shortest"', ["f.toml:1: ordr: unknown key - did you mean order? "
         f"(a policy file has the keys of [schedule]: {', '.join(SCHEDULE.fields)})"]),
        ("[cgroup]\nparent = 'a'", ["f.toml:1: cgroup: unknown key - "
         f"a policy file has the keys of [schedule]: {', '.join(SCHEDULE.fields)}"]),
        ("[schedule]\n[fair_share]\nenabled = true",
         ["f.toml:2: fair_share: unknown key - a policy file has nothing beside [schedule]"]),
        ('order = "x"\n[schedule]\naging = -1', [
            "f.toml:1: order: unknown key - write it in [schedule], as schedule.order",
            "f.toml:3: schedule.aging: -1 is out of range - write 0 or more"]),
        ("schedule = 1", ["f.toml:1: schedule: must be a table, not 1 - write its keys below a [schedule] line"]),
        ("min_run = 5", ['f.toml:1: min_run: "5" has no unit - write "5s", "5m" or "5h"']),
        ("order =", ['f.toml:1: end of file: this is no TOML value - put text in quotes: key = "value"']),
    ],
)  # fmt: skip
def test_a_mistake_is_a_message_with_its_line(text: str, messages: list[str]) -> None:
    with pytest.raises(JobFileErrors) as raised:
        parse_policy(text.encode(), "f.toml")
    assert str(raised.value).split("\n") == messages
