"""The measured models: two layers, 64 features in, 64 out, random weights; and their inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

LAYERS, INPUT, OUTPUT = 2, 64, 64
HIDDEN = (256, 512, 1024)
POOL = 16  # different inputs of a session, used in turn


def name_of(cell: str, hidden: int) -> str:
    return f"{cell}-{hidden}"


def save_all(store: Path) -> None:
    """Write a model of every cell and size into a store."""
    import torch

    from carousel.model import Features, Linear, ModelConfig, Network, save

    torch.manual_seed(7)
    for cell in ("lstm", "gru"):
        for hidden in HIDDEN:
            config = ModelConfig(
                cell=cell,
                layers=LAYERS,
                hidden_size=hidden,
                input=Features(INPUT),
                head=Linear(OUTPUT),
            )
            save(store / name_of(cell, hidden) / "1", Network(config))


def inputs(sessions: int) -> Floats:
    """[POOL, sessions, D], the same wherever it is called."""
    return np.random.default_rng(11).standard_normal((POOL, sessions, INPUT), dtype=np.float32)


def lengths(count: int, seed: int = 5) -> Ints:
    """Lengths of whole sequences: log-normal, median 19.5, sigma 0.65, 1 to 330."""
    drawn = np.random.default_rng(seed).lognormal(np.log(19.5), 0.65, count)
    return np.clip(np.rint(drawn), 1, 330).astype(np.int64)


def state_bytes(cell: str, hidden: int) -> int:
    return LAYERS * hidden * 4 * (2 if cell == "lstm" else 1)


def step_flops(cell: str, hidden: int) -> int:
    """Floating point operations of one step of one session in its matrix products."""
    gates = 4 if cell == "lstm" else 3
    return 2 * (gates * hidden * (INPUT + 3 * hidden) + hidden * OUTPUT)
