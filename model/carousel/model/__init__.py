"""The mathematics of recurrent sequence models: configs, cells, networks, kernels, weights."""

from carousel.model.config import (
    Characters,
    Classifier,
    Features,
    Linear,
    ModelConfig,
    NoHead,
    Normalization,
    Softmax,
    Tokens,
)
from carousel.model.errors import (
    ConfigError,
    ModelError,
    SamplingError,
    TokenizerError,
    WeightsError,
)
from carousel.model.kernels import KERNELS, Kernel, make_kernel
from carousel.model.network import Network, Trace
from carousel.model.schema import StateSchema, TensorSpec

__all__ = [
    "KERNELS",
    "Characters",
    "Classifier",
    "ConfigError",
    "Features",
    "Kernel",
    "Linear",
    "ModelConfig",
    "ModelError",
    "Network",
    "NoHead",
    "Normalization",
    "SamplingError",
    "Softmax",
    "StateSchema",
    "TensorSpec",
    "TokenizerError",
    "Tokens",
    "Trace",
    "WeightsError",
    "make_kernel",
]
