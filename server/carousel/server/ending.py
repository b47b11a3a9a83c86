"""How calls end with an error of the catalogue: its status, details and trailers."""

from __future__ import annotations

from typing import Any

import grpc

from carousel.errors import CarouselError, to_status

DETAILS_KEY = "grpc-status-details-bin"

Context = grpc.aio.ServicerContext[Any, Any]


async def abort(
    context: Context, error: CarouselError, trailers: tuple[tuple[str, str], ...] = ()
) -> None:
    """End a call with an error of the catalogue; does not return."""
    details = to_status(error).SerializeToString()
    await context.abort(error.code, error.message, ((DETAILS_KEY, details), *trailers))
