"""The workshop: what every job that runs needs of its server."""

from __future__ import annotations

from dataclasses import dataclass

from carousel.server.training.bells import Bells
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.leases import Leases
from carousel.server.training.metrics import TrainingMetrics
from carousel.server.training.process import Share
from carousel.server.training.promotion import Promotion


@dataclass(frozen=True, slots=True)
class Workshop:
    """`share` of each process; `grace`: seconds that a process which must stop has."""

    leases: Leases
    folder: DataFolder
    promotion: Promotion
    metrics: TrainingMetrics
    bells: Bells
    share: Share
    grace: float
