"""Jobs: what `client.jobs` can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from carousel.client import _training_calls as calls
from carousel.client._jobs_progress import Checkpoint, GradientFlow, JobEvent, JobState
from carousel.client._jobs_values import Job
from carousel.client._jobs_watch import PATH, Watch, check
from carousel.client._training_recipe import Recipe
from carousel.client._transport import Transport
from carousel.errors import CarouselError
from carousel.v1 import training_service_pb2 as pb


class Jobs:
    """The methods of `client.jobs`. A job is named by its id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
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
        return self._transport.call(call, timeout)

    def get(self, name: str, *, timeout: float | None = None) -> Job:
        """Describe a job. Raises JobNotFound."""
        return self._transport.call(calls.get_job(name), timeout)

    def list(
        self,
        *,
        states: Iterable[JobState | str] = (),
        model: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, a page at a time: those in these states, those for this model."""
        token, wanted = "", [str(state) for state in states]
        while True:
            jobs, token = self._transport.call(
                calls.list_jobs(token, states=wanted, model=model), timeout
            )
            yield from jobs
            if not token:
                return

    def cancel(self, name: str, *, timeout: float | None = None) -> Job:
        """Stop a job at its next update, with a checkpoint. Raises JobNotFound."""
        return self._transport.call(calls.cancel_job(name), timeout)

    def resume(
        self, name: str, *, max_steps: int | None = None, timeout: float | None = None
    ) -> Job:
        """Queue a cancelled or failed job again; it goes on from its last checkpoint.

        `max_steps` is a new number of updates in all. Raises JobNotFound, JobNotResumable,
        QueueFull.
        """
        return self._transport.call(calls.resume_job(name, max_steps=max_steps), timeout)

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete an ended job; versions that came of it stay. Raises JobNotFound, JobActive."""
        self._transport.call(calls.delete_job(name), timeout)

    def watch(
        self, name: str, *, after: int = 0, timeout: float | None = None
    ) -> Iterator[JobEvent]:
        """The events of a job after this sequence, past ones first, until the job has ended.

        A stream that breaks is opened again where it stood, also while a server restarts. After
        `timeout` seconds it raises DeadlineExceeded. Raises JobNotFound.
        """
        watch = Watch(name, after=after, timeout=timeout)
        while True:
            try:
                yield from self._stream(watch)
                if watch.saw_end() or self.get(name).state.ended:
                    return
                time.sleep(calls.PAUSE)
            except CarouselError as error:
                time.sleep(watch.wait_after(error))

    def _stream(self, watch: Watch) -> Iterator[JobEvent]:
        call = self._transport.stream(
            PATH, watch.request(), pb.WatchJobResponse, timeout=watch.seconds
        )
        try:
            while (response := self._transport.read(call)) is not None:
                if (event := watch.take(response)) is not None:
                    yield event
        finally:
            call.cancel()

    def wait(
        self,
        name: str,
        *,
        on_event: Callable[[JobEvent], object] | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Wait until a job has succeeded; `on_event` is called with each of its events.

        Raises JobFailed when it failed or was cancelled, DeadlineExceeded, JobNotFound.
        """
        for event in self.watch(name, timeout=timeout):
            if on_event is not None:
                on_event(event)
        return check(self.get(name))

    def checkpoints(self, name: str, *, timeout: float | None = None) -> Iterator[Checkpoint]:
        """A job's checkpoints, earliest first. Raises JobNotFound."""
        token = ""
        while True:
            found, token = self._transport.call(calls.list_checkpoints(name, token), timeout)
            yield from found
            if not token:
                return

    def promote(
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
        return self._transport.call(call, timeout)

    def diagnose(
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
        return self._transport.call(calls.diagnose(name, checkpoint, window=window), timeout)
