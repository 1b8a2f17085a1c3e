"""Our own rtnetlink: what is encoded is decoded again, what the kernel refuses is told in its words."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_world import open_namespace
from pyroute2 import IPRoute
from pyroute2.netlink import nla, nlmsg

from batchns.errors import StepError
from batchns.kernel.network import messages, netlink, shaper
from batchns.kernel.network.netlink import Socket

KINDS = st.integers(1, 0x3FFF)


@given(st.lists(st.tuples(KINDS, st.binary(max_size=70))))
def test_attributes_come_back_as_they_were_encoded(pairs: list[tuple[int, bytes]]) -> None:
    encoded = b"".join(netlink.attribute(kind, value) for kind, value in pairs)
    assert len(encoded) % 4 == 0
    assert list(netlink.attributes(encoded)) == pairs


@given(KINDS, st.lists(st.tuples(KINDS, st.binary(max_size=20)), max_size=5))
def test_nested_attributes_come_back_as_they_were_encoded(kind: int, pairs: list[tuple[int, bytes]]) -> None:
    outer = netlink.nested(kind, *(netlink.attribute(inner, value) for inner, value in pairs))
    ((found, value),) = netlink.attributes(outer)
    assert found == kind
    assert list(netlink.attributes(value)) == pairs


@given(st.binary(max_size=40))
def test_noise_is_decoded_or_refused_but_never_read_past(noise: bytes) -> None:
    try:
        pairs = list(netlink.attributes(noise))
    except ValueError:
        return
    assert sum(len(value) + 4 for _, value in pairs) <= len(noise)


def test_an_attribute_that_is_too_long_is_refused() -> None:
    netlink.attribute(1, bytes(65531))
    with pytest.raises(ValueError, match="65532 bytes do not fit"):
        netlink.attribute(1, bytes(65532))


class OracleMessage(nlmsg):
    """pyroute2's reading of a message whose attributes it knows as numbers and strings."""

    fields = (("family", "B"), ("__pad", "3x"), ("index", "i"))
    nla_map = (("UNSPEC", "none"), ("NAME", "asciiz"), ("NUMBER", "uint32"), ("INNER", "inner"))

    class inner(nla):  # pyroute2 finds it by this name
        nla_map = (("UNSPEC", "none"), ("TEXT", "asciiz"))


@given(
    st.text("abcdefgh-09", min_size=1, max_size=15),
    st.integers(0, 2**32 - 1),
    st.text("xyz", min_size=1, max_size=9),
)
def test_pyroute2_reads_in_our_messages_what_we_wrote(name: str, value: int, inner: str) -> None:
    body = struct.pack("=Bxxxi", 2, 7)
    body += netlink.text(1, name) + netlink.number(2, value) + netlink.nested(3, netlink.text(1, inner))
    message = OracleMessage(netlink.encode([netlink.Request("try", "", 99, 0, body)]))
    message.decode()
    assert (message["header"]["type"], message["header"]["sequence_number"]) == (99, 1)
    assert message.get_attr("NAME") == name
    assert message.get_attr("NUMBER") == value
    assert message.get_attr("INNER").get_attr("TEXT") == inner


@given(st.integers(1, 100_000_000_000 // 8), st.integers(576, 9000))
def test_a_rate_of_whole_bytes_comes_back_as_it_was_asked(bytes_per_second: int, mtu: int) -> None:
    asked = 8 * bytes_per_second
    assert shaper.payload_rate(shaper.frame_rate(asked, mtu), mtu) == asked
    assert shaper.rate(shaper.options(asked, mtu), mtu) == asked


def test_the_frames_of_full_size_segments_are_what_the_kernel_is_told_to_count() -> None:
    assert shaper.frame_rate(1448 * 8 * 1000, 1500) == 1514 * 1000


@pytest.fixture
def namespace() -> Iterator[None]:
    with open_namespace():
        yield


@pytest.mark.kernel
@pytest.mark.usefixtures("namespace")
def test_a_refusal_names_operation_object_and_errno_and_the_kernels_own_words() -> None:
    with Socket() as sock, pytest.raises(StepError) as caught:
        sock.exchange(
            [
                messages.link_up("lo", 1),
                messages.new_route("198.51.100.9", 1, via="203.0.113.1"),
                messages.new_address("198.51.100.1", 4711),
                messages.new_address("198.51.100.2", 1),
            ]
        )
    assert caught.value.step == "network: add the route"
    assert caught.value.path == "198.51.100.9"
    assert caught.value.errno == errno.ENETUNREACH
    assert "gateway" in caught.value.hint
    with IPRoute() as ipr:
        found = [entry.get_attr("IFA_ADDRESS") for entry in ipr.get_addr(index=1)]
    assert "198.51.100.2" in found, "a refusal does not stop the batch"


@pytest.mark.kernel
@pytest.mark.usefixtures("namespace")
def test_a_socket_is_usable_after_a_refusal_and_big_batches_are_answered_one_by_one() -> None:
    with Socket() as sock:
        with pytest.raises(StepError):
            sock.exchange([messages.get_link("nobody")])
        addresses = [f"198.51.100.{last}" for last in range(1, 101)]
        assert sock.exchange([messages.new_address(address, 1) for address in addresses]) == [b""] * 100
    with IPRoute() as ipr:
        assert {entry.get_attr("IFA_ADDRESS") for entry in ipr.get_addr(index=1)} >= set(addresses)
