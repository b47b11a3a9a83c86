"""Files that lie about what is in them are refused before anything is made of them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from carousel import tensors
from carousel.errors import TensorMalformed
from carousel.model import Features, Linear, ModelConfig, Network, load, save
from carousel.model.data import DataError, describe
from carousel.model.data.archive import Archive
from carousel.model.errors import WeightsError
from carousel.v1 import tensor_pb2

Header = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = ModelConfig(cell="gru", layers=1, hidden_size=4, input=Features(2), head=Linear(1))
    save(tmp_path, Network(config))
    return tmp_path


def rewrite(folder: Path, change: Callable[[str], str]) -> None:
    """Change the text of the header."""
    file = folder / "weights.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length].decode()).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def test_a_name_twice_in_a_header_is_refused(folder: Path) -> None:
    def twice(text: str) -> str:
        name, entry = next((k, v) for k, v in json.loads(text).items() if k != "__metadata__")
        return text.rstrip()[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}"

    rewrite(folder, twice)
    with pytest.raises(WeightsError, match="twice"):
        load(folder)


@pytest.mark.parametrize("number", ["9" * 5000, "true", "-1", "1e3", "null"])
def test_an_offset_that_is_no_offset_is_refused(folder: Path, number: str) -> None:
    rewrite(folder, lambda text: text.replace('"data_offsets":[0,', f'"data_offsets":[{number},'))
    with pytest.raises(WeightsError):
        load(folder)


@pytest.mark.parametrize(
    "shape", [[2**31, 2**31], [1] * 1000, [2**32 - 1] * 7 + [0], [2**32 - 1] * 8]
)
def test_a_shape_that_lies_is_refused_without_memory_for_it(shape: list[int]) -> None:
    tensor = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape)
    with pytest.raises(TensorMalformed):
        tensors.decode(tensor)


def test_an_array_that_says_more_than_the_archive_holds_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    whole = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", whole)
    with pytest.raises(DataError, match="the archive"):
        Archive(tmp_path / "x.npz")


def test_a_bomb_of_an_archive_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as archive,
        archive.open("x.npy", "w") as member,
    ):
        np.lib.format.write_array(member, np.zeros(4_000_000, np.float32))
    with pytest.raises(DataError, match="times as many"):
        Archive(tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_endless_columns_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """Two hundred kilobytes of a header were minutes of work."""
    file = tmp_path / "wide"
    columns = [f"c{number}" for number in range(12_000)]
    if kind == "csv":
        file.write_text(f"{','.join(columns)}\n{','.join('1' * len(columns))}\n")
    else:
        pa_parquet.write_table(pa.table({name: [1] for name in columns}), file)
    with pytest.raises(DataError, match="12,000 columns, a table has at most 10,000"):
        describe(file, kind)


# In a process of its own: Arrow tells the most that was ever held.
REFUSED = """
import sys
import pyarrow as pa
from carousel.model.data import DataError, describe
try:
    describe(sys.argv[1], "csv")
except DataError as error:
    print(pa.default_memory_pool().max_memory(), error)
"""


@pytest.mark.parametrize("begin", ["a,b\n1,", 'a,b\n1,"', "a"])
def test_a_cell_that_never_ends_is_refused_in_bounded_memory(tmp_path: Path, begin: str) -> None:
    file = tmp_path / "x.csv"
    with file.open("w") as stream:
        stream.write(begin)
        for _ in range(64):
            stream.write("a" * 2**20)
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(file)], capture_output=True, text=True, check=True
    )
    most, _, why = done.stdout.partition(" ")
    assert int(most) < 16e6  # the file has 67 MB
    assert why.startswith("the file is not csv: ")


def test_text_of_a_parquet_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    bytes_of = pa.array([b"good", b"\xff\xfe"])
    text = pa.Array.from_buffers(pa.string(), 2, bytes_of.buffers())
    pa_parquet.write_table(pa.table({"a": text}), file)
    with pytest.raises(DataError, match=r"the file is not parquet: .*UTF8"):
        describe(file, "parquet")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{}, []], object))
    with pytest.raises(DataError):
        Archive(tmp_path / "x.npz")
