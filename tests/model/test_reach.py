"""What a job may ask for: one entry of the node covers it as a whole, and what is special has to be meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchns.errors import UserError
from batchns.model.codec import parse_jobs
from batchns.model.config import Config, NetworkSettings
from batchns.model.problems import JobFileErrors
from batchns.model.reach import HostPorts, format_target, parse_range, parse_target, permitted

EVERYWHERE = ("0.0.0.0/0", "::/0")


def may(asked: str, allow: tuple[str, ...], outside: tuple[str, ...] = EVERYWHERE) -> bool:
    return permitted(parse_target(asked), map(parse_target, allow), map(parse_range, outside))


@pytest.mark.parametrize(
    ("asked", "allow", "expected"),
    [
        ("jobs", ("jobs",), True),
        ("jobs", ("host:1-65535", "0.0.0.0/0"), False),
        ("host:80", ("host:80",), True),
        ("host:80", ("host:1-79", "host:81-99"), False),
        ("host:80-90", ("host:1-100",), True),
        ("host:80-90", ("host:80-85", "host:86-90"), False),  # by one entry, as a whole
        ("host:53/udp", ("host:53",), False),
        ("host:53", ("host:53/tcp",), True),
        ("host:80", ("0.0.0.0/0", "jobs"), False),
        ("10.1.0.0/16", ("10.0.0.0/8",), True),
        ("10.0.0.0/8", ("10.1.0.0/16",), False),
        ("fd00::1", ("10.0.0.0/8", "fd00::/8"), True),
        ("169.254.169.254", ("169.254.169.254",), True),
        ("169.254.169.254", ("169.254.0.0/16",), True),
        ("169.254.169.254", ("0.0.0.0/0",), False),
        ("fd00:ec2::254", ("fd00::/8",), False),
        ("fd00:ec2::254", ("fd00:ec2::254",), True),
    ],
)
def test_an_entry_covers_what_is_asked(asked: str, allow: tuple[str, ...], expected: bool) -> None:
    assert may(asked, allow, outside=()) is expected


def test_what_every_job_reaches_may_be_asked_for_but_nothing_special() -> None:
    assert may("10.1.0.0/16", ())
    assert may("2001:db8::1", ())
    assert not may("10.1.0.0/16", (), outside=("192.168.0.0/16",))
    assert not may("169.254.169.254", ())
    assert not may("64:ff9b::a9fe:a9fe", ())


PORTS = st.integers(1, 65535)


@given(
    st.builds(
        lambda protocol, ports: HostPorts(protocol, *sorted(ports)),
        st.sampled_from(["tcp", "udp"]),
        st.tuples(PORTS, PORTS),
    )
)
def test_what_is_written_is_read(target: HostPorts) -> None:
    assert parse_target(format_target(target)) == target


@given(st.text(max_size=40) | st.text("jobshost:/-0123456789.", max_size=20))
def test_any_text_is_an_entry_or_a_message(text: str) -> None:
    try:
        target = parse_target(text)
    except UserError as error:
        assert error.hint
    else:
        assert parse_target(format_target(target)) == target


def test_without_a_way_out_no_range_can_be_asked_for() -> None:
    config = Config(network=NetworkSettings(nat=False))
    text = b'name = "a"\ncommand = ["a"]\nnetwork.allow = ["jobs", "10.0.0.0/8"]\n'
    with pytest.raises(JobFileErrors, match=r"allow\[1\]: .*jobs reach nothing outside \(nat = false\)"):
        parse_jobs(text, file="f", folder="/a", config=config)
