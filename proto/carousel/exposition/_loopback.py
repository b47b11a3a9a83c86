"""Loopback: which addresses nobody reaches but this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # any other name may mean anything


def names_loopback(host: str) -> bool:
    """Whether a `Host` of HTTP, with a port or without, says that this machine is meant."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
