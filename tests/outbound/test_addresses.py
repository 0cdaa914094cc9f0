"""How far an address reaches, however it is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.outbound.addresses import Reach, address_of, reach_of


@pytest.mark.parametrize(
    ("reach", "addresses"),
    [
        (Reach.PUBLIC, "8.8.8.8 34.102.136.180 100.63.255.255 100.128.0.1 2606:4700::1 2a00:1450::5"),
        (Reach.PRIVATE, "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 240.0.0.1 198.18.0.1"),
        (Reach.PRIVATE, "192.0.2.1 203.0.113.9 fd12::1 fc00::1 fec0::1 2001:db8::1"),
        (Reach.THIS_MACHINE, "127.0.0.1 127.255.255.254 0.0.0.0 ::1 ::"),
        (Reach.NEVER, "169.254.169.254 169.254.0.1 fe80::1 fe80::1%eth0 febf::1"),
        (Reach.NEVER, "224.0.0.1 239.255.255.250 ff02::1 255.255.255.255 0.1.2.3"),
        (Reach.NEVER, "fd20:ce::254 fd00:ec2::254 100.100.100.200 192.0.0.192 168.63.129.16"),
        (
            Reach.NEVER,
            "2002:7f00:1:: 2002:808:808:: 2001:0:4136:e378::1 64:ff9b:1::1 100::1 ::7f00:1 4000::1",
        ),
    ],
)
def test_an_address_reaches_as_far_as_the_table_says(reach: Reach, addresses: str) -> None:
    found = {text: reach_of(ipaddress.ip_address(text)) for text in addresses.split()}

    assert set(found.values()) == {reach}, found


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"])
@given(number=st.integers(0, 2**32 - 1))
def test_an_address_that_carries_another_reaches_as_far_as_that_one(prefix: str, number: int) -> None:
    inner = ipaddress.IPv4Address(number)

    assert reach_of(ipaddress.ip_address(f"{prefix}{inner}")) is reach_of(inner)


@given(st.ip_addresses())
def test_every_address_is_in_the_table(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if reach_of(address) is Reach.PUBLIC:
        assert not address.is_link_local
        assert not address.is_loopback
        assert not address.is_multicast
        assert not address.is_unspecified


@pytest.mark.parametrize("text", ["backend", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "", "1.2.3.4.5"])
def test_what_only_resolvers_read_as_an_address_is_a_name(text: str) -> None:
    assert address_of(text) is None
