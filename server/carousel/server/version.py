"""A version in the store: where its files are and what they say."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from carousel.errors import VersionNotFound, WeightsInvalid
from carousel.model import (
    BASELINE,
    ModelConfig,
    ModelError,
    Network,
    digest,
    load,
    load_baseline,
)
from carousel.server.names import version_name

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
CARD = "README.md"
PROMOTED = "promoted"  # an empty file

# All fit, with room, into one message of gRPC's default limit of 4 MiB.
MAX_CONFIG_BYTES = 2 * 1024**2
MAX_CARD_BYTES = 1024**2
MAX_BASELINE_BYTES = 512 * 1024

Stamp = tuple[int, int, int]


class StoredVersion(NamedTuple):
    """One immutable version; its methods read files, so call them in a thread."""

    model: str
    number: int
    folder: Path

    @property
    def name(self) -> str:
        return version_name(self.model, self.number)

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def open_weights(self) -> BinaryIO:
        try:
            return self.weights.open("rb")
        except FileNotFoundError:
            raise self._gone() from None

    def config_json(self) -> str:
        return self._read(CONFIG)

    def card(self) -> str:
        return self._read(CARD) if (self.folder / CARD).is_file() else ""

    def baseline_json(self) -> str:
        """How its gates behave on held-out data; empty where it was not trained here."""
        return self._read(BASELINE) if (self.folder / BASELINE).is_file() else ""

    def config(self) -> ModelConfig:
        return read_config(self.config_json())

    def weights_bytes(self) -> int:
        return self._stamp(WEIGHTS)[1]

    def create_time_ns(self) -> int:
        """When its config was written, in nanoseconds since 1970."""
        return self._stamp(CONFIG)[0]

    def parameters(self) -> int:
        """Numbers in the weights."""
        return _parameters(self.config())

    def digest(self) -> bytes:
        """SHA-256 of config and weights."""
        return _digest(self.folder, self._stamp(CONFIG), self._stamp(WEIGHTS))

    def weights_sha256(self) -> bytes:
        return _sha256(self.weights, self._stamp(WEIGHTS))

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self._gone() from None
        except UnicodeDecodeError:
            raise WeightsInvalid(f"{name} of {self.name} must be UTF-8 text") from None

    def _stamp(self, name: str) -> Stamp:
        """What changes when a file does: a version is immutable, its folder may be exchanged."""
        try:
            stat = (self.folder / name).stat()
        except FileNotFoundError:
            raise self._gone() from None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _gone(self) -> VersionNotFound:
        return VersionNotFound(f"there is no {self.name}: it was deleted just now", field="name")


def is_version(folder: Path) -> bool:
    """Whether both files are there, and files: no links, no devices."""
    try:
        modes = [os.lstat(folder / name).st_mode for name in (CONFIG, WEIGHTS)]
    except OSError:
        return False
    return not folder.is_symlink() and all(map(stat.S_ISREG, modes))


def is_promoted(folder: Path) -> bool:
    """Whether training made this version."""
    return (folder / PROMOTED).exists()


def read_config(text: str) -> ModelConfig:
    """The config in the text of a config.json. Raises WeightsInvalid."""
    try:
        return ModelConfig.from_dict(json.loads(text))
    except (ValueError, OverflowError, RecursionError) as error:  # a ConfigError is a ValueError
        raise WeightsInvalid(f"{CONFIG} is not valid: {error}", field=CONFIG) from None


def check_folder(folder: Path) -> None:
    """Load the model as a server would, and forget it. Raises WeightsInvalid."""
    try:
        load_baseline(folder, load(folder).config)
    except (ModelError, OverflowError, RecursionError) as error:
        raise WeightsInvalid(str(error)) from None


def max_weights_bytes(config: ModelConfig) -> int:
    """What no weights file of this config exceeds: float32 and a generous header."""
    return _parameters(config) * 4 + 1024**2


def _parameters(config: ModelConfig) -> int:
    with torch.device("meta"):  # shapes only: costs no memory, whatever the config asks for
        network = Network(config)
    return sum(parameter.numel() for parameter in network.parameters())


@lru_cache(maxsize=4096)
def _digest(folder: Path, _config: Stamp, _weights: Stamp) -> bytes:
    try:
        return bytes.fromhex(digest(folder))
    except ModelError as error:
        raise WeightsInvalid(str(error)) from None


@lru_cache(maxsize=4096)
def _sha256(file: Path, _stamp: Stamp) -> bytes:
    with file.open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").digest()
