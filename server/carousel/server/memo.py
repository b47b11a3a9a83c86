"""Memo: what a session remembers of the generation that it is in, for a caller who comes again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Memo:
    """The tokens of one generation, as far as they are decided.

    `start` is the index of its first step, `digest` of all that decides its tokens, and `said`
    holds them as a Transcript packs them. They are fed as far as the session's step index reaches.
    """

    start: int
    digest: bytes
    seed: int
    said: bytes
