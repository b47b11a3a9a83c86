"""A little of everything that callers do, over and over, until it is told to stop."""

from __future__ import annotations

import threading
import time
from typing import Self

import numpy as np

from carousel.client import Client, LanguageModel, NetworkShape, Recipe
from tests.deploy.models import FEATURES
from tests.processes import PATIENCE

PAUSE_SECONDS = 0.02  # so that most of the machine is left to others
CROWD = 12
TEXT = "the quick brown fox jumps over the lazy dog. " * 2000


class Load:
    """Runs in a thread; what goes wrong there is raised at the end.

    `shift` is added to the inputs of the crowd.
    """

    def __init__(self, target: str) -> None:
        self.shift = 0.0
        self._target = target
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            with Client(self._target, timeout=PATIENCE) as client:
                self._train(client)
                crowd = [client.session("steady", session_id=f"crowd-{n}") for n in range(CROWD)]
                random = np.random.default_rng(0)
                while not self._stop.is_set():
                    inputs = random.standard_normal((CROWD, FEATURES)).astype(np.float32)
                    client.step_many(crowd, inputs + np.float32(self.shift))
                    self._once(client, random)
                    self._stop.wait(PAUSE_SECONDS)
        except BaseException as error:
            self._failure = error

    def _train(self, client: Client) -> None:
        """One job that soon ends, and then one that goes on."""
        data = client.datasets.upload(TEXT.encode(), id="fox", format="text")
        small = NetworkShape(hidden_size=16, embedding_size=4)
        for id, steps in (("short", 30), ("endless", 1_000_000)):
            recipe = Recipe(
                task=LanguageModel(),
                network=small,
                max_steps=steps,
                batch_size=4,
                window=16,
                evaluate_every=200,
            )
            client.jobs.create(dataset=data.name, recipe=recipe, model="fox", id=id)

    def _once(self, client: Client, random: np.random.Generator) -> None:
        """A session that lives for a moment, and one that writes."""
        inputs = random.standard_normal((8, FEATURES)).astype(np.float32)
        with client.session("steady", rewind_depth=4, prefix=inputs) as session:
            for x in inputs[:4]:
                session.step(x)
            session.rewind(steps=2)
            (twin,) = session.fork(1)
            twin.close()
        with client.session("writer") as session:
            for _ in session.generate("the quick ", max_tokens=12, seed=int(time.time())):
                pass
        client.predict("steady", [inputs])
