"""Head: whose log it is, and what computes the steps from here on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version as release
from typing import Any

import numpy as np

from carousel.server.audit.entry import DIGEST_BYTES, Damage, Entry, digest
from carousel.server.loaded import LoadedVersion
from carousel.server.work import Floats, Inputs

LIBRARIES = {name: release(name) for name in ("torch", "onnxruntime", "numpy")}


@dataclass(frozen=True, slots=True)
class Head:
    """The first entry of a file, and written again where another model version takes over.

    `part` counts the files of one log: a server that brings a session back goes on in a file of
    its own. `continues` says where in the part before: the bytes of it that count, and the hash
    there. Of a bit-exact server the log has digests of the outputs, of any other the outputs.
    """

    session: str
    model: str
    digest: str  # of the model version, hexadecimal
    kernel: str
    device: str
    bit_exact: bool
    features: int  # of one input; 0: tokens
    outputs: int
    width: int  # of a row
    libraries: dict[str, str]
    part: int = 0
    continues: tuple[int, str] | None = None

    @classmethod
    def of(cls, session_id: str, version: LoadedVersion) -> Head:
        return cls(
            session=session_id,
            model=version.key,
            digest=version.digest.hex(),
            kernel=version.kernel.name,
            device=version.device,
            bit_exact=version.bit_exact,
            features=0 if version.config.takes_tokens else version.config.input_size,
            outputs=version.config.output_size,
            width=version.arena.width,
            libraries=LIBRARIES,
        )

    def to_payload(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_payload(cls, payload: bytes) -> Head:
        """Raises Damage for what this release can't read."""
        try:
            said: dict[str, Any] = json.loads(payload)
            size, own = said.pop("continues") or (None, None)
            return cls(**said, continues=None if size is None else (int(size), str(own)))
        except (ValueError, TypeError, KeyError) as error:
            raise Damage(f"a head can't be read: {error}") from error

    def steps(self, entry: Entry) -> tuple[Inputs, Floats | list[bytes]]:
        """What was fed, [steps, D] or [steps], and what was answered, [steps, O] or digests."""
        count, payload = entry.steps, entry.payload
        inputs: Inputs
        if self.features:
            inputs = np.frombuffer(payload, "<f4", count * self.features).reshape(count, -1)
            begin = inputs.nbytes
        else:
            inputs = np.frombuffer(payload, "<i4", count).astype(np.int64)
            begin = 4 * count
        if self.bit_exact:
            edges = range(begin, len(payload), DIGEST_BYTES)
            return inputs, [payload[at : at + DIGEST_BYTES] for at in edges]
        return inputs, np.frombuffer(payload, "<f4", offset=begin).reshape(count, self.outputs)

    def row(self, entry: Entry) -> Floats:
        """The row of a STATE, [width]."""
        return np.frombuffer(entry.payload, "<f4", self.width)


def answers(outputs: bytes, steps: int, *, exact: bool) -> bytes:
    """What the log has of outputs, row after row."""
    if not exact:
        return outputs
    size = len(outputs) // steps
    return b"".join([digest(outputs[at : at + size]) for at in range(0, len(outputs), size)])
