"""Texts as a model's tokens."""

from __future__ import annotations

import numpy as np

from carousel.errors import NoTokenizer, TokenOutOfRange
from carousel.model import ModelConfig, TokenizerError
from carousel.server.work import Ints


def encode_text(name: str, config: ModelConfig, text: str, *, field: str) -> Ints:
    """Tokens of a text. Raises NoTokenizer or TokenOutOfRange."""
    if config.tokenizer is None:
        raise NoTokenizer(f"{name} has no tokenizer: give tokens instead of text")
    try:
        return np.array(config.tokenizer.encode(text), np.int64)
    except TokenizerError as error:
        raise TokenOutOfRange(str(error), field=field) from error
