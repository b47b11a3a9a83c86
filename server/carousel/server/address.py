"""Addresses of hosts and ports, as gRPC and URLs have them."""

from __future__ import annotations


def address(host: str, port: int) -> str:
    """An IPv6 address is in brackets, so that its port is not a part of it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
