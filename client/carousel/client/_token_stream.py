"""TokenStream: the tokens of one generation, as they come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from carousel.client._events import Event
from carousel.client._generation import PATH, Generation
from carousel.client._inference_values import FinishReason, Token
from carousel.client._retry import delay
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
    def seed(self) -> int:
        """The seed: the caller's, or one that was chosen."""
        return self._generation.seed

    def __del__(self) -> None:
        # Leaving a loop over the stream drops it: the server need not go on.
        with contextlib.suppress(Exception):
            self._generation.cancel()


class TokenStream(TokenStreamView, Iterator[Token]):
    """An iterator over tokens. Dropping it, or `close`, stops the generation.

    When the connection breaks, or the server of a session that survives it is lost, it goes on
    with the token that follows the last one that came.
    """

    def __init__(
        self,
        transport: Transport,
        generation: Generation,
        timeout: float,
        recover: Callable[[float], None] = lambda end: None,
    ) -> None:
        super().__init__(generation)
        self._transport = transport
        self._end = time.monotonic() + timeout
        self._recover = recover  # brings the session back until this moment
        self._open()

    def _open(self) -> None:
        self._call = self._generation.call = self._transport.stream(
            PATH,
            self._generation.request(),
            pb.GenerateResponse,
            timeout=max(self._end - time.monotonic(), 0.001),
        )

    def __next__(self) -> Token:
        generation = self._generation
        while not generation.is_over():
            try:
                response = self._transport.read(self._call)
            except CarouselError as error:
                if not generation.is_over():  # else gRPC says that the call was cancelled
                    self._mend(error)
            else:
                if response is None:
                    break
                return generation.take(response, self._transport.link)
        if generation.finish_reason is not None:
            self._call.code()  # left before its status, it would count as taken back
        raise StopIteration

    def _mend(self, error: CarouselError) -> None:
        """Go on behind what came; raises what can't be mended."""
        generation = self._generation
        try:
            attempt = generation.retry(error)
            wait = delay(attempt)
            if time.monotonic() + wait >= self._end:
                raise error
            self._transport.link.tell(Event("retry", attempt=attempt, delay=wait, error=error))
            time.sleep(wait)
            if generation.is_lost(error):
                self._recover(self._end)
        except CarouselError as failure:
            generation.fail(failure)
            raise
        if not generation.is_over():
            self._open()

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
