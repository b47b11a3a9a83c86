"""Servers come and go; jobs go on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import grpc

from carousel.server.training.database import Database
from carousel.v1 import training_pb2
from tests.processes import ServerProcess
from tests.server.training.conftest import Start
from tests.server.training.wire import FOX, Training, recipe, states, time_passes

LONG = {"max_steps": 1_000_000, "evaluate_every": 500}


def test_a_job_outlives_its_server_and_the_next_one_adopts_it(tmp_path: Path, start: Start) -> None:
    with ServerProcess(tmp_path, store=tmp_path / "models") as doomed:
        with grpc.insecure_channel(doomed.target) as channel:
            training = Training(channel)
            training.upload(FOX, name="fox.txt", id="fox")
            training.create("job", recipe=recipe(**LONG))
            seen = training.until("job", "progress")
        doomed.kill()
    time_passes(Database(tmp_path / "data"))

    _, training = start()
    # No new attempt: the very process that the dead server started is listened to again.
    last = max(event.sequence for event in islice(training.watch("job", seen.sequence), 8))
    assert training.until("job", "progress", after=last).attempt == 1
    training.cancel("job")
    job = training.finish("job")
    assert job.state == training_pb2.JOB_STATE_CANCELLED
    assert job.attempts == 1


def test_a_server_that_is_drained_hands_its_job_to_the_next(start: Start) -> None:
    first, training = start()
    training.upload(FOX, name="fox.txt", id="fox")
    training.create("job", recipe=recipe(max_steps=2000, evaluate_every=1000))
    seen = training.until("job", "progress")
    first.loop.call_soon_threadsafe(first.server.drain, 30)
    first.join()

    _, training = start()
    events = list(training.watch("job", after=seen.sequence))
    assert states(events) == ["queued", "preparing", "running", "succeeded"]
    kinds = [event.WhichOneof("event") for event in events]
    assert "checkpoint" in kinds[: kinds.index("state")]  # before it was queued again
    job = training.get("job")
    assert job.progress.step == 2000
    assert job.attempts == 2
