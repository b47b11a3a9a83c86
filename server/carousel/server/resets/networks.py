"""Who somebody is to the network: an IPv4 address, or the half of an IPv6 address that is given to
one customer."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

IPV6_PREFIX = 64


def network_of_peer(name: str) -> Network:
    """From a name of gRPC's, such as `ipv4:127.0.0.1:40000`, `chttp2 ipv6:%5B::1%5D:40000`.

    Raises ValueError.
    """
    address = name.rpartition(" ")[2].partition(":")[2].rpartition(":")[0]
    return network_of(address.removeprefix("%5B").removesuffix("%5D").partition("%")[0])


def network_of(address: str) -> Network:
    """Raises ValueError."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is None:
            return IPv6Network((int(found), IPV6_PREFIX), strict=False)
        found = found.ipv4_mapped
    return IPv4Network(int(found))
