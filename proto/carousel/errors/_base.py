"""The root of all errors: what every one of them carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import grpc


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
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.field = field
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"
