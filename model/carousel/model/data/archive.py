"""A NumPy archive to a corpus: x [N, D] or [N] with starts [S + 1], or x [S, T, D]; and y."""

from __future__ import annotations

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from carousel.model.config import MAX_SIZE, MAX_VOCABULARY
from carousel.model.data.corpus import Array, Corpus, CorpusWriter
from carousel.model.data.labelled import check_labels, sorted_labels, split_labelled
from carousel.model.data.segments import shares
from carousel.model.data.statistics import fill_missing, normalization_of
from carousel.model.data.tasks import ClassifyTask, TagTask
from carousel.model.errors import DataError

# Bytes of an array that are read at once.
PIECE = 1 << 22
MAX_ARRAYS, MAX_RANK = 16, 8
# Deflate, which numpy takes, ends at 1032; other ways to pack can make a bomb of next to nothing.
MAX_RATIO = 1100
# What zipfile and numpy raise for bytes that nobody meant; RuntimeError: they are encrypted.
DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, OverflowError, MemoryError)


class Archive:
    """The arrays of a file, read in pieces; never pickled objects. Raises DataError."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        with self._reading() as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in self.shapes or len(self.shapes) == MAX_ARRAYS:
                    raise DataError(
                        f"an archive has at most {MAX_ARRAYS} arrays, each once, got {name!r:.80}"
                    )
                with archive.open(member) as file:
                    shape, dtype = self._header(file, name)
                self.shapes[name], self._dtypes[name] = shape, dtype.newbyteorder("=")
                self._check_size(member, name)
        self._check()

    @property
    def rows(self) -> int:
        """Steps in all."""
        shape = self.shapes["x"]
        return shape[0] * shape[1] if len(shape) == 3 else shape[0]

    @property
    def types(self) -> dict[str, Any]:
        """The Arrow type of each array."""
        return {
            name: pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype)
            for name, dtype in self._dtypes.items()
        }

    def batches(self) -> Iterator[tuple[str, Any]]:
        """Pieces of every array, flat, as (name, pyarrow.Array)."""
        for name in self.shapes:
            for piece in self.pieces(name):
                yield name, pa.array(piece.ravel())

    def read(self, name: str) -> Array:
        """A whole array."""
        found = list(self.pieces(name))
        return np.concatenate(found) if found else np.empty(self.shapes[name], self._dtypes[name])

    def pieces(self, name: str) -> Iterator[Array]:
        """An array in pieces along its first axis; a single number is an array of one."""
        shape = self.shapes[name] or (1,)
        dtype, row = self._dtypes[name], 1
        each = max(1, math.prod(shape[1:]) * dtype.itemsize)
        left = shape[0]
        with self._reading() as archive, archive.open(f"{name}.npy") as file:
            _, stored = self._header(file, name)
            while left:
                count = min(left, max(1, PIECE // each))
                data = file.read(count * each)
                if len(data) != count * each:
                    raise DataError("the file ends within its array", column=name)
                piece = np.frombuffer(data, stored).astype(dtype, copy=False)
                _check_text(piece, name, row)
                yield piece.reshape(count, *shape[1:])
                left, row = left - count, row + count

    def _header(self, file: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise DataError(f"version {version} of .npy is not known", column=name)
        shape, fortran, dtype = read(file)
        if dtype.kind not in "biufU" or (dtype.kind == "f" and dtype.itemsize > 8):
            raise DataError(f"an array must have numbers or text, got {dtype}", column=name)
        if fortran and len(shape) > 1:
            raise DataError(
                "an array must be in C order: save numpy.ascontiguousarray of it", column=name
            )
        return shape, dtype

    def _check_size(self, member: zipfile.ZipInfo, name: str) -> None:
        """A small file must not say that it is a huge one."""
        shape = self.shapes[name]
        size = math.prod(shape) * self._dtypes[name].itemsize
        if len(shape) > MAX_RANK or size > member.file_size:
            raise DataError(
                f"the array says {size:,} bytes of shape {list(shape)[:MAX_RANK]}, the archive "
                f"{member.file_size:,}",
                column=name,
            )
        if member.file_size > MAX_RATIO * member.compress_size + PIECE:
            raise DataError(
                f"{member.compress_size:,} bytes may become at most {MAX_RATIO} times as many, "
                f"got {member.file_size:,}",
                column=name,
            )

    def _check(self) -> None:
        if "x" not in self.shapes:
            raise DataError(
                f"an archive must have the array x, got {', '.join(self.shapes) or 'none'}"
            )
        shape, kind = self.shapes["x"], self._dtypes["x"].kind
        if len(shape) not in (1, 2, 3) or kind == "U":
            raise DataError(
                f"x must be numbers [N], [N, D] or [S, T, D], got {shape} of {self._dtypes['x']}",
                column="x",
            )
        if not all(shape):
            raise DataError(f"x must not be empty, got shape {shape}", column="x")

    @contextmanager
    def _reading(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except DataError:
            raise
        except (*DAMAGE, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error) as error:
            raise DataError(f"the file is no NumPy archive: {error}") from None


def prepare_archive(
    path: Path | str,
    task: ClassifyTask | TagTask,
    folder: Path | str,
    *,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
) -> Corpus:
    """The corpus of an archive: whole numbers x [N] are tokens, all else is read as float32.

    NaN in x is a missing value. Raises DataError for data that cannot be learned from.
    """
    edges = shares(validation_share, test_share)
    archive = Archive(path)
    if "y" not in archive.shapes:
        raise DataError("an archive must have the array y, with the labels", column="y")
    starts, codes, labels = _starts(archive), *_labels(archive, task)
    count = len(starts) - 1 if isinstance(task, ClassifyTask) else archive.rows
    if len(codes) != count:
        raise DataError(
            f"y must have {count} labels, one for each "
            f"{'sequence' if isinstance(task, ClassifyTask) else 'step'}, got {len(codes)}",
            column="y",
        )
    writer = CorpusWriter(folder)
    vocabulary, missing = _write_steps(archive, writer)
    segments = split_labelled(starts, codes, edges, seed)
    check_labels(segments, starts, codes, labels, column="y", row=lambda place: place + 1)
    normalization = None
    inputs: tuple[str, ...] = ("x",)
    if not vocabulary:
        steps = writer.map("steps")
        inputs = tuple(f"x[{i}]" for i in range(steps.shape[1]))
        normalization = normalization_of(steps, segments["train"], inputs)
        if missing:
            fill_missing(writer, starts, normalization.mean, 0)
    writer.append("targets", codes)
    writer.append("starts", starts)
    return writer.seal(
        task,
        segments,
        inputs=inputs,
        labels=labels,
        vocabulary=vocabulary,
        normalization=normalization,
    )


def _check_text(piece: Array, name: str, row: int) -> None:
    """Raise DataError for what calls itself text and has numbers that are no characters."""
    if piece.dtype.kind != "U" or not piece.dtype.itemsize:
        return
    points = piece.view(np.uint32)
    wrong = (points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))
    if wrong.any():
        place = int(wrong.argmax()) * len(piece) // len(points)
        raise DataError(
            f"the text has U+{points[wrong][0]:X}, which is no character",
            row=row + place,
            column=name,
        )


def _starts(archive: Archive) -> Array:
    shape = archive.shapes["x"]
    if len(shape) == 3:
        return np.arange(shape[0] + 1, dtype=np.int64) * shape[1]
    if "starts" not in archive.shapes:
        return np.array([0, archive.rows], np.int64)
    starts = archive.read("starts")
    fine = starts.ndim == 1 and starts.dtype.kind in "iu" and len(starts) >= 2
    if not fine or starts[0] != 0 or starts[-1] != archive.rows:
        raise DataError(
            f"starts must be whole numbers from 0 to {archive.rows}, the length of x",
            column="starts",
        )
    short = np.flatnonzero(np.diff(starts.astype(np.int64)) <= 0)
    if len(short):
        raise DataError(
            f"every start must be above the one before it, got {starts[short[0] + 1]} "
            f"after {starts[short[0]]}",
            row=int(short[0]) + 2,
            column="starts",
        )
    return starts.astype(np.int64)


def _labels(archive: Archive, task: ClassifyTask | TagTask) -> tuple[Array, tuple[str, ...]]:
    y = archive.read("y")
    if y.dtype.kind not in "biuU":
        raise DataError(f"labels must be whole numbers or text, got {y.dtype}", column="y")
    if isinstance(task, TagTask):
        y = y.reshape(-1)
    if y.ndim != 1:
        raise DataError(f"y must be [S] to classify, got {y.shape}", column="y")
    values, codes = np.unique(y, return_inverse=True)
    names = tuple(str(value).lower() if y.dtype.kind == "b" else str(value) for value in values)
    labels = sorted_labels(names)
    places: Mapping[str, int] = {label: i for i, label in enumerate(labels)}
    return np.array([places[name] for name in names], np.int32)[codes], labels


def _write_steps(archive: Archive, writer: CorpusWriter) -> tuple[int, bool]:
    """The vocabulary (0: numbers), and whether values are missing."""
    tokens = len(archive.shapes["x"]) == 1 and archive.types["x"] in INTEGERS
    row, largest, missing = 1, -1, False
    for piece in archive.pieces("x"):
        values = piece.reshape(-1, piece.shape[-1]) if piece.ndim == 3 else piece
        if tokens:
            wrong = np.flatnonzero((values < 0) | (values >= MAX_VOCABULARY))
            if len(wrong):
                raise DataError(
                    f"tokens must be 0 to {MAX_VOCABULARY - 1}, got {values[wrong[0]]}",
                    row=row + int(wrong[0]),
                    column="x",
                )
            largest = max(largest, int(values.max()))
            writer.append("steps", values.astype(np.uint32))
        else:
            values = values.reshape(len(values), -1)
            if values.shape[1] > MAX_SIZE:
                raise DataError(f"steps must have at most {MAX_SIZE} numbers", column="x")
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
            infinite = np.argwhere(np.isinf(values))
            if len(infinite):
                raise DataError(
                    "numbers must be finite and at most 3.4e38, got Inf",
                    row=row + int(infinite[0][0]),
                    column=f"x[{infinite[0][1]}]",
                )
            missing = missing or bool(np.isnan(values).any())
            writer.append("steps", values)
        row += len(values)
    return largest + 1, missing


INTEGERS = [
    pa.from_numpy_dtype(np.dtype(f"{kind}{size}")) for kind in "iu" for size in (1, 2, 4, 8)
]
