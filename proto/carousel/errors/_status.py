"""Errors as google.rpc.Status, and back: what both ends of a call share."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from carousel.errors._base import CarouselError
from carousel.errors._moments import ResourceExhausted
from carousel.errors._requests import InvalidArgument
from carousel.errors._resources import FailedPrecondition

DOMAIN = "carousel"
RETRY_AFTER = "retry_after_seconds"

_INT_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _tree(root: type[CarouselError]) -> list[type[CarouselError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


CATALOGUE: dict[str, type[CarouselError]] = {kind.reason: kind for kind in _tree(CarouselError)}
"""Every error class by its reason."""

_BY_CODE = {kind.code: kind for kind in _tree(CarouselError)[::-1]}  # the general one wins


def to_status(error: CarouselError) -> status_pb2.Status:
    """The error as google.rpc.Status, with exactly one ErrorInfo beside its standard details."""
    info = details.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    messages: list[Message] = [info]
    if isinstance(error, InvalidArgument) and error.field:
        violation = details.BadRequest.FieldViolation(field=error.field, description=error.message)
        messages.append(details.BadRequest(field_violations=[violation]))
    if isinstance(error, FailedPrecondition):
        failed = details.PreconditionFailure.Violation(type=error.reason, description=error.message)
        messages.append(details.PreconditionFailure(violations=[failed]))
    if isinstance(error, ResourceExhausted):
        quota = details.QuotaFailure.Violation(subject=error.field, description=error.message)
        messages.append(details.QuotaFailure(violations=[quota]))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        messages.append(details.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    for message in messages:
        packed = any_pb2.Any()
        packed.Pack(message)
        status.details.append(packed)
    return status


def from_status(status: status_pb2.Status) -> CarouselError:
    """The error that `to_status` was given: matched by reason, never by text."""
    info, bad, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
    quota = details.QuotaFailure()
    for packed in status.details:
        for message in (info, bad, retry, quota):
            packed.Unpack(message)  # leaves the message alone when it is of another type
    error = from_parts(status.code, info.reason, status.message, info.metadata)
    if bad.field_violations:
        error.field = bad.field_violations[0].field
    if quota.violations:
        error.field = quota.violations[0].subject
    if retry.HasField("retry_delay"):
        error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return error


def flat_metadata(error: CarouselError) -> Mapping[str, str]:
    """The error's metadata where there is no RetryInfo beside it: with `retry_after_seconds`."""
    if error.retry_after is None:
        return error.metadata
    return {**error.metadata, RETRY_AFTER: f"{error.retry_after:.3f}"}


def from_parts(code: int, reason: str, message: str, metadata: Mapping[str, str]) -> CarouselError:
    """The error of this reason; for a reason that is not in the catalogue, its code's class.

    `metadata` may be that of `flat_metadata`.
    """
    status_code = _INT_CODES.get(code, grpc.StatusCode.UNKNOWN)
    kind = CATALOGUE.get(reason) or _BY_CODE.get(status_code, CarouselError)
    details = dict(metadata)
    seconds = details.pop(RETRY_AFTER, None)
    return kind(message, metadata=details, retry_after=None if seconds is None else float(seconds))
