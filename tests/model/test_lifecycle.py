"""The table of job states: what is legal, what is not, and that the picture in the docs is this table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.model.diagram import mermaid, page
from batchns.model.lifecycle import FINAL, TRANSITIONS, Event, IllegalEvent, State, apply

PAGE = Path(__file__).parents[2] / "docs" / "job-states.md"
EVERY_PAIR = [(state, event) for state in State for event in Event]
LEGAL = {(state, event): target for state, row in TRANSITIONS.items() for event, target in row.items()}


@pytest.mark.parametrize(("state", "event"), [pair for pair in EVERY_PAIR if pair not in LEGAL])
def test_an_illegal_event_names_job_state_and_event(state: State, event: Event) -> None:
    with pytest.raises(IllegalEvent) as raised:
        apply("7_3", state, event)
    assert (raised.value.job, raised.value.state, raised.value.event) == ("7_3", state, event)
    assert str(raised.value) == f"job 7_3: event '{event.value}' is illegal in state {state.value}"


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([Event.LAUNCH, Event.STARTED, Event.EXITED_OK], State.COMPLETED),
        ([Event.LAUNCH, Event.STARTED, Event.EXITED_BAD], State.FAILED),
        ([Event.LAUNCH, Event.STARTED, Event.OOM], State.OUT_OF_MEMORY),
        ([Event.LAUNCH, Event.LAUNCH_FAILED], State.FAILED),
        ([Event.LAUNCH, Event.LOST], State.NODE_FAIL),
        ([Event.CANCEL], State.CANCELLED),
        ([Event.LAUNCH, Event.STARTED, Event.STOP, Event.TIMED_OUT], State.TIMEOUT),
        ([Event.LAUNCH, Event.STARTED, Event.STOP, Event.CANCEL], State.CANCELLED),
        ([Event.LAUNCH, Event.STOP, Event.STARTED, Event.STOP, Event.CANCEL], State.CANCELLED),
        ([Event.LAUNCH, Event.STARTED, Event.FREEZE, Event.FROZEN, Event.THAWED, Event.EXITED_OK], State.COMPLETED),
        ([Event.LAUNCH, Event.STARTED, Event.FREEZE, Event.FREEZE_FAILED], State.RUNNING),
        ([Event.LAUNCH, Event.STARTED, Event.FREEZE, Event.FROZEN, Event.STOP, Event.CANCEL], State.CANCELLED),
        ([Event.LAUNCH, Event.STARTED, Event.EXITED_BAD, Event.REQUEUE, Event.LAUNCH], State.STARTING),
    ],
)
def test_a_life_ends_where_it_should(events: list[Event], state: State) -> None:
    now = State.PENDING
    for event in events:
        now = apply("1", now, event)
    assert now is state


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_an_illegal_event_changes_nothing(events: list[Event]) -> None:
    """With the illegal events left out, the same life is lived."""
    now, legal = State.PENDING, []
    for event in events:
        try:
            now = apply("1", now, event)
            legal.append(event)
        except IllegalEvent:
            pass
    again = State.PENDING
    for event in legal:
        again = apply("1", again, event)
    assert again is now


def test_a_final_state_is_left_by_another_attempt_only() -> None:
    for state in State:
        assert state.final == (set(TRANSITIONS[state]) == {Event.REQUEUE}) == (state in FINAL)


def test_every_state_is_reached_and_can_end() -> None:
    def reachable(start: State) -> set[State]:
        seen, todo = {start}, [start]
        while todo:
            for target in TRANSITIONS[todo.pop()].values():
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen

    assert reachable(State.PENDING) == set(State)
    assert all(reachable(state) & FINAL for state in State)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.PENDING][Event.FREEZE] = State.SUSPENDED  # type: ignore[index]


def test_the_page_in_the_docs_is_drawn_from_the_table() -> None:
    """When this fails: python -m batchns.model.diagram > docs/job-states.md"""
    assert PAGE.read_text() == page()


def test_the_diagram_has_an_arrow_for_every_event() -> None:
    arrows = [line.strip() for line in mermaid().splitlines()]
    for (state, event), target in LEGAL.items():
        if state not in FINAL:
            drawn = [line for line in arrows if line.startswith(f"{state.value} --> {target.value}: ")]
            assert len(drawn) == 1 and event.value in drawn[0].partition(": ")[2].split(", ")
