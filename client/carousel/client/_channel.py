"""Channels: options, TLS and tokens, alike for both clients."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from carousel.client._retry import SERVICE_CONFIG
from carousel.client._tls import TLS
from carousel.client._tls import credentials as secured
from carousel.errors import CarouselError, ServerDraining, ServerUnreachable

MAX_MESSAGE_BYTES = 64 * 2**20
TENANT_HEADER = "x-carousel-tenant"

Metadata = tuple[tuple[str, str], ...]

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    # A connection that goes silent is found out within 40 s. After two pings without data gRPC
    # pauses them by itself; to ask for more would make servers hang up (too_many_pings).
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own 1 s to 120 s would outlast every retry.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.primary_user_agent", "carousel-python"),
]


@dataclass(frozen=True, slots=True)
class Door:
    """All that is needed to open a channel; None for credentials is plaintext."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: list[tuple[str, Any]]
    metadata: Metadata = field(repr=False)  # of every call, with the token
    tls: TLS | None = None  # that the credentials were made of


class Route:
    """Where to knock: at home, or at the successor that a server named when it went.

    While one of the two can't be reached, it is the other's turn.
    """

    def __init__(self, home: Door) -> None:
        self.door = self._other = home

    def leads_elsewhere_after(self, error: CarouselError) -> bool:
        """Take note of an error of a whole call; whether there is a new door now."""
        successor = error.metadata.get("successor", "")
        if isinstance(error, ServerDraining) and successor not in ("", self.door.target):
            self._other = self.door
            self.door = replace(self.door, target=successor)
            return True
        if isinstance(error, ServerUnreachable) and self.door != self._other:
            self.door, self._other = self._other, self.door
            return True
        return False


def door(target: str, tls: TLS | None, token: str | None, tenant: str) -> Door:
    """Check the caller's wishes. Raises ValueError for a token that would travel in the clear,
    and for files of TLS that are of no use; OSError for those that can't be read.
    """
    if not target:
        raise ValueError("target must be as in localhost:50051, got an empty string")
    if not re.fullmatch(r"[a-z0-9-]{0,63}", tenant):
        raise ValueError(f"tenant must be at most 63 of a-z, 0-9 and '-', got {tenant!r:.100}")
    options = list(OPTIONS)
    credentials = None if tls is None else secured(tls)
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    metadata: Metadata = ((TENANT_HEADER, tenant),) if tenant else ()
    if token is not None:
        if credentials is None:
            if not is_loopback(target):
                raise ValueError(f"a token needs TLS unless the server is local, got {target}")
            credentials = grpc.local_channel_credentials()  # plaintext that refuses to leave
        # Not as gRPC's call credentials: these do not travel without TLS, not even here.
        metadata += (("authorization", f"Bearer {_checked(token)}"),)
    return Door(target, credentials, options, metadata, tls)


def _checked(token: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", token):  # and the message must not show it
        raise ValueError("token must be printable characters without spaces")
    return token


def is_loopback(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = re.sub(r"^(dns:/{0,3}|ipv4:|ipv6:)", "", target)
    host = re.sub(r":\d+$", "", host) if not host.endswith("::1") else host
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"  # a name such as 127.example.com may mean anything
