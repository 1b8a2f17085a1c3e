"""Lists are in the order of ids, and a page looks no further than it has to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchns.daemon import selectors
from batchns.daemon.places import FIRST, Places, merged, place_of

IDS = st.one_of(
    st.integers(1, 30).map(str),
    st.tuples(st.integers(1, 30), st.integers(0, 12)).map(lambda pair: f"{pair[0]}_{pair[1]}"),
)


@given(added=st.lists(IDS), removed=st.lists(IDS), after=st.none() | IDS)
def test_what_is_known_comes_in_the_order_of_ids_once(added: list[str], removed: list[str], after: str | None) -> None:
    """Tasks by number and not by letter, whatever the order in which they came; a page goes on behind its cursor."""
    places = Places.of(dict.fromkeys(added[:3]))
    for job_id in added[3:]:
        places.add(job_id)
    for job_id in removed:
        places.remove(job_id)
    begin = FIRST if after is None else place_of(after)
    expected = sorted((one for one in set(added) - set(removed) if place_of(one) > begin), key=place_of)
    assert list(places.between(after=begin)) == expected


@given(ids=st.sets(IDS), spans=st.lists(st.tuples(st.integers(1, 31), st.integers(1, 31))), after=st.none() | IDS)
def test_spans_are_what_is_in_one_of_them(ids: set[str], spans: list[tuple[int, int]], after: str | None) -> None:
    begin = FIRST if after is None else place_of(after)
    spans = [(min(span), max(span)) for span in spans]
    expected = [
        one
        for one in sorted(ids, key=place_of)
        if place_of(one) > begin and any(first <= place_of(one)[0] <= last for first, last in spans)
    ]
    assert list(Places.of(ids).between(spans, begin)) == expected


def test_spans_that_overlap_or_touch_are_one() -> None:
    assert merged([(5, 7), (1, 2), (3, 3), (6, 9), (20, 20)]) == [(1, 3), (5, 9), (20, 20)]


def test_a_name_may_be_anywhere() -> None:
    assert selectors.parse(["7", "12-15", "9_3"]).spans == [(7, 7), (12, 15), (9, 9)]
    assert selectors.parse(["7", "train"]).spans is None
    assert selectors.parse([]).spans is None
