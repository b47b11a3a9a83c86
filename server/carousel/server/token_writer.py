"""Token writer: the tokens of a generation as responses, with their text and why they end."""

from __future__ import annotations

from math import isnan

from carousel.server.loaded import LoadedVersion
from carousel.server.stop_texts import StopTexts
from carousel.server.transcript import Said
from carousel.v1 import inference_service_pb2 as pb


class TokenWriter:
    """Takes the tokens one after the other; `first_index` is the step of the first one, or None
    for a caller without a session."""

    def __init__(
        self,
        request: pb.GenerateRequest,
        version: LoadedVersion,
        *,
        prompt_tokens: int,
        limit: int,
        seed: int,
        first_index: int | None,
    ) -> None:
        self._tokenizer = version.config.tokenizer
        self._decoder = None if self._tokenizer is None else self._tokenizer.decoder()
        self._stops = StopTexts(request.stop)
        self._prompt_tokens = prompt_tokens
        self._limit = limit
        self._seed = seed
        self._first_index = first_index
        self._made = 0

    def write(self, said: Said) -> pb.GenerateResponse:
        """The response for a token that was fed."""
        self._made += 1
        token = int(said[0])
        response = pb.GenerateResponse(token=token)
        if self._first_index is not None:
            response.step_index = self._first_index + self._made
        stopped = False
        if self._decoder is not None:
            response.text, stopped = self._stops.feed(self._decoder.feed(token))
        if len(said) > 1 and not isnan(said[1]):
            response.log_probability = said[1]
            self._add_likeliest(response, said[2:])
        if stopped or self._made == self._limit:
            self._finish(response, stopped)
        return response

    @staticmethod
    def end_alone(response: pb.GenerateResponse) -> pb.GenerateResponse:
        """The last response for a caller who has its token already."""
        for name in ("token", "text", "log_probability", "top"):
            response.ClearField(name)
        return response

    def _finish(self, response: pb.GenerateResponse, stopped: bool) -> None:
        response.finish_reason = pb.FINISH_REASON_STOP if stopped else pb.FINISH_REASON_LENGTH
        if self._decoder is not None and not stopped:
            # A character that the last tokens left half done is shown as U+FFFD.
            response.text += self._stops.feed(self._decoder.rest())[0]
        response.text += self._stops.rest()
        response.prompt_tokens = self._prompt_tokens
        response.generated_tokens = self._made
        response.seed = self._seed

    def _add_likeliest(self, response: pb.GenerateResponse, top: Said) -> None:
        for token, log_probability in zip(top[::2], top[1::2], strict=True):
            entry = response.top.add(token=int(token), log_probability=log_probability)
            if self._tokenizer is not None:
                entry.text = self._tokenizer.decode([int(token)])
