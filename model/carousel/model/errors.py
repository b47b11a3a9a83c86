"""The errors of the model package: all of them are about something a caller gave.

ModelError(ValueError)
├── ConfigError      a model configuration that cannot be built
├── WeightsError     a weights file that is corrupt, foreign, or of another model
├── TokenizerError   text or ids that the tokenizer does not know
├── SamplingError    sampling options out of range
└── DataError        data that cannot be learned from, with row and column where known
"""


class ModelError(ValueError):
    """Something given to the model package is wrong; the message says what is allowed."""


class ConfigError(ModelError):
    """A model configuration that cannot be built; `field` is the path of the value at fault, with
    which the message begins, or empty."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class WeightsError(ModelError):
    """A weights file that is corrupt, foreign, or of another model."""


class TokenizerError(ModelError):
    """Text or ids that the tokenizer does not know."""


class SamplingError(ModelError):
    """Sampling options out of range; `field` is the option at fault, with which the message begins,
    or empty."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class DataError(ModelError):
    """Data that cannot be learned from; `row` (from 1, the header not counted) and `column` where
    that is known."""

    def __init__(self, message: str, *, row: int | None = None, column: str | None = None) -> None:
        at = [] if row is None else [f"row {row}"]
        at += [] if column is None else [f"column {column!r}"]
        super().__init__(f"{', '.join(at)}: {message}" if at else message)
        self.row = row
        self.column = column
