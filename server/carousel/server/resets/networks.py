"""Who somebody is to the network: an IPv4 address, or the half of an IPv6 address that is given to
one customer."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

IPV6_PREFIX = 64


def network_of(address: str) -> Network:
    """Raises ValueError."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is None:
            return IPv6Network((int(found), IPV6_PREFIX), strict=False)
        found = found.ipv4_mapped
    return IPv4Network(int(found))
