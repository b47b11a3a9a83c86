"""Ports that can be had again: by who is killed and started anew, or begins a moment later."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody has, below those that the system gives to connections of its choice."""
    above = int(RANGE.read_text().split()[0]) if RANGE.exists() else 49152
    while True:
        port = random.SystemRandom().randrange(above // 2, above)
        with contextlib.suppress(OSError), socket.create_server(("localhost", port)):
            return port
