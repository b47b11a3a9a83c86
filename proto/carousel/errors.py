"""The error catalogue: one class per reason, raised by the server and raised again by the client.

CarouselError
|- InvalidArgument          a field is wrong
|  |- InvalidField, TensorMalformed, InputMismatch, NonFiniteInput, TokenOutOfRange
|  |- ChunkTooLong, MixedModels, NotGenerative
|- NotFound                 there is no such thing, or no longer
|  |- SessionNotFound, SessionEnded, ModelNotFound, VersionNotFound, AliasNotFound
|- AlreadyExists            the id is taken
|  |- SessionExists, VersionExists
|- FailedPrecondition       not in this state
|  |- SessionQuarantined, ModelNotLoaded, ModelNotStepwise, NoTokenizer, ModelInUse
|  |- RewindUnavailable, SnapshotMismatch, DurabilityUnsupported, WeightsInvalid
|  |- ImportRefused, StoreUnwritable
|- Aborted                  somebody else was faster; look again
|  |- StepConflict, SessionFenced
|- ResourceExhausted        full; try later
|  |- SessionCapacity, QueueFull, MessageTooLarge
|- Unavailable              not now; try again
|  |- ServerDraining, ServerUnreachable
|- DataLoss                 bytes are not what they were
|  |- SnapshotDamaged, UploadDamaged, StepsLost
|- DeadlineExceeded, Cancelled, Unimplemented, InternalError
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

DOMAIN = "carousel"

_INT_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


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


class InvalidArgument(CarouselError):
    """A request that no state of the server could satisfy."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class InvalidField(InvalidArgument):
    """A field is missing, malformed or out of its range."""

    reason = "INVALID_FIELD"


class TensorMalformed(InvalidArgument):
    """A tensor's type, shape and bytes do not fit together."""

    reason = "TENSOR_MALFORMED"


class InputMismatch(InvalidArgument):
    """The inputs are not what the model takes, in type, width or number."""

    reason = "INPUT_MISMATCH"


class NonFiniteInput(InvalidArgument):
    """An input is NaN or infinite."""

    reason = "NON_FINITE_INPUT"


class TokenOutOfRange(InvalidArgument):
    """A token is negative, at or above the vocabulary's size, or a character is not in it."""

    reason = "TOKEN_OUT_OF_RANGE"


class ChunkTooLong(InvalidArgument):
    """An item has more steps than the server takes at once, or none."""

    reason = "CHUNK_TOO_LONG"


class MixedModels(InvalidArgument):
    """An item's session is of another model version than the message's first session."""

    reason = "MIXED_MODELS"


class NotGenerative(InvalidArgument):
    """Only a model from tokens to a softmax over the same tokens can generate."""

    reason = "NOT_GENERATIVE"


class NotFound(CarouselError):
    """There is no such thing, or no longer."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class SessionNotFound(NotFound):
    """No session has this id or handle, and none had it within the last hour."""

    reason = "SESSION_NOT_FOUND"


class SessionEnded(NotFound):
    """The session is over; `end_reason` in the metadata says why."""

    reason = "SESSION_ENDED"


class ModelNotFound(NotFound):
    """The store has no such model."""

    reason = "MODEL_NOT_FOUND"


class VersionNotFound(NotFound):
    """The model has no such version."""

    reason = "VERSION_NOT_FOUND"


class AliasNotFound(NotFound):
    """The model has no such alias."""

    reason = "ALIAS_NOT_FOUND"


class AlreadyExists(CarouselError):
    """The id is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class SessionExists(AlreadyExists):
    """A live session has this id."""

    reason = "SESSION_EXISTS"


class VersionExists(AlreadyExists):
    """The model has this version already; versions never change."""

    reason = "VERSION_EXISTS"


class FailedPrecondition(CarouselError):
    """The thing is not in a state that allows this."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class SessionQuarantined(FailedPrecondition):
    """A step gave NaN or infinity; it was not committed. Reset, rewind or export the session."""

    reason = "SESSION_QUARANTINED"


class ModelNotLoaded(FailedPrecondition):
    """The version is in the store but does not serve."""

    reason = "MODEL_NOT_LOADED"


class ModelNotStepwise(FailedPrecondition):
    """A bidirectional model needs the whole sequence and can't be stepped: use Predict."""

    reason = "MODEL_NOT_STEPWISE"


