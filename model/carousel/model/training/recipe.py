"""How a network learns: the recipe of the proto as a checked value, every default filled in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from carousel.model.checks import build, finite, instance, integer, mapping, within
from carousel.model.config import CELLS, MAX_LAYERS, MAX_SIZE
from carousel.model.data import LanguageModelTask, Task, task_from_dict, task_to_dict
from carousel.model.data.segments import shares
from carousel.model.errors import ConfigError

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant", "plateau")
AVERAGINGS = ("none", "ema", "mean")
PRECISIONS = ("float32", "bfloat16")

MAX_COUNT = 2**32 - 1  # a uint32 of the proto
MAX_BATCH = 2**16
MAX_WINDOW = 2**20
EVALUATE_SELDOM = 50  # updates at least, by default: an evaluation may cost as much as some dozen
DEFAULTS = {"max_steps": 2000, "batch_size": 32, "window": 96, "keep_checkpoints": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShape:
    """The network to train; fields and defaults are the proto's.

    `hidden_size` 0 stands for the default of the task. Of `constant_bias` and `chrono_steps` one at
    most may be given.
    """

    cell: str = "lstm"
    layers: int = 2
    hidden_size: int = 0
    embedding_size: int = 64
    projection: int = 0
    dropout: float = 0.0
    weight_dropout: float = 0.0
    learned_initial_state: bool = False
    constant_bias: float | None = None
    chrono_steps: int | None = None

    def __post_init__(self) -> None:
        _choice("cell", self.cell, CELLS)
        integer("layers", self.layers, 1, MAX_LAYERS)
        integer("hidden_size", self.hidden_size, 0, MAX_SIZE)
        integer("embedding_size", self.embedding_size, 1, MAX_SIZE)
        integer("projection", self.projection, 0, MAX_SIZE)
        for name in ("dropout", "weight_dropout"):
            _number(name, getattr(self, name), low=0, below=1)
        instance("learned_initial_state", self.learned_initial_state, bool)
        self._check_combinations()
        self._check_forget_bias()

    def _check_combinations(self) -> None:
        if self.dropout and self.layers == 1:
            raise ConfigError(
                "dropout acts between layers: it needs at least 2, got 1", field="dropout"
            )
        if self.projection and self.cell != "lstm":
            raise ConfigError(
                f"projection is for the lstm cell only, got {self.cell}", field="projection"
            )
        if self.hidden_size and self.projection >= self.hidden_size:
            raise ConfigError(
                f"projection must be below hidden_size ({self.hidden_size}), got {self.projection}",
                field="projection",
            )

    def _check_forget_bias(self) -> None:
        if self.chrono_steps is None:
            if self.constant_bias is None and self.cell == "lstm":
                object.__setattr__(self, "constant_bias", 1.0)
        elif self.constant_bias is not None:
            raise ConfigError(
                "constant_bias and chrono_steps exclude each other, got both", field="constant_bias"
            )
        else:
            integer("chrono_steps", self.chrono_steps, 2, MAX_COUNT)
        if self.constant_bias is not None:
            _number("constant_bias", self.constant_bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to learn and how; fields, ranges and defaults are the proto's.

    What is None or, where the proto gives 0 a meaning, 0 when made is replaced by its default.
    """

    task: Task
    network: NetworkShape = field(default_factory=NetworkShape)
    optimizer: str = "adamw"
    learning_rate: float = 0.0
    momentum: float = 0.9
    weight_decay: float | None = None
    schedule: str = "cosine"
    warmup_steps: int | None = None
    final_share: float = 0.02
    max_steps: int = 0
    max_epochs: int = 0
    max_seconds: float | None = None
    batch_size: int = 0
    window: int = 0
    clip_norm: float = 1.0
    evaluate_every: int = 0
    patience: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 0
    gradients_every: int = 0
    averaging: str = "none"
    precision: str = "float32"
    seed: int = 0
    validation_share: float = 0.1
    test_share: float = 0.1

    def __post_init__(self) -> None:
        instance("task", self.task, Task)
        instance("network", self.network, NetworkShape)
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("averaging", self.averaging, AVERAGINGS)
        _choice("precision", self.precision, PRECISIONS)
        for name, value in DEFAULTS.items():
            self._default(name, value)
        integer("max_steps", self.max_steps, 1, MAX_COUNT)
        self._fill()
        for name in ("warmup_steps", "max_epochs", "patience"):
            integer(name, getattr(self, name), 0, MAX_COUNT)
        for name in ("evaluate_every", "checkpoint_every", "gradients_every", "keep_checkpoints"):
            integer(name, getattr(self, name), 1, MAX_COUNT)
        integer("batch_size", self.batch_size, 1, MAX_BATCH)
        integer("window", self.window, 1, MAX_WINDOW)
        integer("seed", self.seed, 0, 2**64 - 1)
        self._check_numbers()

    def _fill(self) -> None:
        adamw = self.optimizer == "adamw"
        self._default("learning_rate", 3e-3 if adamw else 0.5)
        seldom = max(EVALUATE_SELDOM, self.max_steps // 20)
        self._default("evaluate_every", min(seldom, self.max_steps))
        self._default("checkpoint_every", self.evaluate_every)
        self._default("gradients_every", self.evaluate_every)
        if self.weight_decay is None:
            object.__setattr__(self, "weight_decay", 0.01 if adamw else 0.0)
        if self.warmup_steps is None:
            object.__setattr__(self, "warmup_steps", min(200, self.max_steps // 20))
        if not self.network.hidden_size:
            size = 256 if isinstance(self.task, LanguageModelTask) else 64
            object.__setattr__(self, "network", replace(self.network, hidden_size=size))

    def _default(self, name: str, value: float) -> None:
        if not getattr(self, name):
            object.__setattr__(self, name, value)

    def _check_numbers(self) -> None:
        _number("learning_rate", self.learning_rate, low=0)
        _number("momentum", self.momentum, low=0, below=1)
        _number("weight_decay", self.weight_decay, low=0)
        _number("final_share", self.final_share, low=0, high=1)
        _number("clip_norm", self.clip_norm, low=0)
        _number("validation_share", self.validation_share, low=0, below=1)
        _number("test_share", self.test_share, low=0, below=1)
        shares(self.validation_share, self.test_share)
        if self.max_seconds is not None:
            _number("max_seconds", self.max_seconds, low=0)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form with every default filled in; `from_dict` makes an equal recipe of it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["task"] = task_to_dict(self.task)
        values["network"] = _present(asdict(self.network))
        return _present(values)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Recipe":
        """The recipe of a JSON object; unknown keys and impossible values are a ConfigError."""
        values = mapping("recipe", given)
        if "task" not in values:
            raise ConfigError("recipe must have a task, got none")
        with within("task"):
            values["task"] = task_from_dict(values["task"])
        with within("network"):
            values["network"] = build(
                "network", NetworkShape, mapping("network", given.get("network", {}))
            )
        return build("recipe", cls, values)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name} must be one of {', '.join(allowed)}, got {value!r:.80}", field=name
        )


def _number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse what is not a finite number in the range; `below` excludes its end."""
    limits = []
    if low is not None:
        limits.append(f"at least {low}")
    if high is not None:
        limits.append(f"at most {high}")
    if below is not None:
        limits.append(f"below {below}")
    good = finite(value)
    if good:
        number = float(value)  # type: ignore[arg-type]
        good = (
            (low is None or number >= low)
            and (high is None or number <= high)
            and (below is None or number < below)
        )
    if not good:
        wanted = " and ".join(limits) or "a finite number"
        raise ConfigError(f"{name} must be {wanted}, got {value!r:.80}", field=name)
