"""A model on disk: config.json, weights.safetensors and, for people, README.md; never pickle."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch.overrides import TorchFunctionMode

from carousel.model.config import ModelConfig
from carousel.model.errors import ConfigError, WeightsError
from carousel.model.network import Network

CONFIG, WEIGHTS, CARD = "config.json", "weights.safetensors", "README.md"
# Bytes to a number, of the types a file may hold; all of them are float32 once loaded.
DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
# Far above any header or config of ours, far below what would hurt to read.
MAX_JSON = 16 * 2**20


def save(
    folder: Path | str,
    network: Network,
    *,
    card: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the model into the folder, each file whole or not at all.

    `card` is the text of README.md; `dtype` float16 halves the file and rounds the weights.
    """
    tensors = {}
    for name, value in network.state_dict().items():
        stored = value.detach().cpu().to(dtype).contiguous()
        if not torch.isfinite(stored).all():
            raise WeightsError(f"{name} holds NaN or Inf (as {dtype}): such a model cannot be used")
        tensors[name] = stored
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS, to_bytes(tensors, metadata={"format": "carousel"}))
    _replace(folder / CONFIG, (json.dumps(network.config.to_dict(), indent=2) + "\n").encode())
    if card is not None:
        _replace(folder / CARD, card.encode())


def load(folder: Path | str) -> Network:
    """The network in the folder, in float32 on cpu, ready to run.

    Raises ConfigError or WeightsError with what is wrong. Names, shapes and types are compared with
    the config before any tensor is allocated.
    """
    folder = Path(folder)
    config = load_config(folder)
    with torch.device("meta"), _Uninitialised():  # shapes, without memory
        network = Network(config)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    _check_header(folder / WEIGHTS, expected)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{WEIGHTS} is corrupt: {error}") from None
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise WeightsError(f"{name} holds NaN or Inf")
    wide = {name: value.float().contiguous() for name, value in tensors.items()}
    network.load_state_dict(wide, assign=True)
    return network.eval()


class _Uninitialised(TorchFunctionMode):
    """Initialises nothing: that would touch the random state and, of shapes alone, import torch's
    compiler, which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") != "torch.nn.init":
            return func(*args, **(kwargs or {}))


def load_config(folder: Path | str) -> ModelConfig:
    """The config in the folder; raises ConfigError or WeightsError."""
    path = Path(folder) / CONFIG
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON + 1)
    except OSError as error:
        raise WeightsError(f"{CONFIG} cannot be read: {error.strerror}") from None
    if len(text) > MAX_JSON:
        raise ConfigError(f"{CONFIG} must be at most {MAX_JSON} bytes")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{CONFIG} is not JSON: {error}") from None
    return ModelConfig.from_dict(given)


def digest(folder: Path | str) -> str:
    """sha256 of config and weights as they lie in the folder: the identity of a version."""
    total = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (Path(folder) / name).open("rb") as file:
                part = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise WeightsError(f"{name} cannot be read: {error.strerror}") from None
        total.update(name.encode() + b"\0" + part)
    return total.hexdigest()


def _check_header(path: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse a file whose header is not exactly that of the model the config describes."""
    header, data_size = _read_header(path)
    found = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name in sorted(expected.keys() ^ found.keys()):
        what = "lacks" if name in expected else "has an unknown"
        raise WeightsError(f"{path.name} {what} tensor {name!r}: not the model of {CONFIG}")
    spans = []
    for name, shape in expected.items():
        begin, end = _span(name, found[name], shape)
        spans.append((begin, end))
    end_of_last = 0
    for begin, end in sorted(spans):
        if begin != end_of_last:
            raise WeightsError(f"{path.name} is corrupt: tensors overlap or leave gaps")
        end_of_last = end
    if end_of_last != data_size:
        raise WeightsError(
            f"{path.name} must hold {end_of_last} bytes of tensors, got {data_size}: "
            "it is truncated or has something appended"
        )


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and how many bytes follow it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_JSON):
                raise WeightsError(f"{path.name} is not a safetensors file, or it is truncated")
            header = json.loads(file.read(length), object_pairs_hook=_once)
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error.strerror}") from None
    except WeightsError:
        raise
    except (ValueError, RecursionError):  # of JSON, of UTF-8, of a number with thousands of digits
        raise WeightsError(f"{path.name} has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{path.name} has a header that is not an object")
    return header, size - 8 - length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name that comes twice would mean another tensor to another reader."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WeightsError(f"{WEIGHTS} is corrupt: its header has a name twice")
    return found


def _span(name: str, entry: object, shape: tuple[int, ...]) -> tuple[int, int]:
    """Where a tensor lies in the data, once its type and shape are as expected."""
    if not isinstance(entry, dict):
        raise WeightsError(f"{name} has a header that is not an object")
    dtype, given, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{name} must be one of {', '.join(DTYPES)}, got {dtype!r:.40}")
    if given != list(shape):
        raise WeightsError(f"{name} must have shape {list(shape)}, got {given!r:.80}")
    size = DTYPES[dtype]
    for extent in shape:
        size *= extent
    match span:
        case [int(begin), int(end)] if (
            type(begin) is type(end) is int and begin >= 0 and end - begin == size
        ):
            return begin, end
    raise WeightsError(f"{name} must take {size} bytes, got data_offsets {span!r:.80}")


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
