"""A run: the events of a job as they come, at its end what came of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from carousel.cli import exits, job_lines, job_live, job_views
from carousel.cli.connection import command
from carousel.cli.job_history import History
from carousel.cli.output import console

if TYPE_CHECKING:
    from carousel.client import Client, Job, JobEvent

_PAST_SECONDS = 3.0


class Run(Iterator["JobEvent | Job"]):
    """Events, and at last the job itself. Ctrl-C leaves it running.

    `use` makes the commands that use a version out of the ended job.
    """

    def __init__(
        self,
        client: Client,
        job: Job,
        *,
        after: int = 0,
        use: Callable[[Job], list[str]] | None = None,
    ) -> None:
        self.job = job
        self.use = use
        self._client = client
        self._items = self._follow(after)

    def __next__(self) -> JobEvent | Job:
        with self.leaving():
            return next(self._items)

    def events(self) -> Iterator[JobEvent]:
        """All but the last; it is in `job` then."""
        from carousel.client import JobEvent

        for item in self._items:
            if isinstance(item, JobEvent):
                yield item
            else:
                return

    def check(self) -> None:
        """Raises JobFailed unless the job succeeded."""
        for _ in self._items:
            pass

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """Turns Ctrl-C into a word on what goes on without us."""
        try:
            yield
        except KeyboardInterrupt:
            print(f"\n{detached(self.job)}", file=sys.stderr)
            raise typer.Exit(exits.INTERRUPTED) from None

    def _follow(self, after: int) -> Iterator[JobEvent | Job]:
        from carousel.client import JobFailed, JobState

        yield from self._client.jobs.watch(self.job.name, after=after)
        self.job = self._client.jobs.get(self.job.name)
        yield self.job
        if self.job.state is not JobState.SUCCEEDED:
            raise JobFailed(self.job)


def show(run: Run) -> None:
    """Show a run while it lasts, then what it is worth and how to use it."""
    out = console()
    with run.leaving():
        job_live.show(run.job, run.events(), out=out)
    if run.job.evaluation is not None:
        out.print("", job_views.evaluation(run.job.evaluation), "", sep="\n")
    out.print(outcome(run.job), soft_wrap=True, markup=False)
    if run.use is not None and run.job.version:
        for typed in run.use(run.job):
            out.print(f"$ {typed}", soft_wrap=True, markup=False)
    run.check()


def outcome(job: Job) -> str:
    """One sentence, and what to do next."""
    if job.version:
        alias = f", {job.promotion.alias} points at it" if job.promotion.alias else ""
        return f"{job_views.version(job)} is made{alias}"
    why = f": {job.state_message}" if job.state_message else ""
    if job.state == "succeeded":
        model = () if job.promotion.model else ("--model", "MODEL")
        return (
            f"{job.id} has ended and made no version{why}\n"
            f"{command('jobs', 'promote', job.id, *model)} makes one all the same"
        )
    ended = f"{job.id} {job_lines.became(job.state)}"
    if not job.checkpoint_step:
        return ended
    return f"{ended}; {command('jobs', 'resume', job.id)} lets it go on"


def detached(job: Job) -> str:
    return (
        f"{job.id} goes on without this command: {command('jobs', 'watch', job.id)} follows it, "
        f"{command('jobs', 'cancel', job.id)} stops it"
    )


def past(client: Client, job: Job) -> History:
    """What a job has told so far."""
    from carousel.errors import DeadlineExceeded

    history = History()
    timeout = None if job.state.ended else _PAST_SECONDS
    with contextlib.suppress(DeadlineExceeded):
        for event in client.jobs.watch(job.name, timeout=timeout):
            history.add(event)
    return history
