"""The errors of the model package: all of them are about something a caller gave.

ModelError(ValueError)
├── ConfigError      a model configuration that cannot be built
├── WeightsError     a weights file that is corrupt, foreign, or of another model
├── TokenizerError   text or ids that the tokenizer does not know
└── SamplingError    sampling options out of range
"""


class ModelError(ValueError):
    """Something given to the model package is wrong; the message says what is allowed."""


class ConfigError(ModelError):
    """A model configuration that cannot be built."""


class WeightsError(ModelError):
    """A weights file that is corrupt, foreign, or of another model."""


class TokenizerError(ModelError):
    """Text or ids that the tokenizer does not know."""


class SamplingError(ModelError):
    """Sampling options out of range."""
