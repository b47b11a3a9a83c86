"""How models and versions look on the wire; the functions read files, so call them in a thread."""

from __future__ import annotations

from carousel.model import Classifier, Features, Linear, ModelConfig, StateSchema, Tokens
from carousel.server.names import model_name, owner_of
from carousel.server.store import StoredModel
from carousel.server.version import StoredVersion
from carousel.v1 import model_pb2, tensor_pb2
from carousel.v1 import model_service_pb2 as pb


def encode_model(stored: StoredModel) -> model_pb2.Model:
    return model_pb2.Model(
        name=model_name(stored.model),
        versions=stored.versions,
        aliases=stored.aliases,
        tenant=owner_of(stored.model),
    )


def encode_version(version: StoredVersion) -> model_pb2.ModelVersion:
    """What the store knows of it. Raises WeightsInvalid, VersionNotFound."""
    config = version.config()
    tensors = () if config.bidirectional else StateSchema.of(config).tensors
    response = model_pb2.ModelVersion(
        name=version.name,
        config=_config(config, version.config_json()),
        digest=version.digest(),
        parameters=version.parameters(),
        weights_bytes=version.weights_bytes(),
        state_schema=[model_pb2.TensorSpec(name=t.name, shape=t.shape) for t in tensors],
    )
    response.create_time.FromNanoseconds(version.create_time_ns())
    return response


def _config(config: ModelConfig, text: str) -> model_pb2.ModelConfig:
    match config.input:
        case Tokens(vocabulary=input_size):
            input_type = tensor_pb2.DATA_TYPE_INT64
        case Features(size=input_size):
            input_type = tensor_pb2.DATA_TYPE_FLOAT32
    return model_pb2.ModelConfig(
        cell=config.cell,
        layers=config.layers,
        hidden_size=config.hidden_size,
        input_type=input_type,
        input_size=input_size,
        head=config.to_dict()["head"]["type"],
        output_size=config.output_size,
        labels=config.head.labels if isinstance(config.head, Classifier) else (),
        bidirectional=config.bidirectional,
        has_tokenizer=config.tokenizer is not None,
        json=text,
        input_names=config.input.names if isinstance(config.input, Features) else (),
        target_names=config.head.targets if isinstance(config.head, Linear) else (),
    )


def export_header(version: StoredVersion) -> pb.UploadHeader:
    return pb.UploadHeader(
        parent=model_name(version.model),
        version=version.number,
        config_json=version.config_json(),
        card=version.card(),
        baseline_json=version.baseline_json(),
        weights_bytes=version.weights_bytes(),
        weights_sha256=version.weights_sha256(),
    )
