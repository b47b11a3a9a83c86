"""Whole sequences and texts of any length and number, within what one message takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carousel.client import Client, ModelVersion

MESSAGE_BYTES = 2**24
# What the server tokenizes at once.
TEXT_LENGTH, TEXTS = 2**20, 2**16


def predict(
    client: Client, version: ModelVersion, sequences: Sequence[Any], *, last: bool
) -> list[Any]:
    """Outputs [T, O] of each sequence, [1, O] with `last`, each from the initial state.

    What is too long for one message is fed to a session, piece by piece.
    """
    config = version.config
    step = 8 if config.input_type == "tokens" else 4 * config.input_size
    step = step if last else max(step, 4 * config.output_size)
    longest = min(client.server_info().max_chunk, max(1, MESSAGE_BYTES // step))
    rows: list[Any] = [None] * len(sequences)
    short = []
    for place, sequence in enumerate(sequences):
        if len(sequence) > longest and not config.bidirectional:
            rows[place] = _piecewise(client, version.name, sequence, longest, last=last)
        else:
            short.append(place)
    for places in _batches(short, [len(sequences[place]) * step for place in short]):
        some = [sequences[place] for place in places]
        if last:
            found = [row[None] for row in client.predict(version.name, some, outputs="last")]
        else:
            found = client.predict(version.name, some)
        for place, row in zip(places, found, strict=True):
            rows[place] = row
    return rows


def tokenize(client: Client, model: str, texts: Sequence[str]) -> list[Any]:
    """Each text as tokens [T]. Long texts are cut behind lines, beyond which no token goes."""
    import numpy as np

    parts = [list(_lines(text)) for text in texts]
    flat = [part for text in parts for part in text]
    tokens: list[Any] = []
    sizes = [len(part) for part in flat]
    for places in _batches(range(len(flat)), sizes, limit=TEXT_LENGTH, most=TEXTS):
        tokens += client.tokenize(model, [flat[place] for place in places])
    found = iter(tokens)
    return [np.concatenate([next(found) for _ in text]) for text in parts]


def _piecewise(client: Client, model: str, sequence: Any, longest: int, *, last: bool) -> Any:
    import numpy as np

    pieces = [sequence[begin : begin + longest] for begin in range(0, len(sequence), longest)]
    with client.session(model) as session:
        if not last:
            return np.concatenate([session.chunk(piece) for piece in pieces])
        for piece in pieces[:-1]:
            session.chunk(piece, outputs="none")
        return session.chunk(pieces[-1], outputs="last")[None]


def _batches(
    items: Sequence[int], sizes: Sequence[int], *, limit: int = MESSAGE_BYTES, most: int = TEXTS
) -> Iterator[list[int]]:
    """Items in their order, together as large as a message may be."""
    batch: list[int] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if batch and (total + size > limit or len(batch) == most):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


def _lines(text: str) -> Iterator[str]:
    """The text in parts of whole lines, none much longer than the server takes."""
    if len(text) <= TEXT_LENGTH:
        yield text
        return
    part: list[str] = []
    size = 0
    for line in text.split("\n"):
        if part and size + len(line) + 1 > TEXT_LENGTH:
            yield "\n".join(part) + "\n"
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    yield "\n".join(part)
