"""The root of all errors: what every one of them carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import grpc

# A status travels in headers: clients take 8 KiB, and what is not ASCII is thrice as long there.
MAX_MESSAGE_BYTES, MAX_FIELD_BYTES = 1500, 256


def _bounded(text: str, limit: int) -> str:
    if len(text) * 4 <= limit or len(text.encode(errors="replace")) <= limit:
        return text
    return text.encode(errors="replace")[: limit - 3].decode(errors="ignore") + "..."


class CarouselError(Exception):
    """Anything that Carousel refuses or fails at.

    `message` says what was wrong, what was given and what is allowed. `metadata` holds the
    reason's details as text. `field` is the request field at fault, where there is one.
    `retry_after` is in seconds, where trying again later makes sense.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field: str = "",
        retry_after: float | None = None,
    ) -> None:
        message = _bounded(message, MAX_MESSAGE_BYTES)
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.field = _bounded(field, MAX_FIELD_BYTES)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"
