"""Frames: whole ones out, however the bytes come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.wire import frames
from batchns.wire.codec import WireError


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20))), st.integers(1, 7))
def test_frames_come_out_as_they_went_in(sent: list[tuple[int, bytes]], step: int) -> None:
    """In pieces of any size."""
    data = b"".join(frames.frame(kind, payload) for kind, payload in sent)
    reader = frames.Frames()
    got = [one for start in range(0, len(data), step) for one in reader.feed(data[start : start + step])]
    assert got == sent


def test_a_frame_that_claims_to_be_huge_is_refused_before_it_comes() -> None:
    with pytest.raises(WireError, match="4294967295 bytes"):
        list(frames.Frames().feed(b"\0\xff\xff\xff\xff"))


def test_a_size_that_two_bytes_do_not_hold_is_held_to_what_they_do() -> None:
    assert frames.resize(70_000, -1) == b"\x03\x00\x00\x00\x04\xff\xff\x00\x00"
