"""The options of `carousel train` that make its recipe.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from carousel.client import Recipe

_TASK, _NETWORK, _LEARNING = "What to learn", "Network", "How to learn"


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _column(*names: str, help: str) -> Any:
    return _option(_TASK, *names, help=help, metavar="COL")


def options(
    task: Annotated[
        str | None,
        _option(
            _TASK,
            help="text, forecast, classify or tag. Unset: --target makes a forecast, --label with "
            "--sequence a label for each sequence, alone one for each step; else it is text.",
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        _column("--target", help="Column to forecast; may be given several times."),
    ] = None,
    features: Annotated[
        list[str] | None,
        _column(
            "--feature", help="Column to read beside it, several times; unset: all of numbers."
        ),
    ] = None,
    horizon: Annotated[
        int | None, _option(_TASK, min=1, help="Steps to forecast at once.", show_default="1")
    ] = None,
    season: Annotated[
        int | None,
        _option(_TASK, min=1, help="Steps of a season, for the naive baseline.", show_default="1"),
    ] = None,
    time_column: Annotated[
        str | None, _column("--time", help="Orders the rows; unset: they are in order.")
    ] = None,
    group_column: Annotated[
        str | None, _column("--group", help="Says which series a row is of.")
    ] = None,
    label_column: Annotated[str | None, _column("--label", help="Holds the labels.")] = None,
    sequence_column: Annotated[
        str | None, _column("--sequence", help="Says which labelled sequence a row is of.")
    ] = None,
    tokenization: Annotated[
        str | None,
        _option(
            _TASK,
            "--tokens",
            help="Of text: characters, bytes or subwords.",
            show_default="characters",
        ),
    ] = None,
    vocabulary: Annotated[
        int | None, _option(_TASK, min=1, help="Subwords to learn.", show_default="1024")
    ] = None,
    document_separator: Annotated[
        str | None, _option(_TASK, "--separator", help="Ends a document of a text.")
    ] = None,
    cell: Annotated[
        str | None, _option(_NETWORK, help="lstm, gru, rnn_tanh or rnn_relu.", show_default="lstm")
    ] = None,
    layers: Annotated[
        int | None, _option(_NETWORK, min=1, help="Layers.", show_default="2")
    ] = None,
    hidden_size: Annotated[
        int | None,
        _option(_NETWORK, "--hidden", min=1, help="Units.", show_default="256 for text, else 64"),
    ] = None,
    embedding_size: Annotated[
        int | None,
        _option(_NETWORK, "--embedding", min=1, help="Numbers a token.", show_default="64"),
    ] = None,
    projection: Annotated[
        int | None, _option(_NETWORK, min=1, help="LSTM: projects the hidden state.")
    ] = None,
    dropout: Annotated[
        float | None, _option(_NETWORK, min=0, max=1, help="Between layers.", show_default="0")
    ] = None,
    weight_dropout: Annotated[
        float | None,
        _option(_NETWORK, min=0, max=1, help="Of recurrent weights.", show_default="0"),
    ] = None,
    learned_initial_state: Annotated[
        bool, _option(_NETWORK, "--learned-start", help="Learn the state sessions begin with.")
    ] = False,
    constant_bias: Annotated[
        float | None,
        _option(_NETWORK, "--forget-bias", help="LSTM: where it begins.", show_default="1"),
    ] = None,
    chrono_steps: Annotated[
        int | None,
        _option(
            _NETWORK, "--chrono", min=2, help="LSTM: forget biases for memories up to this long."
        ),
    ] = None,
    max_steps: Annotated[
        int | None, _option(_LEARNING, "--steps", min=1, help="Updates.", show_default="2000")
    ] = None,
    max_epochs: Annotated[
        int | None, _option(_LEARNING, "--epochs", min=1, help="At most so many passes.")
    ] = None,
    minutes: Annotated[
        float | None, _option(_LEARNING, min=0.001, help="At most so many minutes.")
    ] = None,
    batch_size: Annotated[
        int | None,
        _option(_LEARNING, "--batch", min=1, help="Streams side by side.", show_default="32"),
    ] = None,
    window: Annotated[
        int | None,
        _option(_LEARNING, min=1, help="Steps that a gradient goes back.", show_default="96"),
    ] = None,
    optimizer: Annotated[
        str | None, _option(_LEARNING, help="adamw or sgd.", show_default="adamw")
    ] = None,
    learning_rate: Annotated[
        float | None,
        _option(_LEARNING, "--lr", help="Learning rate.", show_default="0.003, sgd: 0.5"),
    ] = None,
    weight_decay: Annotated[
        float | None, _option(_LEARNING, min=0, help="Weight decay.", show_default="0.01, sgd: 0")
    ] = None,
    schedule: Annotated[
        str | None, _option(_LEARNING, help="constant, cosine or plateau.", show_default="cosine")
    ] = None,
    warmup_steps: Annotated[
        int | None, _option(_LEARNING, "--warmup", min=0, help="Updates of warm-up.")
    ] = None,
    clip_norm: Annotated[
        float | None,
        _option(_LEARNING, "--clip", min=0, help="Largest norm of a gradient.", show_default="1"),
    ] = None,
    evaluate_every: Annotated[
        int | None,
        _option(
            _LEARNING,
            min=1,
            help="Updates from one evaluation to the next; there is one at the end in any case.",
            show_default="a twentieth of all, at least 50",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        _option(_LEARNING, min=1, help="Stop after so many evaluations without a better one."),
    ] = None,
    averaging: Annotated[
        str | None, _option(_LEARNING, help="Of weights: none, ema or mean.", show_default="none")
    ] = None,
    precision: Annotated[
        str | None, _option(_LEARNING, help="float32 or bfloat16.", show_default="float32")
    ] = None,
    seed: Annotated[
        int | None,
        _option(_LEARNING, min=0, help="The same seed, the same weights.", show_default="0"),
    ] = None,
    recipe: Annotated[
        str | None,
        _option(_LEARNING, metavar="JSON", help="More of the recipe, as in '{\"momentum\": 0.8}'."),
    ] = None,
) -> None:
    """What every recipe may say; only the signature is used."""


_OF_TEXT = ("tokenization", "vocabulary", "document_separator")
_OF_TABLES = ("targets", "features", "horizon", "season", "time_column", "group_column")
_OF_LABELS = ("label_column", "sequence_column", "features", "time_column")
_OF_TASK = {
    "text": ("language_model", _OF_TEXT),
    "forecast": ("forecast", _OF_TABLES),
    "classify": ("classify", _OF_LABELS),
    "tag": ("tag", _OF_LABELS),
}
_OF_NETWORK = (
    "cell",
    "layers",
    "hidden_size",
    "embedding_size",
    "projection",
    "dropout",
    "weight_dropout",
    "learned_initial_state",
    "constant_bias",
    "chrono_steps",
)


def make(task: str, given: dict[str, Any]) -> "Recipe":
    """The recipe of these options. Refuses options of another task."""
    from carousel.client import Recipe

    said = {name: value for name, value in given.items() if value not in (None, [], False)}
    kind, own = _OF_TASK[task]
    chosen = {name: said.pop(name) for name in own if name in said}
    for name in (*_OF_TEXT, *_OF_TABLES, *_OF_LABELS):
        if name in said:
            raise typer.BadParameter(f"{_FLAGS[name]} means nothing for the task {task}")
    network = {name: said.pop(name) for name in _OF_NETWORK if name in said}
    if "minutes" in said:
        said["max_duration"] = 60 * said.pop("minutes")
    more = _json(said.pop("recipe", "{}"))
    return Recipe.of(
        {
            **said,
            **more,
            "task": {"type": kind, **chosen},
            "network": {**network, **more.get("network", {})},
        }
    )


_FLAGS = {
    "tokenization": "--tokens",
    "vocabulary": "--vocabulary",
    "document_separator": "--separator",
    "targets": "--target",
    "features": "--feature",
    "horizon": "--horizon",
    "season": "--season",
    "time_column": "--time",
    "group_column": "--group",
    "label_column": "--label",
    "sequence_column": "--sequence",
}


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--recipe must be JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"--recipe must be an object, got {text}")
    return found
