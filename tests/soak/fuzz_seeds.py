"""What the fuzzer begins with: a few good inputs of each target, made on the spot."""

from __future__ import annotations

import hmac
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from carousel import tensors
from carousel.model import Features, Linear, ModelConfig, Network, save
from carousel.server import records
from carousel.server.departed import Ended
from carousel.server.held.sealer import FORMAT, MAGIC, SEAL_BYTES

CONFIG = ModelConfig(cell="gru", layers=1, hidden_size=1, input=Features(1), head=Linear(1))
KEY, DIGEST = bytes(32), bytes(range(32))


def with_seal(body: bytes) -> bytes:
    """As who has the key would seal it."""
    return body + hmac.digest(KEY, body, "sha256")


def tensor_seeds() -> list[bytes]:
    values: list[npt.NDArray[Any]] = [
        np.zeros((2, 3), np.float32),
        np.arange(4),
        np.ones(1, np.float16),
        np.zeros((0, 8)),
    ]
    return [tensors.encode(value).SerializeToString() for value in values]


def sealed_seeds() -> list[bytes]:
    """Bodies with a row, without one, and of another version; and one with its seal."""
    head = MAGIC + FORMAT.to_bytes(8, "little")
    good = head + DIGEST + (7).to_bytes(8, "little") + np.ones(1, "<f4").tobytes()
    return [good, good[:-4], head + bytes(SEAL_BYTES), with_seal(good)]


def record_seeds() -> list[bytes]:
    """Records without their checksums, which the target adds."""
    tail = records.tail("m/1", kept={"0": 1}, marks={"a": [0, 2]})
    header = np.zeros(1, records.HEADER)
    header["magic"], header["tail"], header["step_index"] = records.LIVE, len(tail), 3
    header["rows"], header["width"], header["reply_steps"], header["outputs"] = 3, 1, 1, 1
    live = header.tobytes() + np.zeros(4, "<f4").tobytes() + tail
    over = Ended("x", "m/1", 1, "IDLE", 3, 0.0, 1.0)
    return [live, records.encode_ended(over)[: -records.CHECKSUM_BYTES]]


def weight_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save(folder, Network(CONFIG))
        return [(Path(folder) / "weights.safetensors").read_bytes()]


def archive_seeds() -> list[bytes]:
    found = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, x=np.zeros((2, 3, 1), np.float32), y=np.array(["a", "b"]))
        found.append(file.getvalue())
    return found


def json_line_seeds() -> list[bytes]:
    return [
        b'{"a": 1, "b": "x"}\n{"a": 2.5, "b": null}\n',
        b'\xef\xbb\xbf{"a": true}\n\n{"a": 1e9}',
    ]


def csv_seeds() -> list[bytes]:
    return [b"a,b\n1,x\n2.5,\n", b'time,"a ""b"""\n2026-01-01,"1\n2"\n', b"a\n1\n"]


def parquet_seeds() -> list[bytes]:
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "x"], "c": [0.5, None, 1.0]})
    found = []
    for compression, dictionary in (("none", True), ("snappy", False), ("gzip", True)):
        file = io.BytesIO()
        pa_parquet.write_table(table, file, compression=compression, use_dictionary=dictionary)
        found.append(file.getvalue())
    return found


def path_seeds() -> list[bytes]:
    """Of what `rooted` makes, and of what is around it."""
    return [
        *(b"good", b"sub/deep/good", b"link", b"way/good", b"back/outside/good", b"pipe"),
        *(b"../outside/good", b"sub/../good", b"sub/./good", b"/etc/passwd", b"sub//good", b"a\0"),
    ]


def rooted(folder: Path) -> Path:
    """A root with good files and with links, all of which lead to a secret outside."""
    root, outside = folder / "root", folder / "outside"
    for place, words in ((outside, "secret"), (root, "good"), (root / "sub/deep", "good")):
        place.mkdir(parents=True)
        (place / "good").write_text(words)
    for name, target in (("link", outside / "good"), ("way", outside), ("back", folder)):
        (root / name).symlink_to(target)
        (root / "sub" / name).symlink_to(target)
    os.mkfifo(root / "pipe")
    return root


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "tensors": tensor_seeds,
    "sealed": sealed_seeds,
    "records": record_seeds,
    "weights": weight_seeds,
    "archive": archive_seeds,
    "json_lines": json_line_seeds,
    "csv": csv_seeds,
    "parquet": parquet_seeds,
    "paths": path_seeds,
}
