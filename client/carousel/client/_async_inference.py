"""The part of AsyncClient that runs models without a session of one's own."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from carousel.client import _generation
from carousel.client import _inference_calls as calls
from carousel.client._async_session import AsyncSession
from carousel.client._async_token_stream import AsyncTokenStream
from carousel.client._async_transport import AsyncTransport
from carousel.client._generation import Generation, Prompt, Sampling
from carousel.client._held import HeldBatch, HeldState
from carousel.client._inference_values import Trace
from carousel.client._inputs import Array, Floats, Input
from carousel.client._priority import Priority


class AsyncInference:
    """The methods of AsyncClient for whole sequences, held states, generation and traces."""

    _transport: AsyncTransport

    @overload
    async def predict(
        self,
        model: str,
        xs: Sequence[Input] | Array,
        *,
        outputs: Literal["all"] = "all",
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> list[Floats]: ...

    @overload
    async def predict(
        self,
        model: str,
        xs: Sequence[Input] | Array,
        *,
        outputs: Literal["last"],
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> Floats: ...

    async def predict(
        self,
        model: str,
        xs: Sequence[Input] | Array,
        *,
        outputs: Literal["all", "last"] = "all",
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> list[Floats] | Floats:
        """Run N whole sequences, each from the model's initial state; nothing is kept.

        xs are [T, D] features or [T] tokens, each of its own length, and at most 65,536. Gives a
        list of [T, O] for "all", [N, O] for "last". `priority` is as in `session`. Raises
        ModelNotFound, ModelNotLoaded, InputMismatch, NonFiniteInput, TokenOutOfRange, ChunkTooLong,
        InvalidField, QueueFull, MessageTooLarge.
        """
        rows = await self._transport.call(calls.predict(model, xs, outputs, priority), timeout)
        return rows if outputs == "last" else calls.by_sequence(rows, xs)

    async def step_states(
        self,
        model: str,
        states: Sequence[HeldState | bytes | None],
        xs: Input,
        *,
        timeout: float | None = None,
    ) -> tuple[Floats, list[HeldState]]:
        """One step of N states that the caller keeps; the server keeps nothing.

        xs is [N, D] features or [N] tokens; None stands for the model's initial state. Gives the
        outputs [N, O] and the new states. Any server with the model version and the same key can
        take any step, and a call can be repeated: the states that were given stay good. Raises
        StepErrors when some failed (SealBroken, SnapshotMismatch, NonFiniteResult, NonFiniteInput,
        TokenOutOfRange), ModelNotFound, ModelNotLoaded, ModelNotStepwise, InputMismatch, QueueFull.
        """
        batch = HeldBatch.of_steps(model, states, xs)
        for call in batch.calls():
            batch.take(await self._transport.call(call, timeout), self._transport.link)
        return batch.steps()

    async def chunk_states(
        self,
        model: str,
        states: Sequence[HeldState | bytes | None],
        xs: Sequence[Input] | Array,
        *,
        outputs: Literal["all", "last", "none"] = "all",
        timeout: float | None = None,
    ) -> tuple[list[Floats], list[HeldState]]:
        """The same with several steps each: xs are [T, D] features or [T] tokens, of any lengths.

        The outputs of each are [T, O] for "all", [O] for "last", [0, O] for "none". Raises what
        `step_states` raises, and in StepErrors ChunkTooLong.
        """
        batch = HeldBatch.of_chunks(model, states, xs, outputs)
        for call in batch.calls():
            batch.take(await self._transport.call(call, timeout), self._transport.link)
        return batch.chunks()

    def generate(
        self,
        model: str,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        log_probabilities: int | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> AsyncTokenStream:
        """Iterate over the tokens that follow a prompt (text or token numbers); nothing is kept.

        `temperature` divides the logits, 0 always takes the likeliest (default 1). `top_k` samples
        from the k likeliest (0: all), `top_p` from the likeliest that together reach this
        probability. `repetition_penalty` is Keskar's (default 1: none). `stop` texts end the
        generation and stay out. The same `seed` gives the same tokens. `log_probabilities` asks
        for those of this many likeliest tokens beside the sampled one's. `priority` is as in
        `session`. The deadline is the client's and a second for each token, unless `timeout` sets
        it. Errors come with the first token: ModelNotFound, NoTokenizer, NotGenerative,
        InvalidField, QueueFull.
        """
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            stop=stop,
            seed=seed,
            log_probabilities=log_probabilities,
        )
        request = _generation.from_model(model, prompt, sampling, priority)
        seconds = sampling.deadline(timeout, self._transport.timeout)
        return AsyncTokenStream(self._transport, Generation(request), seconds)

    async def trace(
        self, source: str | AsyncSession, sequence: Input | str, *, timeout: float | None = None
    ) -> Trace:
        """Everything inside the network while it reads a sequence; changes no state.

        `source` is a model, or a session to begin from its present state. `sequence` is [T, D]
        features, [T] tokens, or text; 1 to 4,096 steps.
        """
        name = source if isinstance(source, str) else source.name
        return await self._transport.call(calls.trace(name, sequence), timeout)
