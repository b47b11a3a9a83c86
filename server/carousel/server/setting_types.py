"""Types of settings: what the environment and the file of settings write as text, checked."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from carousel.errors import InvalidField
from carousel.exposition import is_loopback
from carousel.server.names import ModelRef

DEFAULT_PORT = 50_051

_INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://")


def _off(value: object) -> object:
    """TOML and the environment have no null: `off` stands for it."""
    return None if value == "off" else value


def is_injected(port: object) -> bool:
    return isinstance(port, str) and _INJECTED_PORT.match(port) is not None


def _not_injected(port: object) -> object:
    """Kubernetes sets CAROUSEL_PORT to a URL beside a service named carousel; it is not meant."""
    return DEFAULT_PORT if is_injected(port) else port


def _split(value: object) -> object:
    """A list in the environment is separated by commas."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {value!r}")
    return value


def _model(value: str) -> str:
    name = value if value.startswith("models/") else f"models/{value}"
    try:
        return str(ModelRef.parse(name, field="each of load"))
    except InvalidField as error:
        raise ValueError(error.message) from None


def _database_url(value: SecretStr) -> SecretStr:
    if not re.match(r"postgres(ql)?(\+psycopg)?://", value.get_secret_value()):
        raise ValueError("database_url must begin with postgresql://; unset: SQLite is used")
    return value


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"otlp_endpoint must be as in http://localhost:4317, got {value!r}")
    return value


def _jwks(value: str) -> str:
    parts = urlsplit(value)
    https = parts.scheme == "https" and parts.hostname
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if "://" in value and not (https or local):
        raise ValueError(
            f"jwt_jwks must be a file or begin with https:// (http:// on loopback), got {value!r}"
        )
    return value


def _sharing(count: int) -> int:
    if count and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("frontends must be 0 where ports can't be shared (SO_REUSEPORT)")
    return count


UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
Models = Annotated[
    tuple[Annotated[str, AfterValidator(_model)], ...], NoDecode, BeforeValidator(_split)
]
Folders = Annotated[tuple[UserPath, ...], NoDecode, BeforeValidator(_split)]

Port = Annotated[int, BeforeValidator(_not_injected)]
FrontEnds = Annotated[int, AfterValidator(_sharing)]
Off = BeforeValidator(_off)
Device = Annotated[str, AfterValidator(_device)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Jwks = Annotated[str, AfterValidator(_jwks)]


def default_store() -> Path:
    home = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "share"
    return base / "carousel" / "models"
