"""`python -m tests.soak.fuzz_targets TARGET [libFuzzer's options]`: one decoder for ever."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["carousel"]):  # pyright: ignore[reportAttributeAccessIssue]
    from carousel import tensors
    from carousel.errors import CarouselError
    from carousel.model import ModelError, Network, load, save
    from carousel.model.data import describe
    from carousel.model.errors import DataError
    from carousel.server import records
    from carousel.server.departed import Ended
    from carousel.server.held.sealer import Sealer
    from carousel.server.loaded import LoadedVersion
    from carousel.server.metrics import Metrics
    from carousel.server.settings import Settings
    from carousel.server.training.data_folder import DataFolder
    from carousel.v1 import tensor_pb2

from google.protobuf.message import DecodeError

from tests.soak.fuzz_seeds import CONFIG, DIGEST, KEY, SEEDS, rooted, with_seal

REFUSALS = (CarouselError, ModelError, DataError, DecodeError)
FOLDER = Path(tempfile.mkdtemp(prefix="carousel-fuzz-"))
SEALER = Sealer([KEY])


def decode_tensor(data: bytes) -> None:
    tensors.decode(tensor_pb2.Tensor.FromString(data))


@functools.cache
def version() -> LoadedVersion:
    return LoadedVersion(
        Network(CONFIG),
        model="m",
        version=1,
        ordinal=1,
        digest=DIGEST,
        device="cpu",
        settings=Settings.read(),
        metrics=Metrics().version("m", 1),
    )


def open_sealed(data: bytes) -> None:
    """As it comes, and as somebody with the key would send it: no fuzzer guesses a seal."""
    for state in (data, with_seal(data)):
        with contextlib.suppress(*REFUSALS):
            index, row = SEALER.open(state, version(), field="states[0]")
            if row.shape != (version().schema.width,) or index < 0:
                raise AssertionError(f"it opened as {row.shape} at {index}")


def decode_record(data: bytes) -> None:
    found = records.decode("x", records._sealed("x", data))
    if isinstance(found, Ended):
        found.error()
    else:
        found.rows[[place for _, place in found.marks.values()] + [*found.kept.values()]].copy()


def load_weights(data: bytes) -> None:
    (FOLDER / "weights.safetensors").write_bytes(data)
    load(FOLDER)


@functools.cache
def data_folder() -> DataFolder:
    return DataFolder(FOLDER / "data", (rooted(FOLDER),))


def open_path(data: bytes) -> None:
    with data_folder().open_uri(data.decode(errors="ignore")) as file:
        if file.read() != b"good":
            raise AssertionError(f"{data!r} leads out of the root")


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
    "paths": open_path,
}


def main() -> None:
    """libFuzzer grows a corpus of its own in a folder; it begins with the seeds."""
    name = sys.argv.pop(1)
    save(FOLDER, Network(CONFIG))
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        with contextlib.suppress(*REFUSALS):
            TARGETS[name](data)

    atheris.Setup([*sys.argv, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
