"""Every signal that can end a command has a name, and the name leads back to it."""

from __future__ import annotations

import pytest

from batchns.model.signals import signal_name, signal_number


@pytest.mark.parametrize("number", range(1, 65))
def test_a_name_leads_back_to_its_number(number):
    assert signal_number(signal_name(number)) == number


def test_names_are_the_systems():
    assert [signal_name(number) for number in (9, 15, 34, 40)] == ["SIGKILL", "SIGTERM", "SIGRTMIN", "SIGRTMIN+6"]
