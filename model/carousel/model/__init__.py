"""The mathematics of recurrent sequence models: configs, cells, networks, kernels, weights."""

from importlib import import_module
from typing import TYPE_CHECKING

from carousel.model.config import (
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
    DataError,
    ModelError,
    SamplingError,
    TokenizerError,
    WeightsError,
)
from carousel.model.sampling import SamplingOptions, sample, skip
from carousel.model.tokenizer import Bytes, Characters, Subwords, Tokenizer, Words
from carousel.model.zoo import shipped

if TYPE_CHECKING:
    from carousel.model.baseline import BASELINE, Baseline, load_baseline
    from carousel.model.kernels import (
        KERNELS,
        PRECISIONS,
        StepPrecision,
        check_precision,
        make_kernel,
    )
    from carousel.model.kernels.kernel import Kernel
    from carousel.model.ladder import Rung, climb
    from carousel.model.network import Network, Trace
    from carousel.model.schema import StateSchema, TensorSpec
    from carousel.model.weights import digest, load, load_config, save

__all__ = [
    "BASELINE",
    "KERNELS",
    "PRECISIONS",
    "Baseline",
    "Bytes",
    "Characters",
    "Classifier",
    "ConfigError",
    "DataError",
    "Features",
    "Kernel",
    "Linear",
    "ModelConfig",
    "ModelError",
    "Network",
    "NoHead",
    "Normalization",
    "Rung",
    "SamplingError",
    "SamplingOptions",
    "Softmax",
    "StateSchema",
    "StepPrecision",
    "Subwords",
    "TensorSpec",
    "Tokenizer",
    "TokenizerError",
    "Tokens",
    "Trace",
    "WeightsError",
    "Words",
    "check_precision",
    "climb",
    "digest",
    "load",
    "load_baseline",
    "load_config",
    "make_kernel",
    "sample",
    "save",
    "shipped",
    "skip",
]

_WITH_TORCH = {
    "baseline": ("BASELINE", "Baseline", "load_baseline"),
    "kernels": ("KERNELS", "PRECISIONS", "StepPrecision", "check_precision", "make_kernel"),
    "kernels.kernel": ("Kernel",),
    "ladder": ("Rung", "climb"),
    "network": ("Network", "Trace"),
    "schema": ("StateSchema", "TensorSpec"),
    "weights": ("digest", "load", "load_config", "save"),
}


def __getattr__(name: str) -> object:
    """What comes with torch, for which a process that only reads data need not wait."""
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
