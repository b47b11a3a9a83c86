"""The error catalogue: one class per reason, raised by the server and raised again by the client.

CarouselError
|- InvalidArgument          a field is wrong
|  |- InvalidField, TensorMalformed, InputMismatch, NonFiniteInput, TokenOutOfRange
|  |- ChunkTooLong, MixedModels, NotGenerative, DatasetInvalid
|- NotFound                 there is no such thing, or no longer
|  |- SessionNotFound, SessionEnded, ModelNotFound, VersionNotFound, AliasNotFound
|  |- DatasetNotFound, JobNotFound, CheckpointNotFound, AuditNotFound
|- AlreadyExists            the id is taken
|  |- SessionExists, VersionExists, DatasetExists, JobExists
|- FailedPrecondition       not in this state
|  |- SessionQuarantined, SessionAtRest, ModelNotLoaded, ModelNotStepwise
|  |- ModelShared, NoTokenizer, ModelInUse, NonFiniteResult, RewindUnavailable, SnapshotMismatch
|  |- DurabilityUnsupported, WeightsInvalid, ImportRefused, StoreUnwritable
|  |- DatasetInUse, JobActive, JobNotResumable
|- Aborted                  somebody else was faster; look again
|  |- StepConflict, SessionFenced
|- ResourceExhausted        full; try later
|  |- SessionCapacity, QuotaExceeded, QueueFull, WatchCapacity, MessageTooLarge
|- Unavailable              not now; try again
|  |- ServerDraining, ModelLoading, ServerUnreachable, TlsFailed, StoreUnavailable
|  |- StreamStalled
|- DataLoss                 bytes are not what they were
|  |- SnapshotDamaged, SealBroken, UploadDamaged, StepsLost, AuditDamaged
|- Unauthenticated, PermissionDenied
|- DeadlineExceeded, Cancelled, Unimplemented, InternalError
"""

from __future__ import annotations

from carousel.errors._access import PermissionDenied, Unauthenticated
from carousel.errors._base import CarouselError
from carousel.errors._moments import (
    Aborted,
    AuditDamaged,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    InternalError,
    MessageTooLarge,
    ModelLoading,
    QueueFull,
    QuotaExceeded,
    ResourceExhausted,
    SealBroken,
    ServerDraining,
    ServerUnreachable,
    SessionCapacity,
    SessionFenced,
    SnapshotDamaged,
    StepConflict,
    StepsLost,
    StoreUnavailable,
    StreamStalled,
    TlsFailed,
    Unavailable,
    Unimplemented,
    UploadDamaged,
    WatchCapacity,
)
from carousel.errors._requests import (
    ChunkTooLong,
    DatasetInvalid,
    InputMismatch,
    InvalidArgument,
    InvalidField,
    MixedModels,
    NonFiniteInput,
    NotGenerative,
    TensorMalformed,
    TokenOutOfRange,
)
from carousel.errors._resources import (
    AliasNotFound,
    AlreadyExists,
    AuditNotFound,
    CheckpointNotFound,
    DatasetExists,
    DatasetInUse,
    DatasetNotFound,
    DurabilityUnsupported,
    FailedPrecondition,
    ImportRefused,
    JobActive,
    JobExists,
    JobNotFound,
    JobNotResumable,
    ModelInUse,
    ModelNotFound,
    ModelNotLoaded,
    ModelNotStepwise,
    ModelShared,
    NonFiniteResult,
    NotFound,
    NoTokenizer,
    RewindUnavailable,
    SessionAtRest,
    SessionEnded,
    SessionExists,
    SessionNotFound,
    SessionQuarantined,
    SnapshotMismatch,
    StoreUnwritable,
    VersionExists,
    VersionNotFound,
    WeightsInvalid,
)
from carousel.errors._status import (
    CATALOGUE,
    DOMAIN,
    flat_metadata,
    from_parts,
    from_status,
    to_status,
)

__all__ = [
    "CATALOGUE",
    "DOMAIN",
    "Aborted",
    "AliasNotFound",
    "AlreadyExists",
    "AuditDamaged",
    "AuditNotFound",
    "Cancelled",
    "CarouselError",
    "CheckpointNotFound",
    "ChunkTooLong",
    "DataLoss",
    "DatasetExists",
    "DatasetInUse",
    "DatasetInvalid",
    "DatasetNotFound",
    "DeadlineExceeded",
    "DurabilityUnsupported",
    "FailedPrecondition",
    "ImportRefused",
    "InputMismatch",
    "InternalError",
    "InvalidArgument",
    "InvalidField",
    "JobActive",
    "JobExists",
    "JobNotFound",
    "JobNotResumable",
    "MessageTooLarge",
    "MixedModels",
    "ModelInUse",
    "ModelLoading",
    "ModelNotFound",
    "ModelNotLoaded",
    "ModelNotStepwise",
    "ModelShared",
    "NoTokenizer",
    "NonFiniteInput",
    "NonFiniteResult",
    "NotFound",
    "NotGenerative",
    "PermissionDenied",
    "QueueFull",
    "QuotaExceeded",
    "ResourceExhausted",
    "RewindUnavailable",
    "SealBroken",
    "ServerDraining",
    "ServerUnreachable",
    "SessionAtRest",
    "SessionCapacity",
    "SessionEnded",
    "SessionExists",
    "SessionFenced",
    "SessionNotFound",
    "SessionQuarantined",
    "SnapshotDamaged",
    "SnapshotMismatch",
    "StepConflict",
    "StepsLost",
    "StoreUnavailable",
    "StoreUnwritable",
    "StreamStalled",
    "TensorMalformed",
    "TlsFailed",
    "TokenOutOfRange",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UploadDamaged",
    "VersionExists",
    "VersionNotFound",
    "WatchCapacity",
    "WeightsInvalid",
    "flat_metadata",
    "from_parts",
    "from_status",
    "to_status",
]

for _kind in CATALOGUE.values():
    _kind.__module__ = __name__  # a trace names the error as it is imported
