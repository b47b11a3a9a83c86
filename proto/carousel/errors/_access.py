"""Errors of callers: who they are, and what they may do. Raised before anything is looked up."""

from __future__ import annotations

import grpc

from carousel.errors._base import CarouselError


class Unauthenticated(CarouselError):
    """The call has no valid credential; which of its faults it has is in the server's log alone."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(CarouselError):
    """The credential is valid, and has not the scope that the call needs or is another tenant's."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"
