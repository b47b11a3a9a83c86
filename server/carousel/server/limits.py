"""Limits: what a connection, or one caller on it, may take of the server."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, ByteSize, Field
from pydantic_settings import BaseSettings

DAY = 86_400.0
KIB = 1024

# A client may ask every 10 s whether we live; who asks more often, thrice without reason, is cut.
PING_MILLISECONDS, PING_STRIKES = 10_000, 2
# From the first byte (or none at all) to a connection that can carry calls.
HANDSHAKE_MILLISECONDS = 20_000
# Calls that wait to be taken up, before we know of them: above this gRPC cancels some at random,
# so that the others are still taken up in time: each costs 0.2 ms, even one that was taken back.
PENDING_CALLS, MOST_PENDING_CALLS = 4_500, 5_000


def off(value: object) -> object:
    """TOML and the environment have no null: `off` stands for it."""
    return None if value == "off" else value


Seconds = Annotated[float | None, BeforeValidator(off)]


class ConnectionLimits(BaseSettings):
    """What an operator can choose of connections and streams. Times are in seconds."""

    max_connections: int = Field(
        10_000, description="Connections of gRPC at once; more are closed at once.", ge=1, le=2**20
    )
    max_connection_streams: int = Field(
        4096,
        description="Calls at once on one connection; more wait at the caller.",
        ge=1,
        le=2**20,
    )
    # A token, the trace and the ids of a request fit many times; gRPC's own clients send 1 KiB.
    max_metadata_bytes: ByteSize = Field(
        ByteSize(16 * KIB),
        description="Bytes of a call's metadata, such as 16KiB.",
        ge=4 * KIB,
        le=2**20,
    )
    connection_idle: Seconds = Field(
        900.0,
        description="How long a connection without calls is kept; off: for ever.",
        ge=0.001,
        le=365 * DAY,
    )
    connection_age: Seconds = Field(
        None,
        description="How long a connection is kept before its client must make a new one; off: "
        "for ever.",
        ge=0.001,
        le=365 * DAY,
    )
    connection_grace: float = Field(
        600.0,
        description="How long calls may still run on a connection that is too old.",
        ge=0,
        le=DAY,
    )
    keepalive: Seconds = Field(
        60.0,
        description="Silence after which a connection is asked whether it lives; off: never.",
        ge=0.01,
        le=DAY,
    )
    keepalive_timeout: float = Field(
        20.0, description="How long such an answer may take.", ge=0.01, le=3600
    )
    reader_timeout: Seconds = Field(
        60.0,
        description="How long an answer on a stream may wait for a caller that does not read; "
        "off: for ever.",
        ge=0.01,
        le=DAY,
    )
    upload_timeout: Seconds = Field(
        60.0,
        description="How long an upload may bring nothing; off: for ever.",
        ge=0.01,
        le=DAY,
    )
    stream_idle: Seconds = Field(
        3600.0,
        description="How long nothing may be said on a stream of steps; off: for ever.",
        ge=0.01,
        le=365 * DAY,
    )

    max_resets: Annotated[int | None, BeforeValidator(off)] = Field(
        500,
        description="Calls a second that one network may take back where hardly any of its calls "
        "are answered; above that it is shut out. off: any number.",
        ge=1,
        le=2**31,
    )
    shut_out: float = Field(30.0, description="How long a network is shut out.", ge=0.1, le=DAY)

    def channel_options(self, max_message_bytes: int) -> tuple[tuple[str, int], ...]:
        """All of it, and what is fixed, as gRPC's arguments."""
        metadata = int(self.max_metadata_bytes)
        return (
            ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Between the two, gRPC refuses some at random.
            ("grpc.max_metadata_size", metadata),
            ("grpc.absolute_max_metadata_size", metadata),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.max_concurrent_streams", self.max_connection_streams),
            ("grpc.server.max_pending_requests", PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING_CALLS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
            ("grpc.max_connection_idle_ms", _milliseconds(self.connection_idle)),
            ("grpc.max_connection_age_ms", _milliseconds(self.connection_age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(self.connection_grace)),
            ("grpc.keepalive_time_ms", _milliseconds(self.keepalive)),
            ("grpc.keepalive_timeout_ms", _milliseconds(self.keepalive_timeout)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),  # a silent connection is asked again
            ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_MILLISECONDS),
            ("grpc.http2.max_ping_strikes", PING_STRIKES),
        )


def _milliseconds(seconds: float | None) -> int:
    """gRPC's largest number stands for never."""
    return 2**31 - 1 if seconds is None else min(max(int(seconds * 1000), 1), 2**31 - 1)
