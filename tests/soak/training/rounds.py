"""A round: a job is made, struck and followed to its end, and held against the undisturbed one."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np

from carousel.client import Evaluation, Job, JobEvent, JobFailed, JobState
from carousel.errors import CarouselError, DatasetNotFound
from carousel.model.data import Corpus
from carousel.server.training.process import members
from tests.soak.training.faults import Fault, Victim
from tests.soak.training.lessons import Lesson
from tests.soak.training.site import Site

LIMIT = 180.0  # seconds for a job to end after the last strike
# Ends of a job that a strike may bring about, and that people would resume.
EXPECTED = ("no room left on the disk", "File too large", "records can't be read or written")
FILES = ("weights.safetensors", "config.json")


@dataclass(frozen=True, slots=True)
class Truth:
    """What an undisturbed run left behind.

    `losses` of the validation by step; the result has the `loss` on the test part; `first_progress`
    came so many seconds after the job was made.
    """

    files: dict[str, bytes]
    losses: dict[int, float]
    loss: float
    steps: int
    first_progress: float


def undisturbed(site: Site, lesson: Lesson) -> Truth:
    """Run the lesson once, and let nothing happen to it."""
    one = Round(site, lesson, f"undisturbed-{lesson.name}", np.random.default_rng(0))
    one.start()
    job = site.clients[0].jobs.wait(one.job, timeout=LIMIT)
    events = one.follower.stop()
    first = next(event for event in events if event.kind == "progress")
    assert job.evaluation is not None
    return Truth(
        files=one.result(),
        losses=losses(events),
        loss=job.evaluation.loss,
        steps=job.checkpoint_step,
        first_progress=(first.time - job.create_time).total_seconds(),
    )


class Round:
    """One job of a lesson."""

    def __init__(self, site: Site, lesson: Lesson, job: str, random: np.random.Generator) -> None:
        self.site, self.lesson, self.job = site, lesson, job
        self.random = random
        self.told: list[str] = []
        self.follower = Follower(site, job)

    def run(self, fault: Fault, truth: Truth) -> list[str]:
        """What was wrong."""
        self.start()
        victim = Victim(self.site, self.job, self.random)
        for _ in range(self.random.integers(1, 4)):
            self._await_moment(victim, truth)
            if victim.over:
                break
            self.told.append(fault.strike(victim))
        try:
            job = self._settle()
        except (CarouselError, TimeoutError) as error:
            return [f"it does not end: {error}"]
        finally:
            events = self.follower.stop()
        return self._judge(job, events, truth)

    def _await_moment(self, victim: Victim, truth: Truth) -> None:
        """Any moment: before there was an update, somewhere between two, or behind the last."""
        if victim.once_in(4):
            victim.pause(truth.first_progress)
            return
        step = int(self.random.integers(self.follower.step, truth.steps + 1))
        while self.follower.step < step and not self.follower.saw_end:
            time.sleep(0.02)
        victim.pause(0.2)

    def start(self) -> None:
        lesson, client = self.lesson, self.site.clients[0]
        dataset = lesson.name
        try:
            client.datasets.get(dataset)
        except DatasetNotFound:
            data = lesson.data().encode()
            client.datasets.upload(data, id=dataset, format=lesson.format)
        client.jobs.create(
            recipe=lesson.recipe,
            dataset=dataset,
            model=lesson.name,
            alias="stable",
            workers=lesson.workers,
            id=self.job,
        )
        self.follower.start()
        if lesson.spoiled is not None:
            self._spoil(lesson.spoiled)

    def _spoil(self, rows: range) -> None:
        """Long before its process, which has just been started, can read the first step."""
        next(e for e in self.follower.client.jobs.watch(self.job) if e.what is JobState.RUNNING)
        corpus = Corpus.open(self.site.folder(self.job).corpus)
        steps = np.memmap(
            corpus.folder / "steps.bin", corpus.steps.dtype, "r+", shape=corpus.steps.shape
        )
        steps[rows.start : rows.stop] = np.nan
        steps.flush()
        assert not any(event.kind == "progress" for event in self.follower.events)

    def _settle(self) -> Job:
        """The end of the job; what a strike brought to its end is resumed."""
        jobs, end = self.site.clients[0].jobs, time.monotonic() + LIMIT
        while True:
            try:
                return jobs.wait(self.job, timeout=max(0.0, end - time.monotonic()))
            except JobFailed as failed:
                message = failed.job.state_message
                if failed.job.state is JobState.FAILED:
                    if not any(words in message for words in EXPECTED):
                        return failed.job
                    self.told.append("resumed")
                jobs.resume(self.job)

    def result(self) -> dict[str, bytes]:
        folder = self.site.folder(self.job).result
        return {name: (folder / name).read_bytes() for name in FILES}

    def _judge(self, job: Job, events: list[JobEvent], truth: Truth) -> list[str]:
        if job.state is not JobState.SUCCEEDED:
            return [f"it {job.state}: {job.state_message}"]
        wrong = [
            f"{name} of the result differs from that of the undisturbed run"
            for name, content in self.result().items()
            if content != truth.files[name]
        ]
        assert job.evaluation is not None
        if (job.evaluation.loss, job.checkpoint_step) != (truth.loss, truth.steps):
            wrong.append(
                f"loss {job.evaluation.loss} at {job.checkpoint_step}, undisturbed it is "
                f"{truth.loss} at {truth.steps}"
            )
        wrong += [
            f"validation loss {loss} at {step}, undisturbed it is {truth.losses.get(step)}"
            for step, loss in losses(events).items()
            if loss != truth.losses.get(step)
        ]
        return wrong + self._judge_events(events) + self._judge_version(job) + self._judge_rest()

    def _judge_events(self, events: list[JobEvent]) -> list[str]:
        sequences = [event.sequence for event in events]
        if sequences != list(range(1, len(events) + 1)):
            return [f"the watch told the events {sequences}"]
        if events != list(self.site.clients[-1].jobs.watch(self.job)):
            return ["the watch told other events than there are"]
        return []

    def _judge_version(self, job: Job) -> list[str]:
        """Every job of the lesson made one version, and the alias stands on the last."""
        client = self.site.clients[0]
        made = [one.version for one in client.jobs.list(model=self.lesson.name)]
        there = [one.name for one in client.list_versions(self.lesson.name)]
        wrong = []
        if sorted(made) != sorted(there):
            wrong.append(f"its jobs made {sorted(made)}, there are {sorted(there)}")
        aliases = client.get_model(self.lesson.name).aliases
        number = int(job.version.rpartition("/")[2] or 0)
        if aliases.get("stable") != number:
            wrong.append(f"stable is {aliases.get('stable')}, the last version {number}")
        folder = self.site.store / self.lesson.name / str(number)
        if (folder / FILES[0]).read_bytes() != self.result()[FILES[0]]:
            wrong.append("the version has other weights than the result")
        return wrong

    def _judge_rest(self) -> list[str]:
        folder = self.site.folder(self.job).path
        left = [path.name for path in folder.rglob(".*") if not path.name.endswith(".damaged")]
        wrong = [f"drafts stayed behind: {left}"] if left else []
        if running := members(folder):
            wrong.append(f"processes live on: {running}")
        return wrong


class Follower(threading.Thread):
    """Watches a job through everything, as a user's client does."""

    def __init__(self, site: Site, job: str) -> None:
        super().__init__(daemon=True)
        self.client = site.clients[-1]
        self.events: list[JobEvent] = []
        self._job = job
        self._over = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self._over.is_set():
                after = self.events[-1].sequence if self.events else 0
                for event in self.client.jobs.watch(self._job, after=after):
                    self.events.append(event)
                self._over.wait(0.2)  # it may be resumed
        except Exception as error:
            self._failure = error

    @property
    def step(self) -> int:
        """How far the job was when it last told of itself."""
        steps = (getattr(event.what, "step", None) for event in reversed(self.events))
        return next((step for step in steps if step is not None), 0)

    @property
    def saw_end(self) -> bool:
        """Whether the last state that it heard of is one that the job stays in."""
        states = (e.what for e in reversed(self.events) if isinstance(e.what, JobState))
        return next((state.ended for state in states), False)

    def stop(self) -> list[JobEvent]:
        """All that it saw, once it has seen the end."""
        self._over.set()
        self.join(60)
        if self._failure is not None:
            raise self._failure
        return self.events


def losses(events: list[JobEvent]) -> dict[int, float]:
    """Of the validation part, by step."""
    found = [event.what for event in events if isinstance(event.what, Evaluation)]
    return {one.step: one.loss for one in found if one.split == "validation"}
