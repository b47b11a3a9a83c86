"""StepErrors: some items of one message failed, the others did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from carousel.client._inputs import Floats
from carousel.errors import CarouselError


class StepErrors(ExceptionGroup[CarouselError]):
    """Raised by `step_many` when some sessions' steps failed; `except*` can pick them by class.

    `errors` has the error by the session's place in the call. `outputs` [N, O] has the answers of
    all others, which were fed and moved on; rows of failed ones are NaN.
    """

    errors: Mapping[int, CarouselError]
    outputs: Floats

    def __new__(cls, errors: Mapping[int, CarouselError], outputs: Floats) -> Self:
        count = f"{len(errors)} of {len(outputs)} steps failed"
        group = super().__new__(cls, count, list(errors.values()))
        group.errors = dict(errors)
        group.outputs = outputs
        return group

    def __init__(self, errors: Mapping[int, CarouselError], outputs: Floats) -> None:
        super().__init__(self.message, list(errors.values()))

    def derive(self, excs: Sequence[CarouselError], /) -> StepErrors:  # type: ignore[override]
        """A part of the group, as `except*` makes them."""
        chosen = {i: error for i, error in self.errors.items() if error in excs}
        return StepErrors(chosen, self.outputs)