class NoTokenizer(FailedPrecondition):
    """The model has no tokenizer: give tokens instead of text."""

    reason = "NO_TOKENIZER"


class ModelInUse(FailedPrecondition):
    """Sessions or aliases still need the version."""

    reason = "MODEL_IN_USE"


class RewindUnavailable(FailedPrecondition):
    """The session keeps no state from that step; the metadata says which are kept."""

    reason = "REWIND_UNAVAILABLE"


class SnapshotMismatch(FailedPrecondition):
    """The snapshot is of another model version or another state schema."""

    reason = "SNAPSHOT_MISMATCH"


class DurabilityUnsupported(FailedPrecondition):
    """This server can't keep sessions in this class of durability."""

    reason = "DURABILITY_UNSUPPORTED"


class WeightsInvalid(FailedPrecondition):
    """Config or weights are corrupt, foreign, or do not fit together."""

    reason = "WEIGHTS_INVALID"


class ImportRefused(FailedPrecondition):
    """The path is not a model folder under the server's import root."""

    reason = "IMPORT_REFUSED"


class StoreUnwritable(FailedPrecondition):
    """The server can't write to its model store."""

    reason = "STORE_UNWRITABLE"


class Aborted(CarouselError):
    """The session moved on without the caller."""

    code = grpc.StatusCode.ABORTED
    reason = "ABORTED"


class StepConflict(Aborted):
    """The step index is neither the next nor the last; `expected_step` is in the metadata."""

    reason = "STEP_CONFLICT"


class SessionFenced(Aborted):
    """The handle is of a former incarnation: the session was attached, rewound or reset."""

    reason = "SESSION_FENCED"


class ResourceExhausted(CarouselError):
    """Something is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class SessionCapacity(ResourceExhausted):
    """There is no room for another session."""

    reason = "SESSION_CAPACITY"


class QueueFull(ResourceExhausted):
    """Too much work waits already."""

    reason = "QUEUE_FULL"


class MessageTooLarge(ResourceExhausted):
    """A message is larger than the limit."""

    reason = "MESSAGE_TOO_LARGE"


class Unavailable(CarouselError):
    """The server can't be had right now."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class ServerDraining(Unavailable):
    """The server is shutting down and takes nothing new."""

    reason = "SERVER_DRAINING"


class ServerUnreachable(Unavailable):
    """No connection to the server, or it broke."""

    reason = "SERVER_UNREACHABLE"


class DataLoss(CarouselError):
    """Bytes are not what they were."""

    code = grpc.StatusCode.DATA_LOSS
    reason = "DATA_LOSS"


class SnapshotDamaged(DataLoss):
    """The snapshot's checksum or layout does not hold."""

    reason = "SNAPSHOT_DAMAGED"


class UploadDamaged(DataLoss):
    """The bytes that arrived are not those that were announced."""

    reason = "UPLOAD_DAMAGED"


class StepsLost(DataLoss):
    """The server no longer has steps which the caller knows to be durable."""

    reason = "STEPS_LOST"


class DeadlineExceeded(CarouselError):
    """The deadline passed before the work was computed; nothing was committed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Cancelled(CarouselError):
    """The caller went away; committed steps stay."""

    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"


class Unimplemented(CarouselError):
    """The server does not know this method."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class InternalError(CarouselError):
    """A bug of the server; its log has the trace under the request id."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


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
    for packed in status.details:
        for message in (info, bad, retry):
            packed.Unpack(message)  # leaves the message alone when it is of another type
    error = from_parts(status.code, info.reason, status.message, info.metadata)
    if bad.field_violations:
        error.field = bad.field_violations[0].field
    if retry.HasField("retry_delay"):
        error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return error


def from_parts(code: int, reason: str, message: str, metadata: Mapping[str, str]) -> CarouselError:
    """The error of this reason; for a reason that is not in the catalogue, its code's class."""
    status_code = _INT_CODES.get(code, grpc.StatusCode.UNKNOWN)
    kind = CATALOGUE.get(reason) or _BY_CODE.get(status_code, CarouselError)
    return kind(message, metadata=metadata)
