"""Wanted: what a request for a generation asks for, checked, and whether a memo is of the same."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carousel.errors import InvalidField, TokenOutOfRange
from carousel.model import SamplingError, SamplingOptions
from carousel.server.loaded import LoadedVersion
from carousel.server.memo import Memo
from carousel.server.settings import Settings
from carousel.server.texts import encode_text
from carousel.server.transcript import Layout, tokens_of
from carousel.server.work import Ints
from carousel.v1 import inference_service_pb2 as pb

DEFAULT_TOKENS = 256
MAX_TOP = 20
MAX_STOPS = 16


@dataclass(slots=True, frozen=True)
class Wanted:
    """`prompt` [T] tokens; `received` those that the caller has already; `seed` None: any."""

    prompt: Ints
    options: SamplingOptions
    limit: int
    layout: Layout
    seed: int | None
    received: list[int]

    @property
    def digest(self) -> bytes:
        """Of all that decides the tokens, from a given state on."""
        said = repr((self.options, self.layout.top, self.seed)).encode()
        return hashlib.blake2b(self.prompt.tobytes() + said, digest_size=16).digest()

    def memo(self, start: int) -> Memo:
        """That of a generation of which the received tokens alone are known."""
        said = self.layout.pack([self.layout.unknown(token) for token in self.received])
        seed = secrets.randbits(63) if self.seed is None else self.seed
        return Memo(start, self.digest, seed, said)

    def goes_on(self, memo: Memo | None, start: int) -> Memo | None:
        """What is decided of the generation, when the memo is of this one; else None."""
        if memo is None or memo.start != start or memo.digest != self.digest:
            return None
        rows = self.layout.unpack(memo.said)[: self.limit]
        said = tokens_of(rows)
        both = min(len(said), len(self.received))
        if said[:both] != self.received[:both]:
            return None
        rows += [self.layout.unknown(token) for token in self.received[both:]]
        return replace(memo, said=self.layout.pack(rows))


def read(request: pb.GenerateRequest, version: LoadedVersion, settings: Settings) -> Wanted:
    """Raises InvalidField, NoTokenizer, TokenOutOfRange."""
    options, limit = _options(request, version, settings.max_tokens)
    prompt = _prompt(request, version, settings.max_chunk)
    top = request.log_probabilities if request.HasField("log_probabilities") else None
    return Wanted(
        prompt=prompt,
        options=options,
        limit=limit,
        layout=Layout(top, version.vocabulary),
        seed=request.seed if request.HasField("seed") else None,
        received=_received(request, version, limit),
    )


def _options(
    request: pb.GenerateRequest, version: LoadedVersion, max_tokens: int
) -> tuple[SamplingOptions, int]:
    limit = request.max_tokens or min(DEFAULT_TOKENS, max_tokens)
    if limit > max_tokens:
        raise InvalidField(f"max_tokens must be 1 to {max_tokens}, got {limit}", field="max_tokens")
    if request.log_probabilities > MAX_TOP:
        raise InvalidField(
            f"log_probabilities must be 0 to {MAX_TOP}, got {request.log_probabilities}",
            field="log_probabilities",
        )
    if len(request.stop) > MAX_STOPS or not all(request.stop):
        raise InvalidField(
            f"stop must have at most {MAX_STOPS} texts, none empty, got {list(request.stop)!r:.80}",
            field="stop",
        )
    if request.stop and version.config.tokenizer is None:
        raise InvalidField(f"{version.name} has no tokenizer and so no stop texts", field="stop")

    def given(name: str, default: float) -> float:
        return getattr(request, name) if request.HasField(name) else default  # type: ignore[arg-type]

    try:
        options = SamplingOptions(
            temperature=given("temperature", 1.0),
            top_k=request.top_k,
            top_p=given("top_p", 1.0),
            repetition_penalty=given("repetition_penalty", 1.0),
        )
    except SamplingError as error:
        raise InvalidField(str(error), field=error.field) from error
    return options, limit


def _prompt(request: pb.GenerateRequest, version: LoadedVersion, max_chunk: int) -> Ints:
    if request.WhichOneof("prompt") == "text":
        tokens = encode_text(version.name, version.config, request.text, field="text")
    else:
        tokens = _tokens(request.tokens.ids, version, field="tokens.ids")
    if len(tokens) > max_chunk:
        raise InvalidField(
            f"a prompt must have at most {max_chunk} tokens, got {len(tokens)}", field="prompt"
        )
    return tokens


def _received(request: pb.GenerateRequest, version: LoadedVersion, limit: int) -> list[int]:
    if len(request.received) > limit:
        raise InvalidField(
            f"received must have at most max_tokens, {limit}, got {len(request.received)}",
            field="received",
        )
    lost = request.WhichOneof("source") == "handle" and not request.HasField("step_index")
    if request.received and lost:
        raise InvalidField(
            "with received, step_index must say where the generation began", field="step_index"
        )
    tokens: list[int] = _tokens(request.received, version, field="received").tolist()
    return tokens


def _tokens(ids: Sequence[int], version: LoadedVersion, *, field: str) -> Ints:
    tokens = np.array(ids, np.int64)
    if len(tokens) and tokens.max() >= version.vocabulary:
        raise TokenOutOfRange(
            f"tokens of {version.name} are 0 to {version.vocabulary - 1}, got {tokens.max()}",
            field=field,
        )
    return tokens
