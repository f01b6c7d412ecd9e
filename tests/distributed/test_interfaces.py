"""Addresses and interfaces of this host; the interface between two hosts is tested in test_launched.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foretrain.distributed.interfaces import interface_of, is_loopback, is_own, own_address

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' interfaces")


def test_the_way_to_this_host_is_its_loopback():
    assert own_address("127.0.0.1", 29500) == "127.0.0.1"
    assert is_loopback("127.0.1.1") and is_loopback("::1") and not is_loopback("192.0.2.7")


def test_a_host_without_a_name_or_a_way_has_no_address():
    assert own_address("no-such-host.invalid", 29500) is None


@linux
def test_an_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.201") is None
    addresses = Path("/proc/net/if_inet6")
    if addresses.exists() and "00000000000000000000000000000001" in addresses.read_text():
        assert interface_of("::1") == "lo"


def test_an_address_is_this_host_s_or_not():
    assert is_own("127.0.0.1") and not is_own("192.0.2.201")
    with pytest.raises(OSError, match=r"known|found|failure|servname|resolution"):
        is_own("no-such-host.invalid")
