"""Errors of the moment: somebody was faster, something is full, gone, damaged or too late."""

from __future__ import annotations

import grpc

from carousel.errors._base import CarouselError


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


class QuotaExceeded(ResourceExhausted):
    """The tenant has, or does, as much as it may; `quota`, `limit` and `in_use` say of what."""

    reason = "QUOTA_EXCEEDED"


class QueueFull(ResourceExhausted):
    """Too much work waits already."""

    reason = "QUEUE_FULL"


class WatchCapacity(ResourceExhausted):
    """The server watches as many sessions as it can; the first is let go of in `retry_after`."""

    reason = "WATCH_CAPACITY"


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


class ModelLoading(Unavailable):
    """The version is on its way into service."""

    reason = "MODEL_LOADING"


class ServerUnreachable(Unavailable):
    """No connection to the server, or it broke."""

    reason = "SERVER_UNREACHABLE"


class TlsFailed(ServerUnreachable):
    """A certificate is wrong, missing or expired, or one of the two sides speaks no TLS."""

    reason = "TLS_FAILED"


class StoreUnavailable(Unavailable):
    """The store of durable sessions can't be reached, is full or broken; nothing was lost."""

    reason = "STORE_UNAVAILABLE"


class StreamStalled(Unavailable):
    """The stream was cut: nothing was read from it, or written to it, for too long."""

    reason = "STREAM_STALLED"


class DataLoss(CarouselError):
    """Bytes are not what they were."""

    code = grpc.StatusCode.DATA_LOSS
    reason = "DATA_LOSS"


class SnapshotDamaged(DataLoss):
    """The snapshot's checksum or layout does not hold."""

    reason = "SNAPSHOT_DAMAGED"


class SealBroken(DataLoss):
    """The held state was altered, or sealed under a key that this server does not have."""

    reason = "SEAL_BROKEN"


class UploadDamaged(DataLoss):
    """The bytes that arrived are not those that were announced."""

    reason = "UPLOAD_DAMAGED"


class StepsLost(DataLoss):
    """The server no longer has steps which the caller knows to be durable."""

    reason = "STEPS_LOST"


class AuditDamaged(DataLoss):
    """The chain of an audit log breaks at `step_index` of the metadata: something was changed."""

    reason = "AUDIT_DAMAGED"


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
