"""Where the exporter may listen."""

from __future__ import annotations

from carousel.client._channel import is_loopback


def check_host(host: str, *, insecure: bool) -> None:
    """Raises ValueError for an address that others can reach, unless that is meant."""
    if not (insecure or is_loopback(f"{host}:0")):
        raise ValueError(
            "host must be localhost or a loopback address unless insecure is given (the "
            f"connection is not encrypted, and anyone may read), got {host!r}"
        )
