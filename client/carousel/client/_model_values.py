"""Models and their versions as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from carousel.client._times import to_datetime
from carousel.v1 import model_pb2, tensor_pb2


class VersionState(StrEnum):
    """Whether a version can serve."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


PRECISIONS: dict[model_pb2.StepPrecision.ValueType, str] = {
    model_pb2.STEP_PRECISION_FLOAT32: "float32",
    model_pb2.STEP_PRECISION_INT8: "int8",
    model_pb2.STEP_PRECISION_BFLOAT16: "bfloat16",
    model_pb2.STEP_PRECISION_FLOAT16: "float16",
}


@dataclass(frozen=True, slots=True)
class Model:
    """A name with its versions' numbers, lowest first, and the aliases that point at them.

    `tenant` is whose it is; models of the operator, the empty tenant, are shared by all.
    """

    name: str
    versions: tuple[int, ...]
    aliases: Mapping[str, int]
    tenant: str = ""

    @property
    def id(self) -> str:
        return self.name.removeprefix("models/")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a caller needs to know of an architecture; `json` is all of it.

    `cell` is lstm, gru, rnn_tanh or rnn_relu; `head` is none, linear, softmax or classifier.
    `input_size` is features per step or, for tokens, the vocabulary's size; `output_size` is
    numbers per output. `input_names` are the columns of the features, and `target_names` those
    that a forecast is of, () where that is not known.
    """

    cell: str
    layers: int
    hidden_size: int
    input_type: Literal["features", "tokens"]
    input_size: int
    head: str
    output_size: int
    labels: tuple[str, ...]
    bidirectional: bool
    has_tokenizer: bool
    json: str
    input_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each number of an output is: a label, or as in `load+3` a forecast; () else."""
        if not self.target_names:
            return self.labels
        ahead = range(1, self.output_size // len(self.target_names) + 1)
        return tuple(f"{name}+{steps}" for steps in ahead for name in self.target_names)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version.

    `digest` is the SHA-256 of config and weights in hexadecimal, `parameters` counts numbers,
    `state_schema` has the shape [L, H] of each tensor of a session's state, `sessions` counts the
    live ones. Only from `get_version` there are `card`, which is Markdown, and `baseline_json`: how
    the gates and states behave on held-out data, of a version that was trained here.
    """

    name: str
    state: VersionState
    state_message: str
    config: ModelConfig
    digest: str
    parameters: int
    weights_bytes: int
    state_schema: Mapping[str, tuple[int, ...]]
    sessions: int
    create_time: datetime
    card: str
    baseline_json: str = ""
    precision: str = ""

    @property
    def model(self) -> str:
        """The model's id."""
        return self.name.split("/")[1]

    @property
    def number(self) -> int:
        return int(self.name.rsplit("/", 1)[1])


def model(message: model_pb2.Model) -> Model:
    return Model(message.name, tuple(message.versions), dict(message.aliases), message.tenant)


def model_version(message: model_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        name=message.name,
        state=_STATES[message.state],
        state_message=message.state_message,
        config=_config(message.config),
        digest=message.digest.hex(),
        parameters=message.parameters,
        weights_bytes=message.weights_bytes,
        state_schema={spec.name: tuple(spec.shape) for spec in message.state_schema},
        sessions=message.sessions,
        create_time=to_datetime(message.create_time),
        card=message.card,
        baseline_json=message.baseline_json,
        precision=PRECISIONS.get(message.precision, ""),
    )


def _config(message: model_pb2.ModelConfig) -> ModelConfig:
    takes_tokens = message.input_type == tensor_pb2.DATA_TYPE_INT64
    return ModelConfig(
        cell=message.cell,
        layers=message.layers,
        hidden_size=message.hidden_size,
        input_type="tokens" if takes_tokens else "features",
        input_size=message.input_size,
        head=message.head,
        output_size=message.output_size,
        labels=tuple(message.labels),
        bidirectional=message.bidirectional,
        has_tokenizer=message.has_tokenizer,
        json=message.json,
        input_names=tuple(message.input_names),
        target_names=tuple(message.target_names),
    )


_STATES: dict[int, VersionState] = {
    number: VersionState(name.removeprefix("VERSION_STATE_").lower())
    for name, number in model_pb2.VersionState.items()
    if number
}
