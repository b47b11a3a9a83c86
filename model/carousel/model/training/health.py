"""Losses and norms of the updates, summed on the device, and what follows if one is not finite."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

# Updates in a row that are not finite after which the job rolls back.
ROLL_BACK_AFTER = 3
# Roll-backs without a new checkpoint after which it gives up.
GIVE_UP_AFTER = 3
# Finite updates after which a halved learning rate is doubled again, and the least it may be.
CALM, LEAST = 100, 2.0**-6


class Tally:
    """Sums since they were last read, without waiting for the device."""

    def __init__(self, clip_norm: float, device: torch.device) -> None:
        self._clip = clip_norm or float("inf")
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)
        self._streak = torch.zeros(2, dtype=torch.float64, device=device)  # now, longest

    def add(self, loss: Tensor, norm: Tensor, bad: Tensor) -> None:
        """Take in one update; `bad` says that it was skipped."""
        good = torch.stack([loss, norm, norm > self._clip, ~bad]).double()
        self._sums[:4] += good.masked_fill_(bad, 0)
        self._sums[4] += bad
        self._streak[0] = (self._streak[0] + 1) * bad
        self._streak[1] = self._streak.max()

    def read(self) -> "Sums":
        """What was added since the last time; waits for the device."""
        loss, norm, clipped, good, bad = self._sums.tolist()
        streak = int(self._streak[1])
        self._sums.zero_()
        self._streak[1] = self._streak[0]
        return Sums(loss, norm, int(clipped), int(good), int(bad), streak)

    @property
    def streak(self) -> int:
        """Skipped updates in a row up to now."""
        return int(self._streak[0])

    @streak.setter
    def streak(self, value: int) -> None:
        self._streak.fill_(value)


@dataclass(slots=True)
class Sums:
    """Over some updates: of losses and norms (of the finite ones), and how many were which."""

    loss: float = 0.0
    norm: float = 0.0
    clipped: int = 0
    good: int = 0
    bad: int = 0
    streak: int = 0

    def __iadd__(self, other: "Sums") -> "Sums":
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def means(self) -> dict[str, float]:
        """As a progress event has them."""
        count = max(1, self.good)
        return {
            "loss": self.loss / count,
            "gradient_norm": self.norm / count,
            "clipped_ratio": self.clipped / count,
        }


@dataclass(slots=True)
class BackOff:
    """Halves the learning rate when an update was skipped, and lets it come back in calm."""

    scale: float = 1.0
    calm: int = 0
    skipped: int = 0

    def saw(self, sums: Sums) -> None:
        """Hear of the latest updates."""
        self.skipped += sums.bad
        if sums.bad:
            self.scale, self.calm = max(LEAST, self.scale / 2), 0
            return
        self.calm += sums.good
        if self.calm >= CALM:
            self.scale, self.calm = min(1.0, self.scale * 2), 0
