"""Thousands of sessions at once, every output compared with the reference run of its session alone.

Each session follows one of a few dozen known sequences, begins it at its own time and steps at its
own pace, so that every turn has other neighbours; the reference network has run each of the
sequences alone, in float64, before.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from carousel.client import AsyncClient, AsyncSession
from carousel.model import Network

TOLERANCE = 2e-4  # of the largest output of the sequence: float32 against float64, any batch size
SEQUENCES = 32

Array = npt.NDArray[Any]


@dataclass
class Oracle:
    """A few sequences of one model and what the reference makes of each alone."""

    model: str
    inputs: Array  # [S, T, ...]
    outputs: Array  # [S, T, O] float64
    scale: float = 1.0

    @classmethod
    def of(cls, model: str, network: Network, steps: int, rng: np.random.Generator) -> Oracle:
        config = network.config
        shape = (SEQUENCES, steps)
        inputs: Array
        if config.takes_tokens:
            vocabulary = network.embedding.num_embeddings if network.embedding else 0
            inputs = rng.integers(0, vocabulary, shape)
        else:
            inputs = rng.gamma(1.0, 60.0, (*shape, config.input_size)).astype(np.float32)
        alone = network.double().eval()
        outputs = np.empty((*shape, config.output_size))
        with torch.no_grad():
            for number in range(SEQUENCES):
                x = torch.from_numpy(inputs[number : number + 1])
                x = x if config.takes_tokens else x.double()
                y, _ = alone(x, alone.initial_rows(1))
                outputs[number] = y[0].numpy()
        return cls(model, inputs, outputs, float(np.abs(outputs).max()))


@dataclass
class Result:
    """What a run has seen."""

    steps: int = 0
    worst: float = 0.0  # largest difference, relative to the sequence's largest output
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def follow(
    session: AsyncSession, oracle: Oracle, number: int, end: float, result: Result, pace: float
) -> None:
    """Step one session through its sequence until the time is up; begin again at the end."""
    inputs, outputs = oracle.inputs[number], oracle.outputs[number]
    await asyncio.sleep(pace * np.random.default_rng(number).random())
    index = 0
    while time.monotonic() < end:
        x = inputs[index]
        got = await session.step(int(x) if x.ndim == 0 else x)
        difference = float(np.abs(got - outputs[index]).max()) / oracle.scale
        result.steps += 1
        result.worst = max(result.worst, difference)
        if not difference <= TOLERANCE:
            result.wrong.append(f"{session.name} step {index}: off by {difference:.1e}")
        index += 1
        if index == len(inputs):
            await session.reset()
            index = 0


async def follow_all(
    target: str, oracles: list[Oracle], *, sessions: int, seconds: float
) -> Result:
    """Step `sessions` sessions, shared between the models, for `seconds`."""
    result = Result()
    async with AsyncClient(target, timeout=120.0) as client:
        opened = [
            await client.session(oracles[place % len(oracles)].model) for place in range(sessions)
        ]
        begin = time.monotonic()
        await asyncio.gather(
            *(
                follow(
                    session,
                    oracles[place % len(oracles)],
                    place // len(oracles) % SEQUENCES,
                    begin + seconds,
                    result,
                    pace=2.0,
                )
                for place, session in enumerate(opened)
            )
        )
        result.seconds = time.monotonic() - begin
    return result
