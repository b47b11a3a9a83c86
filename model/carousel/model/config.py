"""What a model is, apart from its weights: a frozen, checked value that travels as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from carousel.model.checks import alternative, build, finite, instance, integer, mapping, tagged
from carousel.model.errors import ConfigError
from carousel.model.tokenizer import TOKENIZERS, Tokenizer

Cell = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
CELLS: tuple[Cell, ...] = get_args(Cell)

# Limits keep a hostile config from asking for terabytes before a weights file is looked at.
MAX_LAYERS = 64
MAX_SIZE = 8192
MAX_VOCABULARY = 1_000_000


@dataclass(frozen=True, slots=True)
class Features:
    """Each step is a vector of `size` float32 numbers; `names` are their columns, or ()."""

    size: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        integer("input.size", self.size, 1, MAX_SIZE)
        _check_names("input.names", self.names)
        if len(self.names) not in (0, self.size):
            raise ConfigError(
                f"input.names must be {self.size}, one for each feature, got {len(self.names)}"
            )


@dataclass(frozen=True, slots=True)
class Tokens:
    """Each step is one id below `vocabulary`, looked up as `embedding` numbers."""

    vocabulary: int
    embedding: int

    def __post_init__(self) -> None:
        integer("input.vocabulary", self.vocabulary, 1, MAX_VOCABULARY)
        integer("input.embedding", self.embedding, 1, MAX_SIZE)


@dataclass(frozen=True, slots=True)
class NoHead:
    """The output is the hidden state of the last layer."""


@dataclass(frozen=True, slots=True)
class Linear:
    """The output is an affine map of the hidden state, for regression and forecasts.

    With `residual` k the first k input features are added to it, over and over when it is longer:
    the network learns how far the next values are from the present ones, and may follow a series to
    where it never was in training. Of a forecast `targets` are the columns that it is of: first all
    of them one step ahead, then two steps, and so on.
    """

    size: int
    residual: int = 0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        integer("head.size", self.size, 1, MAX_SIZE)
        integer("head.residual", self.residual, 0, self.size)
        if self.residual and self.size % self.residual:
            raise ConfigError(
                f"head.size must be a multiple of head.residual, got {self.size} and "
                f"{self.residual}"
            )
        _check_names("head.targets", self.targets)
        if self.targets and self.size % len(self.targets):
            raise ConfigError(
                f"head.size must be a multiple of the number of head.targets, got {self.size} and "
                f"{len(self.targets)}"
            )


@dataclass(frozen=True, slots=True)
class Softmax:
    """The output is one logit for each token of the vocabulary, not normalised."""

    vocabulary: int

    def __post_init__(self) -> None:
        integer("head.vocabulary", self.vocabulary, 1, MAX_VOCABULARY)


@dataclass(frozen=True, slots=True)
class Classifier:
    """The output is one logit for each label, not normalised."""

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        good = isinstance(self.labels, tuple) and all(isinstance(s, str) for s in self.labels)
        if not good or not 2 <= len(self.labels) == len(set(self.labels)) <= MAX_SIZE:
            raise ConfigError(
                f"head.labels must be 2 to {MAX_SIZE} different strings, got {self.labels!r:.200}"
            )


@dataclass(frozen=True, slots=True)
class Normalization:
    """`(x - mean) / std` on the way in, `y * std + mean` on the way out, for each number."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or not all(finite(v) for v in values):
                raise ConfigError(f"{name} must be a list of finite numbers, got {values!r:.200}")
        if len(self.mean) != len(self.std):
            raise ConfigError(
                f"mean and std must be equally long, got {len(self.mean)} and {len(self.std)}"
            )
        if any(v <= 0 for v in self.std):
            raise ConfigError(f"std must be above 0, got {min(self.std)}")


Input = Features | Tokens
Head = NoHead | Linear | Softmax | Classifier

