"""Jobs: what `client.jobs` of AsyncClient can do."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from carousel.client import _training_calls as calls
from carousel.client._async_transport import AsyncTransport
from carousel.client._jobs_progress import Checkpoint, GradientFlow, JobEvent, JobState
from carousel.client._jobs_values import Job
from carousel.client._jobs_watch import PATH, Watch, check
from carousel.client._training_recipe import Recipe
from carousel.errors import CarouselError
from carousel.v1 import training_service_pb2 as pb


class AsyncJobs:
    """The methods of `client.jobs`. A job is named by its id."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        recipe: Recipe | Mapping[str, Any],
        dataset: str | None = None,
        uri: str | None = None,
        model: str | None = None,
        alias: str | None = None,
        margin: float | None = None,
        workers: int = 1,
        priority: int = 0,
        id: str | None = None,
        validate_only: bool = False,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Queue a job that learns from a dataset, or from the server's file `uri`.

        The result becomes a version of `model`, and `alias` moves to it, if its test loss is
        below that of the alias's version by the share `margin`. `recipe` may be a mapping, as in
        `{"task": {"type": "forecast", "targets": ["load"]}, "max_steps": 500}`. Higher
        `priority` runs first. `validate_only` checks everything and queues nothing; its answer's
        `state_message` says where the data was too large for that. Raises InvalidField,
        DatasetNotFound, DatasetInvalid (`row` and `column` in its metadata), JobExists, QueueFull.
        """
        call = calls.create_job(
            recipe,
            dataset=dataset,
            uri=uri,
            model=model,
            alias=alias,
            margin=margin,
            workers=workers,
            priority=priority,
            id=id,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._transport.call(call, timeout)

    async def get(self, name: str, *, timeout: float | None = None) -> Job:
        """Describe a job. Raises JobNotFound."""
        return await self._transport.call(calls.get_job(name), timeout)

    async def list(
        self,
        *,
        states: Iterable[JobState | str] = (),
        model: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Job]:
        """Jobs, newest first, a page at a time: those in these states, those for this model."""
        token, wanted = "", [str(state) for state in states]
        while True:
            jobs, token = await self._transport.call(
                calls.list_jobs(token, states=wanted, model=model), timeout
            )
            for one in jobs:
                yield one
            if not token:
                return

    async def cancel(self, name: str, *, timeout: float | None = None) -> Job:
        """Stop a job at its next update, with a checkpoint. Raises JobNotFound."""
        return await self._transport.call(calls.cancel_job(name), timeout)

    async def resume(
        self, name: str, *, max_steps: int | None = None, timeout: float | None = None
    ) -> Job:
        """Queue a cancelled or failed job again; it goes on from its last checkpoint.

        `max_steps` is a new number of updates in all. Raises JobNotFound, JobNotResumable,
        QueueFull.
        """
        return await self._transport.call(calls.resume_job(name, max_steps=max_steps), timeout)

    async def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete an ended job; versions that came of it stay. Raises JobNotFound, JobActive."""
        await self._transport.call(calls.delete_job(name), timeout)

    async def watch(
        self, name: str, *, after: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[JobEvent]:
        """The events of a job after this sequence, past ones first, until the job has ended.

        A stream that breaks is opened again where it stood, also while a server restarts. After
        `timeout` seconds it raises DeadlineExceeded. Raises JobNotFound.
        """
        watch = Watch(name, after=after, timeout=timeout)
        while True:
            try:
                async with contextlib.aclosing(self._stream(watch)) as events:
                    async for event in events:
                        yield event
                if watch.saw_end() or (await self.get(name)).state.ended:
                    return
                await asyncio.sleep(calls.PAUSE)
            except CarouselError as error:
                await asyncio.sleep(watch.wait_after(error))

    async def _stream(self, watch: Watch) -> AsyncGenerator[JobEvent]:
        call = self._transport.stream(
            PATH, watch.request(), pb.WatchJobResponse, timeout=watch.seconds
        )
        try:
            while (response := await self._transport.read(call)) is not None:
                if (event := watch.take(response)) is not None:
                    yield event
        finally:
            call.cancel()

    async def wait(
        self,
        name: str,
        *,
        on_event: Callable[[JobEvent], object] | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Wait until a job has succeeded; `on_event` is called with each of its events.

        Raises JobFailed when it failed or was cancelled, DeadlineExceeded, JobNotFound.
        """
        async with contextlib.aclosing(self.watch(name, timeout=timeout)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
        return check(await self.get(name))

    async def checkpoints(
        self, name: str, *, timeout: float | None = None
    ) -> AsyncIterator[Checkpoint]:
        """A job's checkpoints, earliest first. Raises JobNotFound."""
        token = ""
        while True:
            found, token = await self._transport.call(calls.list_checkpoints(name, token), timeout)
            for one in found:
                yield one
            if not token:
                return

    async def promote(
        self,
        name: str,
        checkpoint: int | str,
        *,
        model: str | None = None,
        alias: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Make a checkpoint, a step or `best`, a new version, whatever the job's gate says.

        Gives the version's name. Raises JobNotFound, CheckpointNotFound, InvalidField,
        StoreUnwritable.
        """
        call = calls.promote(name, checkpoint, model=model, alias=alias)
        return await self._transport.call(call, timeout)

    async def diagnose(
        self,
        name: str,
        checkpoint: int | str,
        *,
        window: int = 0,
        timeout: float | None = None,
    ) -> GradientFlow:
        """How the gradient travels back through `window` steps of the job's data (at most 4,096).

        0 is the recipe's window. Raises JobNotFound, CheckpointNotFound, InvalidField.
        """
        return await self._transport.call(calls.diagnose(name, checkpoint, window=window), timeout)
