"""Snapshots: a row as a value, made, checked and read."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch

from carousel import tensors
from carousel.errors import (
    InvalidField,
    NonFiniteInput,
    SealBroken,
    SnapshotDamaged,
    SnapshotMismatch,
)
from carousel.server.held.keys import Keyring
from carousel.server.loaded import LoadedVersion
from carousel.server.sessions import Exported
from carousel.server.work import Floats
from carousel.v1 import session_pb2, tensor_pb2

FORMAT_VERSION = 1
MAX_STEP = 2**62
MAX_TENSORS = 64
SEALED = b"carousel snapshot"


def make(exported: Exported, keyring: Keyring) -> session_pb2.Snapshot:
    """The message for an exported row."""
    version = exported.version
    snapshot = session_pb2.Snapshot(
        format_version=FORMAT_VERSION,
        model_version=version.name,
        model_digest=version.digest,
        step_index=exported.step_index,
        tensors=[
            tensor_pb2.NamedTensor(name=name, tensor=tensors.encode(value[0].contiguous().numpy()))
            for name, value in version.schema.split(exported.row[None]).items()
        ],
        reply_index=exported.reply_index,
        reply=None if exported.reply is None else tensors.encode(exported.reply),
    )
    snapshot.create_time.FromNanoseconds(time.time_ns())
    snapshot.checksum = tensors.snapshot_checksum(snapshot)
    snapshot.seal = keyring.seal(SEALED + snapshot.checksum)
    return snapshot


def check(
    snapshot: session_pb2.Snapshot, keyring: Keyring, *, unsealed: bool
) -> session_pb2.Snapshot:
    """The snapshot as it is, or SnapshotDamaged; SealBroken, where `unsealed` ones are not taken.

    The checksum is short work, and covers all that the seal covers.
    """
    if len(snapshot.tensors) > MAX_TENSORS:
        raise SnapshotDamaged(
            f"snapshot.tensors must be at most {MAX_TENSORS}, got {len(snapshot.tensors):,}",
            field="snapshot.tensors",
        )
    if snapshot.format_version != FORMAT_VERSION:
        raise SnapshotDamaged(
            f"snapshot.format_version must be {FORMAT_VERSION}, got {snapshot.format_version}",
            field="snapshot.format_version",
        )
    if snapshot.step_index > MAX_STEP or snapshot.reply_index > snapshot.step_index:
        raise SnapshotDamaged(
            f"snapshot.step_index must be at most {MAX_STEP} and reply_index not above it, got "
            f"{snapshot.step_index} and {snapshot.reply_index}",
            field="snapshot.step_index",
        )
    if snapshot.checksum != tensors.snapshot_checksum(snapshot):
        raise SnapshotDamaged(
            "the snapshot's checksum does not match its content", field="snapshot.checksum"
        )
    if not (unsealed or keyring.holds(SEALED + snapshot.checksum, snapshot.seal)):
        raise SealBroken(
            "the snapshot's seal does not hold: it is not as a server gave it, or that server had "
            "other keys (state_key_file)",
            field="snapshot.seal",
        )
    return snapshot


def read(
    snapshot: session_pb2.Snapshot, version: LoadedVersion
) -> tuple[torch.Tensor, Floats | None]:
    """Row [width] and reply [steps, O] of a checked snapshot, or SnapshotMismatch."""
    if snapshot.model_digest != version.digest:
        raise SnapshotMismatch(
            f"the snapshot was taken of {snapshot.model_version} with digest "
            f"{snapshot.model_digest.hex()[:12]}, {version.name} has {version.digest.hex()[:12]}"
        )
    try:
        row = read_state(snapshot.tensors, version)
    except InvalidField as error:
        raise SnapshotMismatch(error.message) from error
    if not snapshot.HasField("reply"):
        return row, None
    reply = tensors.decode(snapshot.reply, field="snapshot.reply").astype(np.float32)
    if reply.ndim != 2 or reply.shape[1] != version.config.output_size:
        raise SnapshotMismatch(f"snapshot.reply has shape {list(reply.shape)}")
    if not np.isfinite(reply).all():
        raise NonFiniteInput("a reply must be finite", field="snapshot.reply")
    return row, reply


def read_state(named: Iterable[tensor_pb2.NamedTensor], version: LoadedVersion) -> torch.Tensor:
    """The row [width] of the state schema's tensors. Raises InvalidField or NonFiniteInput."""
    named = list(named)
    if len(named) > MAX_TENSORS:
        raise InvalidField(
            f"a state has at most {MAX_TENSORS} tensors, got {len(named):,}", field="initial_state"
        )
    given = {entry.name: tensors.decode(entry.tensor, field=entry.name) for entry in named}
    wanted = {spec.name: tuple(spec.shape) for spec in version.schema.tensors}
    shapes = {name: value.shape for name, value in given.items()}
    if (
        len(named) != len(given)
        or shapes != wanted
        or any(value.dtype != np.float32 for value in given.values())
    ):
        raise InvalidField(
            f"the state of {version.name} is {_shapes(wanted)} in FLOAT32, got {_shapes(shapes)}",
            field="initial_state",
        )
    if not all(np.isfinite(value).all() for value in given.values()):
        raise NonFiniteInput("a state must be finite", field="initial_state")
    parts = {name: torch.from_numpy(value.copy())[None] for name, value in given.items()}
    row: torch.Tensor = version.schema.join(parts)[0]
    return row


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"
