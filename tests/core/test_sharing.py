"""A copy and its original share values only as long as neither changes one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchns.core.sharing import Sharing

KEYS = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(0, 2), KEYS),
        st.tuples(st.just("set"), st.integers(0, 2), KEYS),
        st.tuples(st.just("delete"), st.integers(0, 2), KEYS),
        st.tuples(st.just("copy"), st.integers(0, 2), st.integers(0, 2)),
    ),
    max_size=40,
)


@given(STEPS)
def test_as_if_every_copy_were_a_deep_one(steps: list[tuple[str, int, int]]) -> None:
    shared = [Sharing[int, list[int]]() for _ in range(3)]
    plain: list[dict[int, list[int]]] = [{} for _ in range(3)]
    for number, (step, which, what) in enumerate(steps):
        one, other = shared[which], plain[which]
        if step == "copy":
            shared[what] = one.copy()
            plain[what] = {key: value.copy() for key, value in other.items()}
        elif step == "set":
            one[what], other[what] = [number], [number]
        elif what in other:
            if step == "delete":
                del one[what], other[what]
            else:
                one.own(what).append(number)
                other[what].append(number)
        for mine, theirs in zip(shared, plain, strict=True):
            assert {key: mine[key] for key in mine} == theirs


def test_what_both_have_is_not_copied() -> None:
    one = Sharing[str, list[int]]()
    one["a"], one["b"] = [1], [2]
    two = one.copy()
    assert two["a"] is one["a"] and two.get("b") is one["b"]
    two.own("a").append(3)
    assert (one["a"], two["a"]) == ([1], [1, 3]) and two["b"] is one["b"]
    mine = one.own("b")
    assert mine is one["b"] is one.own("b") and mine is not two["b"]