# The name of each alternative in the JSON form.
INPUTS: dict[str, type[Input]] = {"features": Features, "tokens": Tokens}
HEADS: dict[str, type[Head]] = {
    "none": NoHead,
    "linear": Linear,
    "softmax": Softmax,
    "classifier": Classifier,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a network and what it reads and answers; raises ConfigError when impossible.

    `dropout` acts between layers in training, `projection` (LSTM only, 0 = none) is the size the
    hidden state is projected to, and a `bidirectional` model runs whole sequences only.
    """

    cell: Cell
    layers: int
    hidden_size: int
    input: Input
    head: Head = NoHead()
    dropout: float = 0.0
    projection: int = 0
    bidirectional: bool = False
    normalization: Normalization | None = None
    output_normalization: Normalization | None = None
    tokenizer: Tokenizer | None = None
    learned_initial_state: bool = False

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ConfigError(f"cell must be one of {', '.join(CELLS)}, got {self.cell!r}")
        integer("layers", self.layers, 1, MAX_LAYERS)
        integer("hidden_size", self.hidden_size, 1, MAX_SIZE)
        instance("input", self.input, Input)
        instance("head", self.head, Head)
        for name in ("bidirectional", "learned_initial_state"):
            instance(name, getattr(self, name), bool)
        self._check_dropout()
        self._check_projection()
        self._check_residual()
        self._check_normalization()
        self._check_tokenizer()

    def _check_dropout(self) -> None:
        if not finite(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, got {self.dropout!r}")
        if self.dropout and self.layers == 1:
            raise ConfigError("dropout acts between layers: it needs at least 2, got 1")

    def _check_projection(self) -> None:
        integer("projection", self.projection, 0, self.hidden_size - 1)
        if self.projection and self.cell != "lstm":
            raise ConfigError(f"projection is for the lstm cell only, got {self.cell}")

    def _check_residual(self) -> None:
        residual = self.head.residual if isinstance(self.head, Linear) else 0
        if residual and not (isinstance(self.input, Features) and residual <= self.input_size):
            raise ConfigError(
                f"head.residual must be at most the number of features read, got {residual} with "
                f"{self.input}"
            )

    def _check_normalization(self) -> None:
        inward, outward = self.normalization, self.output_normalization
        instance("normalization", inward, Normalization | None)
        instance("output_normalization", outward, Normalization | None)
        if inward and not (
            isinstance(self.input, Features) and len(inward.mean) == self.input_size
        ):
            raise ConfigError(
                f"normalization must have one number for each feature of {self.input}, "
                f"got {len(inward.mean)}"
            )
        if outward and not (isinstance(self.head, Linear) and len(outward.mean) == self.head.size):
            raise ConfigError(
                f"output_normalization must have one number for each output of a linear head, "
                f"got {len(outward.mean)} for {self.head}"
            )

    def _check_tokenizer(self) -> None:
        instance("tokenizer", self.tokenizer, Tokenizer | None)
        if self.tokenizer is None:
            return
        if not isinstance(self.input, Tokens) or self.input.vocabulary != len(self.tokenizer):
            raise ConfigError(
                f"a tokenizer of {len(self.tokenizer)} symbols needs token input with that "
                f"vocabulary, got {self.input}"
            )

    @property
    def takes_tokens(self) -> bool:
        """Whether a step is an id (int64) and not a vector (float32)."""
        return isinstance(self.input, Tokens)

    @property
    def input_size(self) -> int:
        """Numbers that the first layer reads at each step (D)."""
        return self.input.embedding if isinstance(self.input, Tokens) else self.input.size

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def state_size(self) -> int:
        """Numbers in the hidden state of one layer: the projection where there is one."""
        return self.projection or self.hidden_size

    @property
    def output_size(self) -> int:
        """Numbers in the output of one step (O)."""
        match self.head:
            case Linear(size=size) | Softmax(vocabulary=size):
                return size
            case Classifier(labels=labels):
                return len(labels)
        return self.state_size * self.directions

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` makes an equal config of it."""
        return {
            "cell": self.cell,
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "input": tagged(self.input, INPUTS),
            "head": tagged(self.head, HEADS),
            "dropout": self.dropout,
            "projection": self.projection,
            "bidirectional": self.bidirectional,
            "normalization": _plain(self.normalization),
            "output_normalization": _plain(self.output_normalization),
            "tokenizer": self.tokenizer and tagged(self.tokenizer, TOKENIZERS),
            "learned_initial_state": self.learned_initial_state,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "ModelConfig":
        """The config of a JSON object; unknown and missing keys are a ConfigError."""
        values = mapping("config", given)
        for name, choices in (("input", INPUTS), ("head", HEADS), ("tokenizer", TOKENIZERS)):
            if values.get(name) is not None:
                values[name] = alternative(name, values[name], choices)
        for name in ("normalization", "output_normalization"):
            if values.get(name) is not None:
                values[name] = build(name, Normalization, mapping(name, values[name]))
        return build("config", cls, values)


def _check_names(name: str, given: object) -> None:
    if not isinstance(given, tuple) or not all(isinstance(one, str) for one in given):
        raise ConfigError(f"{name} must be a list of strings, got {given!r:.200}")


def _plain(part: Normalization | None) -> dict[str, Any] | None:
    return None if part is None else {"mean": list(part.mean), "std": list(part.std)}
