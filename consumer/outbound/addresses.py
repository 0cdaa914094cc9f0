"""How far an IP address reaches: what a callback may be connected to, and what never.

A table of our own: what `ipaddress` calls private or global changes with Python's releases, and it knows
nothing of metadata servers. Whatever is in no line of it is on the public internet.
"""

from __future__ import annotations

from enum import Enum, auto
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address


class Reach(Enum):
    """Who may be called at an address."""

    PUBLIC = auto()
    """Anybody's allowed host."""
    PRIVATE = auto()
    """Only a host that the operator named exactly."""
    THIS_MACHINE = auto()
    """Only in local mode."""
    NEVER = auto()
    """Nobody."""


_REACH: tuple[tuple[Reach, tuple[str, ...]], ...] = (
    (
        Reach.NEVER,
        (
            # Metadata servers that link-local does not cover: whoever reaches them gets this pod's tokens.
            "fd20:ce::254",  # Google Cloud, over IPv6
            "fd00:ec2::254",  # AWS, over IPv6
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud
            "168.63.129.16",  # Azure's wire server
        ),
    ),
    (Reach.THIS_MACHINE, ("127.0.0.0/8", "0.0.0.0/32", "::1", "::")),  # connecting to "any address" ends here
    (
        Reach.NEVER,
        (
            "0.0.0.0/8",
            "169.254.0.0/16",  # link-local: metadata servers
            "224.0.0.0/4",  # multicast
            "255.255.255.255",
            "fe80::/10",
            "ff00::/8",
            "2002::/16",  # 6to4, and
            "2001::/32",  # Teredo: tunnels to an IPv4 address that is written inside
        ),
    ),
    (
        Reach.PRIVATE,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",  # carriers, and nodes of many clusters
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",  # reserved, but GKE gives it to pods and services
            "fc00::/7",
            "fec0::/10",
            "2001:db8::/32",
            "3fff::/20",
        ),
    ),
    (Reach.PUBLIC, ("0.0.0.0/0", "2000::/3")),
    (Reach.NEVER, ("::/0",)),  # only 2000::/3 has been given to anybody
)
"""The first line that holds an address counts."""

_TABLE: tuple[tuple[Reach, IPv4Network | IPv6Network], ...] = tuple(
    (reach, ip_network(network)) for reach, networks in _REACH for network in networks
)

_CARRIES_IPV4 = (ip_network("::ffff:0:0/96"), ip_network("64:ff9b::/96"))
"""IPv6 ways to write an IPv4 address that do lead to it: mapped, and NAT64."""


def address_of(host: str) -> Address | None:
    """Return the address that `host` is, in the usual ways of writing one; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def reach_of(address: Address) -> Reach:
    """Return how far an address reaches; of one that carries another, how far that one does."""
    if isinstance(address, IPv6Address) and any(address in network for network in _CARRIES_IPV4):
        return reach_of(IPv4Address(int(address) & 0xFFFF_FFFF))
    return next(reach for reach, network in _TABLE if address in network)
