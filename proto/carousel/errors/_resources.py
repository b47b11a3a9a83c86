"""Errors of what is not there, is there already, or is not in the right state."""

from __future__ import annotations

import grpc

from carousel.errors._base import CarouselError


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


class DatasetNotFound(NotFound):
    """There is no such dataset."""

    reason = "DATASET_NOT_FOUND"


class JobNotFound(NotFound):
    """There is no such job."""

    reason = "JOB_NOT_FOUND"


class CheckpointNotFound(NotFound):
    """The job has no such checkpoint, or no longer."""

    reason = "CHECKPOINT_NOT_FOUND"


class AuditNotFound(NotFound):
    """There is no audit log of this session: none was asked for, or it was kept long enough."""

    reason = "AUDIT_NOT_FOUND"


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


class DatasetExists(AlreadyExists):
    """A dataset of other bytes has this id."""

    reason = "DATASET_EXISTS"


class JobExists(AlreadyExists):
    """A job has this id."""

    reason = "JOB_EXISTS"


class FailedPrecondition(CarouselError):
    """The thing is not in a state that allows this."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class SessionQuarantined(FailedPrecondition):
    """A step gave NaN or infinity; it was not committed. Reset, rewind or export the session."""

    reason = "SESSION_QUARANTINED"


class SessionAtRest(FailedPrecondition):
    """The session is in the store only; AttachSession brings it back."""

    reason = "SESSION_AT_REST"


class ModelNotLoaded(FailedPrecondition):
    """The version is in the store but does not serve."""

    reason = "MODEL_NOT_LOADED"


class ModelNotStepwise(FailedPrecondition):
    """A bidirectional model needs the whole sequence and can't be stepped: use Predict."""

    reason = "MODEL_NOT_STEPWISE"


class NoTokenizer(FailedPrecondition):
    """The model has no tokenizer: give tokens instead of text."""

    reason = "NO_TOKENIZER"


class ModelShared(FailedPrecondition):
    """The model is the operator's: all tenants may use it, and none of them may change it."""

    reason = "MODEL_SHARED"


class ModelInUse(FailedPrecondition):
    """Sessions or aliases still need the version."""

    reason = "MODEL_IN_USE"


class RewindUnavailable(FailedPrecondition):
    """The session keeps no state from that step; the metadata says which are kept."""

    reason = "REWIND_UNAVAILABLE"


class NonFiniteResult(FailedPrecondition):
    """A step gave NaN or infinity; nothing came of it, and the state before it is still good."""

    reason = "NON_FINITE_RESULT"


class SnapshotMismatch(FailedPrecondition):
    """The snapshot or held state is of another model version or another state schema."""

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
    """The server can't write to its store."""

    reason = "STORE_UNWRITABLE"


class DatasetInUse(FailedPrecondition):
    """A job that has not ended learns from the dataset, or its bytes are arriving."""

    reason = "DATASET_IN_USE"


class JobActive(FailedPrecondition):
    """The job has not ended yet."""

    reason = "JOB_ACTIVE"


class JobNotResumable(FailedPrecondition):
    """Only a job that failed or was cancelled can go on."""

    reason = "JOB_NOT_RESUMABLE"
