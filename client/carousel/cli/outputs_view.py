"""How a model's outputs look: numbers, or what is likely, where the head says that."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carousel.cli import tables
from carousel.cli.generate_view import harmless

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import ModelConfig

_LIKELIEST = 5
_WIDEST = 8


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs [T, O] of each sequence; `first_steps` has the step index of each one's first row.

    `names` say what each of the O numbers is; of a softmax, tokens, there are none.
    """

    source: str
    sequences: Sequence[str]
    outputs: Sequence[Any]
    first_steps: Sequence[int]
    config: ModelConfig = field(repr=False)
    as_csv: bool = field(repr=False)
    names: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        named = self.config.head != "softmax"
        object.__setattr__(self, "names", _names(self.config) if named else ())

    def rows(self) -> Iterator[tuple[str, int, Any]]:
        """Sequence, step index, [O]."""
        for sequence, begin, rows in zip(
            self.sequences, self.first_steps, self.outputs, strict=True
        ):
            for place, row in enumerate(rows):
                yield sequence, begin + place, row


def show(made: Outputs) -> RenderableType | None:
    if made.as_csv:
        _write_csv(made)
        return None
    all_rows = list(made.rows())
    if len(all_rows) == 1 and made.config.head == "linear" and made.config.output_size > _WIDEST:
        return _upright(all_rows[0][2], _names(made.config))
    several = len(made.outputs) > 1
    columns, cells = _columns(made.config)
    lead = ("sequence", "step") if several else ("step",)
    rows = [
        (*((harmless(sequence),) if several else ()), str(step), *cells(row))
        for sequence, step, row in all_rows
    ]
    return tables.table(*lead, *columns, rows=rows, numbers=(*lead, *columns))


def _upright(row: Any, names: Sequence[str]) -> RenderableType:
    """A single row [O] that is too wide, as a forecast of many steps: an output a line."""
    rows = [(name, f"{value:.6g}") for name, value in zip(names, row, strict=True)]
    return tables.table("output", "value", rows=rows, numbers=("value",))


def _write_csv(made: Outputs) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["sequence", "step", *_names(made.config)])
    for sequence, step, row in made.rows():
        writer.writerow([sequence, step, *(f"{value:.9g}" for value in row)])


def _columns(config: ModelConfig) -> tuple[Sequence[str], Any]:
    """The columns for this head, and what makes a row's cells."""
    if config.head == "classifier":
        labels = _names(config)
        return ("answer", "probability"), lambda row: _likeliest(row, labels, 1)[0]
    if config.head == "softmax":
        names = _symbols(config)
        columns = ("likeliest next", *[""] * (_LIKELIEST - 1))
        return columns, lambda row: [" ".join(pair) for pair in _likeliest(row, names, _LIKELIEST)]
    shown = min(config.output_size, _WIDEST)
    more = ["..."] if config.output_size > shown else []
    return [*_names(config)[:shown], *more], lambda row: [
        *(f"{value:.6g}" for value in row[:shown]),
        *more,
    ]


def _names(config: ModelConfig) -> Sequence[str]:
    """What each output is, `y0` and so on where the model does not say."""
    return config.output_names or [f"y{place}" for place in range(config.output_size)]


def _likeliest(logits: Any, names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Names and probabilities, likeliest first."""
    import numpy as np

    weights = np.exp(logits - logits.max())  # [O]
    shares = weights / weights.sum()
    order = np.argsort(-shares)[:count]
    return [(str(names[i]), f"{shares[i]:.2f}") for i in order]


def _symbols(config: ModelConfig) -> Sequence[str]:
    """What each token is, with quotes around those that would not be seen."""
    symbols = symbols_of(config, config.output_size)
    return [repr(one) if one.isspace() else one for one in symbols]


def symbols_of(config: ModelConfig, tokens: int) -> Sequence[str]:
    """What each of so many tokens is; subwords in GPT-2's spelling, all else by its number."""
    tokenizer = json.loads(config.json).get("tokenizer") or {}
    symbols = tokenizer.get("symbols") or range(tokens)
    if "merges" in tokenizer:
        pairs = (merge.replace(" ", "") for merge in tokenizer["merges"])
        symbols = list(dict.fromkeys([*_byte_names(), *pairs]))
    return [str(symbol) for symbol in symbols]


def _byte_names() -> list[str]:
    """A character for each byte, none of them blank."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]
