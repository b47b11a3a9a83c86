"""A sample: what one block of one arm gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
NOTHING: Seconds = np.zeros(0)


@dataclass(slots=True)
class Sample:
    """`latencies` are seconds, one for each message; `extra` is what only this arm knows."""

    steps: int
    seconds: float
    latencies: Seconds = field(default_factory=NOTHING.copy)
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Steps a second."""
        return self.steps / self.seconds


def percentiles(samples: Sequence[Sample]) -> dict[str, float]:
    """Milliseconds over all blocks of an arm."""
    together = np.concatenate([sample.latencies for sample in samples])
    if not len(together):
        return {}
    values = np.percentile(together * 1e3, (50, 99, 99.9))
    return dict(zip(("p50_ms", "p99_ms", "p99.9_ms"), values.tolist(), strict=True))
