"""StepErrors: some items of one message failed, the others did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from carousel.client._inputs import Floats
from carousel.errors import CarouselError

if TYPE_CHECKING:
    from carousel.client._held import HeldState


class StepErrors(ExceptionGroup[CarouselError]):
    """Raised when some steps of one call failed; `except*` can pick them by class.

    `errors` has the error by the place in the call. `outputs` [N, O] has the (last) outputs of all
    others; rows of failed ones are NaN. The sessions of `step_many` that did not fail were fed and
    moved on; of `step_states` and `chunk_states`, `states` has the new states, None where a step
    failed.
    """

    errors: Mapping[int, CarouselError]
    outputs: Floats
    states: Sequence[HeldState | None]

    def __new__(
        cls,
        errors: Mapping[int, CarouselError],
        outputs: Floats,
        states: Sequence[HeldState | None] = (),
    ) -> Self:
        count = f"{len(errors)} of {len(outputs)} steps failed"
        group = super().__new__(cls, count, list(errors.values()))
        group.errors = dict(errors)
        group.outputs = outputs
        group.states = states
        return group

    def __init__(
        self,
        errors: Mapping[int, CarouselError],
        outputs: Floats,
        states: Sequence[HeldState | None] = (),
    ) -> None:
        super().__init__(self.message, list(errors.values()))

    def derive(self, excs: Sequence[CarouselError], /) -> StepErrors:  # type: ignore[override]
        """A part of the group, as `except*` makes them."""
        chosen = {i: error for i, error in self.errors.items() if error in excs}
        return StepErrors(chosen, self.outputs, self.states)
