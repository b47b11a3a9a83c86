"""Texts as a model's tokens."""

from __future__ import annotations

import numpy as np

from carousel.errors import MessageTooLarge, NoTokenizer, TokenOutOfRange
from carousel.model import ModelConfig, TokenizerError
from carousel.server.work import Ints

# Some tens of milliseconds of Python, at which steps can't be looked after.
MAX_TEXT_LENGTH = 1024**2


def encode_text(name: str, config: ModelConfig, text: str, *, field: str) -> Ints:
    """Tokens of a text. Raises MessageTooLarge, NoTokenizer or TokenOutOfRange."""
    if len(text) > MAX_TEXT_LENGTH:
        raise MessageTooLarge(
            f"{field} must have at most {MAX_TEXT_LENGTH:,} characters, got {len(text):,}",
            field=field,
        )
    if config.tokenizer is None:
        raise NoTokenizer(f"{name} has no tokenizer: give tokens instead of text")
    try:
        return np.array(config.tokenizer.encode(text), np.int64)
    except TokenizerError as error:
        raise TokenOutOfRange(str(error), field=field) from error
