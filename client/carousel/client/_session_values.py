"""Sessions and snapshots as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from carousel import tensors
from carousel.client._inputs import Floats
from carousel.client._times import to_datetime, to_timedelta
from carousel.errors import InvalidField, SnapshotDamaged, TensorMalformed
from carousel.v1 import session_pb2, tensor_pb2


class SessionState(StrEnum):
    """Where a session is in its life."""

    ACTIVE = "active"
    QUARANTINED = "quarantined"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a session ended."""

    CLOSED = "closed"
    IDLE = "idle"
    LIFETIME = "lifetime"
    EVICTED = "evicted"
    QUARANTINED = "quarantined"
    DRAINED = "drained"
    ERROR = "error"


class Durability(StrEnum):
    """What of a session survives a crash of its server.

    `memory`: nothing. `async`: all; the client sends the last moments again by itself. `sync`: an
    answer comes when its step is in the server's store.
    """

    MEMORY = "memory"
    ASYNC = "async"
    SYNC = "sync"


class SessionTier(StrEnum):
    """Where the state of a live session lies."""

    DEVICE = "device"
    HOST = "host"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the server described it at one moment.

    `step_index` is the index of its next step. `ttl` is the idle time after which it ends,
    `lifetime` the age at which it ends whatever happens (None: never). `end_reason` is None while
    it lives. `state_bytes` is the size of its recurrent state. `durable_index`: steps below it are
    in the server's store. `bookmarks` are step indexes by name. `tier` is None after the end.
    `audited`: everything that changes its state is logged, for `Client.replay`. `tenant` is whose
    it is: only the operator, the empty tenant, sees those of others.
    """

    name: str
    model_version: str
    step_index: int
    durable_index: int
    state: SessionState
    end_reason: EndReason | None
    shard: int
    ttl: timedelta
    lifetime: timedelta | None
    rewind_depth: int
    create_time: datetime
    last_use_time: datetime
    expire_time: datetime
    state_bytes: int
    durability: Durability
    tier: SessionTier | None
    bookmarks: Mapping[str, int]
    audited: bool
    tenant: str = ""

    @property
    def id(self) -> str:
        return self.name.removeprefix("sessions/")


def session_info(message: session_pb2.Session) -> SessionInfo:
    return SessionInfo(
        name=message.name,
        model_version=message.model_version,
        step_index=message.step_index,
        durable_index=message.durable_index,
        state=_STATES[message.state],
        end_reason=_END_REASONS.get(message.end_reason),
        shard=message.shard,
        ttl=to_timedelta(message.ttl),
        lifetime=to_timedelta(message.lifetime) if message.HasField("lifetime") else None,
        rewind_depth=message.rewind_depth,
        create_time=to_datetime(message.create_time),
        last_use_time=to_datetime(message.last_use_time),
        expire_time=to_datetime(message.expire_time),
        state_bytes=message.state_bytes,
        durability=_DURABILITIES.get(message.durability, Durability.MEMORY),
        tier=_TIERS.get(message.tier),
        bookmarks={mark.name: mark.step_index for mark in message.bookmarks},
        audited=message.audited,
        tenant=message.tenant,
    )


def durability_number(durability: str | None) -> session_pb2.Durability.ValueType:
    """The number of a class of durability; None: the server's default."""
    if durability is None:
        return session_pb2.DURABILITY_UNSPECIFIED
    try:
        return session_pb2.Durability.Value(f"DURABILITY_{durability.upper()}")
    except ValueError:
        raise InvalidField(
            f"durability must be one of {', '.join(Durability)}, got {durability!r}",
            field="durability",
        ) from None


_STATES: dict[int, SessionState] = {
    number: SessionState(name.removeprefix("SESSION_STATE_").lower())
    for name, number in session_pb2.SessionState.items()
    if number
}
_DURABILITIES: dict[int, Durability] = {
    number: Durability(name.removeprefix("DURABILITY_").lower())
    for name, number in session_pb2.Durability.items()
    if number
}
_TIERS: dict[int, SessionTier] = {
    number: SessionTier(name.removeprefix("SESSION_TIER_").lower())
    for name, number in session_pb2.SessionTier.items()
    if number
}
_END_REASONS: dict[int, EndReason] = {
    number: EndReason(name.removeprefix("END_REASON_").lower())
    for name, number in session_pb2.EndReason.items()
    if number
}


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One session's state as a value: enough to go on elsewhere or later.

    `tensors` are the state schema's, each [L, H] float32. Keep it as bytes: `to_bytes`,
    `from_bytes`.
    """

    model_version: str
    model_digest: str
    step_index: int
    create_time: datetime
    tensors: Mapping[str, Floats]
    _data: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """The snapshot with its checksum, to be kept anywhere."""
        return self._data

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """What `to_bytes` gave. Raises SnapshotDamaged when it is not quite that."""
        try:
            message = session_pb2.Snapshot.FromString(data)
        except DecodeError as error:
            raise SnapshotDamaged(f"these {len(data)} bytes are no snapshot: {error}") from error
        if message.checksum != tensors.snapshot_checksum(message):
            raise SnapshotDamaged("the snapshot's checksum does not hold")
        try:
            return snapshot(message)
        except TensorMalformed as error:
            raise SnapshotDamaged(error.message) from error


def snapshot(message: session_pb2.Snapshot) -> Snapshot:
    return Snapshot(
        model_version=message.model_version,
        model_digest=message.model_digest.hex(),
        step_index=message.step_index,
        create_time=to_datetime(message.create_time),
        tensors=named_arrays(message.tensors),
        _data=message.SerializeToString(),
    )


def snapshot_message(value: Snapshot) -> session_pb2.Snapshot:
    return session_pb2.Snapshot.FromString(value.to_bytes())


def named_arrays(named: Any) -> dict[str, Floats]:
    """Repeated NamedTensor as read-only arrays by name."""
    return {one.name: tensors.decode(one.tensor, field=one.name) for one in named}


def named_tensors(state: Mapping[str, npt.ArrayLike]) -> list[tensor_pb2.NamedTensor]:
    """Arrays by name as float32 tensors."""
    return [
        tensor_pb2.NamedTensor(name=name, tensor=tensors.encode(np.asarray(array, np.float32)))
        for name, array in state.items()
    ]
