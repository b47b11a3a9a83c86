"""The sealer: a row as bytes that only a server with the key can have made.

A sealed state is, little-endian:

    magic    8 bytes   "carousel"
    format   uint64    1
    digest   32 bytes  SHA-256 of the model version's config and weights
    index    uint64    of the next step
    row      float32   the state schema's tensors in its order; the digest fixes the schema
    seal     32 bytes  HMAC-SHA256 over all before it

The seal is looked at first, so that nothing of what a stranger sends is ever interpreted. Each
tenant has keys of its own, made of the server's: another's state is a stranger's.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

import numpy as np

from carousel.errors import SealBroken, SnapshotMismatch
from carousel.server.loaded import LoadedVersion
from carousel.server.work import Floats

MAGIC = b"carousel"
FORMAT = 1
SEAL_BYTES = 32

_HEAD = struct.Struct("<8sQ32sQ")
_FLOAT32 = np.dtype("<f4")


class Sealer:
    """Seals with the first key; opens what any of them sealed."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def of(self, tenant: str) -> Sealer:
        """That of a tenant; the operator's is this one."""
        if not tenant:
            return self
        # What is sealed begins with MAGIC, so no seal can be one of these.
        name = b"tenant " + tenant.encode()
        return Sealer([hmac.digest(key, name, "sha256") for key in self._keys])

    def seal(self, digest: bytes, step_index: int, row: Floats) -> bytes:
        """A row [width] at this step of the model version with this digest."""
        body = _HEAD.pack(MAGIC, FORMAT, digest, step_index) + row.astype(_FLOAT32).tobytes()
        return body + hmac.digest(self._keys[0], body, "sha256")

    def open(self, state: bytes, version: LoadedVersion, *, field: str) -> tuple[int, Floats]:
        """The step index and the row [width]. Raises SealBroken, SnapshotMismatch."""
        body, seal = state[:-SEAL_BYTES], state[-SEAL_BYTES:]
        if not any(
            hmac.compare_digest(hmac.digest(key, body, "sha256"), seal) for key in self._keys
        ):
            raise SealBroken(
                "the state's seal does not hold: its bytes are not those that a server gave, or "
                "that server had another key",
                field=field,
            )
        magic, number, digest, step_index = _HEAD.unpack_from(body.ljust(_HEAD.size, b"\0"))
        if (magic, number) != (MAGIC, FORMAT):
            raise SnapshotMismatch(
                f"a state must have format {FORMAT}, got {number} of {magic!r}", field=field
            )
        if digest != version.digest:
            raise SnapshotMismatch(
                f"the state is of a model version with digest {digest.hex()[:12]}, {version.name} "
                f"has {version.digest.hex()[:12]}",
                field=field,
            )
        if len(state) != sealed_bytes(version):
            raise SnapshotMismatch(
                f"a state of {version.name} must have {sealed_bytes(version)} bytes, got "
                f"{len(state)}",
                field=field,
            )
        return step_index, np.frombuffer(body, _FLOAT32, offset=_HEAD.size)


def sealed_bytes(version: LoadedVersion) -> int:
    """The length of a sealed state."""
    return _HEAD.size + version.arena.row_bytes + SEAL_BYTES
