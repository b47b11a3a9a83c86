"""TokenStream: the tokens of one generation, as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from carousel.client import _generation
from carousel.client._generation import Generation
from carousel.client._inference_values import FinishReason, Token
from carousel.client._transport import Transport
from carousel.errors import CarouselError
from carousel.v1 import inference_service_pb2 as pb


class TokenStreamView:
    """What has come so far; the part that both kinds share."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @property
    def text(self) -> str:
        """The text so far."""
        return self._generation.text

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it stopped; None while it goes on."""
        return self._generation.finish_reason

    @property
    def prompt_tokens(self) -> int:
        """Tokens fed as prompt; known at the end."""
        return self._generation.prompt_tokens

    @property
    def generated_tokens(self) -> int:
        """Tokens made so far."""
        return self._generation.generated_tokens

    @property
    def seed(self) -> int | None:
        """The seed that was used; known at the end."""
        return self._generation.seed

    def __del__(self) -> None:
        # Leaving a loop over the stream drops it: the server need not go on.
        with contextlib.suppress(Exception):
            self._generation.cancel()


class TokenStream(TokenStreamView, Iterator[Token]):
    """An iterator over tokens. Dropping it, or `close`, stops the generation."""

    def __init__(
        self,
        transport: Transport,
        request: pb.GenerateRequest,
        generation: Generation,
        timeout: float,
    ) -> None:
        super().__init__(generation)
        self._transport = transport
        self._call = transport.stream(
            _generation.PATH, request, pb.GenerateResponse, timeout=timeout
        )
        generation.call = self._call

    def __next__(self) -> Token:
        if self._generation.is_over():
            raise StopIteration
        try:
            response = self._transport.read(self._call)
        except CarouselError as error:
            if self._generation.is_over():  # gRPC says that the call was cancelled
                raise StopIteration from None
            self._generation.fail(error)
            raise
        if response is None:
            raise StopIteration
        return self._generation.take(response, self._transport.link)

    def close(self) -> None:
        """Stop the generation; what was fed stays fed."""
        self._generation.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
