"""The client of Carousel: numpy in, numpy out, over gRPC.

    from carousel.client import Client

    with Client("localhost:50051") as client, client.session("king-james") as session:
        for token in session.generate("To be, or", max_tokens=80):
            print(token.text, end="", flush=True)

`Client` is for threads, `AsyncClient` for an event loop; they have the same methods. All errors
of a server are classes of `carousel.errors`; its root, CarouselError, can be had from here too.
"""

import importlib as _importlib
import typing as _typing

from carousel.client._async_client import AsyncClient
from carousel.client._async_replay import AsyncReplay
from carousel.client._async_session import AsyncSession
from carousel.client._async_token_stream import AsyncTokenStream
from carousel.client._client import Client
from carousel.client._events import Event
from carousel.client._health import HealthRule, StateNotice
from carousel.client._held import HeldState
from carousel.client._inference_values import FinishReason, Token, TokenProbability, Trace
from carousel.client._inspection import GateActivity, Inspection, LayerInspection
from carousel.client._model_values import Model, ModelConfig, ModelVersion, VersionState
from carousel.client._replay import Replay
from carousel.client._replay_values import AuditEvent, ReplayedStep, ReplaySummary
from carousel.client._server_values import (
    MetricFamily,
    MetricSample,
    MetricType,
    Quota,
    ServerInfo,
    Statistics,
    StoreStatus,
    TenantQuotas,
)
from carousel.client._session import Session
from carousel.client._session_values import (
    Durability,
    EndReason,
    SessionInfo,
    SessionState,
    SessionTier,
    Snapshot,
)
from carousel.client._step_errors import StepErrors
from carousel.client._tls import TLS
from carousel.client._token_stream import TokenStream
from carousel.errors import CarouselError

if _typing.TYPE_CHECKING:
    from carousel.client._datasets_values import (
        Column,
        Dataset,
        DatasetFormat,
        DatasetState,
        TextStatistics,
    )
    from carousel.client._jobs_progress import (
        Checkpoint,
        Evaluation,
        GradientFlow,
        JobEvent,
        JobState,
        JobWarning,
        LayerGradients,
        Progress,
    )
    from carousel.client._jobs_values import Job, JobFailed, Promotion
    from carousel.client._training_recipe import (
        Classify,
        Forecast,
        LanguageModel,
        NetworkShape,
        Recipe,
        Tag,
    )

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncReplay",
    "AsyncSession",
    "AsyncTokenStream",
    "AuditEvent",
    "CarouselError",
    "Checkpoint",
    "Classify",
    "Client",
    "Column",
    "Dataset",
    "DatasetFormat",
    "DatasetState",
    "Durability",
    "EndReason",
    "Evaluation",
    "Event",
    "FinishReason",
    "Forecast",
    "GateActivity",
    "GradientFlow",
    "HealthRule",
    "HeldState",
    "Inspection",
    "Job",
    "JobEvent",
    "JobFailed",
    "JobState",
    "JobWarning",
    "LanguageModel",
    "LayerGradients",
    "LayerInspection",
    "MetricFamily",
    "MetricSample",
    "MetricType",
    "Model",
    "ModelConfig",
    "ModelVersion",
    "NetworkShape",
    "Progress",
    "Promotion",
    "Quota",
    "Recipe",
    "Replay",
    "ReplaySummary",
    "ReplayedStep",
    "ServerInfo",
    "Session",
    "SessionInfo",
    "SessionState",
    "SessionTier",
    "Snapshot",
    "StateNotice",
    "Statistics",
    "StepErrors",
    "StoreStatus",
    "Tag",
    "TenantQuotas",
    "TextStatistics",
    "Token",
    "TokenProbability",
    "TokenStream",
    "Trace",
    "VersionState",
]

# What only training needs would take a sixth of the time of the import, and comes when it is asked
# for.
_TRAINING = {
    "_datasets_values": ("Column", "Dataset", "DatasetFormat", "DatasetState", "TextStatistics"),
    "_jobs_progress": (
        "Checkpoint",
        "Evaluation",
        "GradientFlow",
        "JobEvent",
        "JobState",
        "JobWarning",
        "LayerGradients",
        "Progress",
    ),
    "_jobs_values": ("Job", "JobFailed", "Promotion"),
    "_training_recipe": ("Classify", "Forecast", "LanguageModel", "NetworkShape", "Recipe", "Tag"),
}
_LATER = {name: module for module, names in _TRAINING.items() for name in names}

if not _typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(_importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
