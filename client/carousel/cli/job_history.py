"""History: what has been seen of a job, folded from its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from carousel.cli.plots import Point
    from carousel.client import (
        Checkpoint,
        Evaluation,
        GradientFlow,
        JobEvent,
        JobState,
        Progress,
    )


class _Timed(Protocol):
    @property
    def step(self) -> int: ...


_Told = TypeVar("_Told", bound=_Timed)


class History:
    """The curves of a job and the latest of everything.

    A job that was started again repeats updates since its last checkpoint: what it had said of
    them before is dropped.
    """

    def __init__(self) -> None:
        self.state: JobState | None = None
        self.attempt = 1
        self.progress: list[Progress] = []
        self.evaluations: list[Evaluation] = []
        self.gradients: list[GradientFlow] = []
        self.checkpoint: Checkpoint | None = None
        self.warnings: list[str] = []

    def add(self, event: JobEvent) -> None:
        from carousel.client import (
            Checkpoint,
            Evaluation,
            GradientFlow,
            JobState,
            JobWarning,
            Progress,
        )

        self.attempt = event.attempt
        match event.what:
            case JobState() as state:
                self.state = state
            case Progress() as progress:
                self.progress = [*_before(self.progress, progress.step), progress]
            case Evaluation() as evaluation:
                if evaluation.split == "validation":
                    self.evaluations = [*_before(self.evaluations, evaluation.step), evaluation]
            case GradientFlow() as gradients:
                self.gradients = [*_before(self.gradients, gradients.step), gradients]
            case Checkpoint() as checkpoint:
                self.checkpoint = checkpoint
            case JobWarning(message):
                self.warnings.append(message)

    @property
    def losses(self) -> list[Point]:
        """By update, of the training part."""
        return [(float(one.step), one.loss) for one in self.progress]

    @property
    def validation_losses(self) -> list[Point]:
        return [(float(one.step), one.loss) for one in self.evaluations]


def _before(seen: list[_Told], step: int) -> list[_Told]:
    kept = len(seen)
    while kept and seen[kept - 1].step >= step:
        kept -= 1
    return seen[:kept]
