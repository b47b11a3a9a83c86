"""Generation: the request, and the stream of tokens taken apart; alike for both clients."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from carousel.client._cursor import Cursor, Said
from carousel.client._errors import may_go_better
from carousel.client._events import Link
from carousel.client._inference_values import FinishReason, Token, TokenProbability
from carousel.client._names import model_name
from carousel.client._priority import priority_number
from carousel.client._retry import ATTEMPTS
from carousel.errors import (
    Cancelled,
    CarouselError,
    InvalidField,
    SessionNotFound,
    SessionQuarantined,
    StepConflict,
    TokenOutOfRange,
)
from carousel.v1 import inference_service_pb2 as pb

PATH = "carousel.v1.InferenceService/Generate"

Prompt = str | Sequence[int] | npt.NDArray[np.integer]


class Cancellable(Protocol):
    """A call of either kind of channel."""

    def cancel(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; what each does stands in `Client.generate`."""

    max_tokens: int
    temperature: float | None
    top_k: int
    top_p: float | None
    repetition_penalty: float | None
    stop: str | Sequence[str]
    seed: int | None
    log_probabilities: int | None

    def deadline(self, timeout: float | None, default: float) -> float:
        """A generation may take the ordinary deadline and a second more for each token."""
        return default + self.max_tokens if timeout is None else timeout


def request(prompt: Prompt, sampling: Sampling) -> pb.GenerateRequest:
    """A request without its source. It has a seed, so that it can be made again."""
    try:
        message = pb.GenerateRequest(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            stop=[sampling.stop] if isinstance(sampling.stop, str) else sampling.stop,
            seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
            log_probabilities=sampling.log_probabilities,
        )
    except ValueError as error:  # a number that no field can hold
        raise InvalidField(f"sampling options are out of range: {error}") from error
    if sampling.max_tokens < 1:
        raise InvalidField(
            f"max_tokens must be at least 1, got {sampling.max_tokens}", field="max_tokens"
        )
    if not isinstance(prompt, str):
        _set_tokens(message, prompt)
    elif prompt:  # a model without a tokenizer takes no text, not even an empty one
        message.text = prompt
    return message


def from_model(model: str, prompt: Prompt, sampling: Sampling, priority: str) -> pb.GenerateRequest:
    message = request(prompt, sampling)
    message.model = model_name(model)
    message.priority = priority_number(priority)  # type: ignore[assignment]
    return message


class Generation:
    """One generation: the call that brings it, and the session that it moves, if any.

    What came is in the request, so that another call goes on behind it. Only a generation that
    came to its own end leaves its session's step index known.
    """

    def __init__(self, request: pb.GenerateRequest, cursor: Cursor | None = None) -> None:
        self.call: Cancellable | None = None
        self._said = Said(request)
        self._cursor = cursor
        self._failures = 0  # since a token came
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.seed = request.seed
        self.ended = False
        self._cut = ""
        self.index_known = False

    def begin(self) -> None:
        """It begins where its session stands."""
        if self._cursor is not None:
            self._said.request.step_index = self._cursor.index
            self._said.request.priority = self._cursor.priority  # type: ignore[assignment]

    def request(self) -> pb.GenerateRequest:
        """What to ask for next."""
        if self._cursor is not None:
            self._said.request.handle = self._cursor.handle
        return self._said.request

    def take(self, response: pb.GenerateResponse, link: Link) -> Token:
        link.tell_notices(["" if self._cursor is None else self._cursor.name], response.notices)
        token = _token(response)
        self.text += token.text
        self._failures = 0
        if token.id is not None:
            self.generated_tokens += 1
            self._said.request.received.append(token.id)
        if self._cursor is not None and not self.ended:
            self._cursor.said(self._said, response.step_index)
        if token.finish_reason is not None:
            self.finish_reason = token.finish_reason
            self.prompt_tokens = response.prompt_tokens
            self.generated_tokens = response.generated_tokens
            self.ended = self.index_known = True
        return token

    def is_lost(self, error: CarouselError) -> bool:
        """Whether the session must be brought back first; it survives its server."""
        if self._cursor is None or not self._cursor.survives:
            return False
        begin = self._said.request.step_index
        behind = isinstance(error, StepConflict) and (
            int(error.metadata.get("expected_step", begin)) < begin
        )
        return behind or isinstance(error, SessionNotFound)

    def retry(self, error: CarouselError) -> int:
        """The number of the attempt that comes next; raises the error when none would help."""
        self._failures += 1
        patient = self._cursor is not None and self._cursor.survives
        spent = self._failures >= ATTEMPTS and not patient
        if spent or not (may_go_better(error) or self.is_lost(error)):
            raise error
        return self._failures

    def fail(self, error: CarouselError) -> None:
        self.ended = True
        if self._cursor is not None:
            self._cursor.notice(error)
            if isinstance(error, SessionQuarantined) and "step_index" in error.metadata:
                self._cursor.index = int(error.metadata["step_index"])
                self.index_known = True

    def cancel(self, *, why: str = "") -> None:
        """Stop it; what was committed stays. `why` is told to whoever still reads."""
        if self.ended:
            return
        self.ended, self._cut = True, why
        if self.call is not None:
            self.call.cancel()

    def is_over(self) -> bool:
        """Whether nothing more comes. Raises Cancelled when somebody else cut it short."""
        if self._cut:
            raise Cancelled(self._cut)
        return self.ended


def _set_tokens(
    message: pb.GenerateRequest, tokens: Sequence[int] | npt.NDArray[np.integer]
) -> None:
    message.tokens.SetInParent()
    try:
        message.tokens.ids.extend([int(token) for token in tokens])
    except ValueError as error:
        raise TokenOutOfRange(f"prompt tokens must be 0 to 2**32 - 1: {error}") from error


def _token(response: pb.GenerateResponse) -> Token:
    has_probability = response.HasField("log_probability")
    top = (TokenProbability(t.token, t.text, t.log_probability) for t in response.top)
    return Token(
        id=response.token if response.HasField("token") else None,
        text=response.text,
        log_probability=response.log_probability if has_probability else None,
        top=tuple(top),
        finish_reason=_FINISH_REASONS.get(response.finish_reason),
    )


_FINISH_REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_STOP: FinishReason.STOP,
}
