"""`python -m tests.soak.fuzz_targets TARGET [libFuzzer's options]`: one decoder for ever."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["carousel"]):
    from carousel import tensors
    from carousel.errors import CarouselError
    from carousel.model import Features, Linear, ModelConfig, ModelError, Network, load, save
    from carousel.model.data import describe
    from carousel.model.errors import DataError
    from carousel.server import records
    from carousel.server.held.keys import Keyring
    from carousel.v1 import session_pb2, tensor_pb2

from google.protobuf.message import DecodeError

REFUSALS = (CarouselError, ModelError, DataError, DecodeError)
FOLDER = Path(tempfile.mkdtemp())


def decode_tensor(data: bytes) -> None:
    tensors.decode(tensor_pb2.Tensor.FromString(data))


def open_sealed(data: bytes) -> None:
    snapshot = session_pb2.Snapshot.FromString(data)
    Keyring(None, FOLDER).holds(tensors.snapshot_checksum(snapshot), snapshot.seal)


def decode_record(data: bytes) -> None:
    records.decode("x", records._sealed("x", data))


def load_weights(data: bytes) -> None:
    (FOLDER / "weights.safetensors").write_bytes(data)
    load(FOLDER)


def file_of(kind: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        file = FOLDER / f"data.{hashlib.sha256(kind.encode()).hexdigest()[:4]}"
        file.write_bytes(data)
        describe(file, kind)

    return read


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tensors": decode_tensor,
    "sealed": open_sealed,
    "records": decode_record,
    "weights": load_weights,
    "archive": file_of("npz"),
    "json_lines": file_of("jsonl"),
    "csv": file_of("csv"),
    "parquet": file_of("parquet"),
}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    config = ModelConfig(cell="gru", layers=1, hidden_size=1, input=Features(1), head=Linear(1))
    save(FOLDER, Network(config))

    def once(data: bytes) -> None:
        with contextlib.suppress(*REFUSALS):
            target(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
