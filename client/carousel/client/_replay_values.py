"""Past steps of audited sessions as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from carousel import tensors
from carousel.client._inputs import Floats
from carousel.client._names import session_name
from carousel.client._times import to_datetime
from carousel.errors import InvalidField
from carousel.v1 import session_service_pb2 as pb

PATH = "carousel.v1.SessionService/ReplaySession"

LONGEST = 3600.0
"""Seconds of a replay that is given no timeout: it computes everything again."""


class AuditEvent(StrEnum):
    """What set a session's state, other than a step."""

    CREATED = "created"
    IMPORTED = "imported"
    FORKED = "forked"
    REWOUND = "rewound"
    RESET = "reset"
    MIGRATED = "migrated"
    RESTORED = "restored"
    ADJUSTED = "adjusted"


@dataclass(frozen=True, slots=True, eq=False)
class ReplayedStep:
    """One past step, computed again.

    `input` is [D] features or a token, `output` [O]: what was answered; None with `verify_only`.
    `matches`: what is computed now is what was answered, to the bit where `exact`, otherwise within
    the server's tolerance; `difference` is how far both are apart. `superseded`: the session went
    back behind this step later, and took another one with this index. `event` set the state that
    the step began from, if it was no step. `missing_steps` right before are not in the log.
    """

    step_index: int
    input: Floats | int | None
    output: Floats | None
    matches: bool
    difference: float
    exact: bool
    superseded: bool
    event: AuditEvent | None
    missing_steps: int
    model_version: str
    commit_time: datetime


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What a replay found in all.

    `entries` of the log were verified; `chain` is the hash of the last, in hexadecimal: whoever
    keeps it can tell later that nothing before it was changed. Of the steps that were asked for,
    `mismatches` do not match and `missing_steps` are not in the log. `complete`: the log goes on
    to the present or to the session's end.
    """

    steps: int
    mismatches: int
    missing_steps: int
    entries: int
    complete: bool
    chain: str

    @property
    def good(self) -> bool:
        """Every step that was asked for is there and matches."""
        return not self.mismatches and not self.missing_steps


def request(
    name: str, *, start: int, stop: int | None, verify_only: bool
) -> pb.ReplaySessionRequest:
    if start < 0 or (stop is not None and stop < start):
        raise InvalidField(
            f"start must be at least 0 and stop not below it, got {start} and {stop}",
            field="from_step",
        )
    return pb.ReplaySessionRequest(
        name=session_name(name), from_step=start, to_step=stop, verify_only=verify_only
    )


class ReplayView:
    """What has come so far; the part that both kinds share."""

    def __init__(self) -> None:
        self._summary: ReplaySummary | None = None
        self._steps = 0

    @property
    def summary(self) -> ReplaySummary | None:
        """What was found in all; None before the end."""
        return self._summary

    def _take(self, response: pb.ReplaySessionResponse) -> Iterator[ReplayedStep]:
        """The steps of a response, in order; none in the last one."""
        if response.HasField("summary"):
            found = response.summary
            self._summary = ReplaySummary(
                steps=self._steps,
                mismatches=found.mismatches,
                missing_steps=found.missing_steps,
                entries=found.entries,
                complete=found.complete,
                chain=found.chain.hex(),
            )
        self._steps += response.steps
        return _steps(response)


def _steps(response: pb.ReplaySessionResponse) -> Iterator[ReplayedStep]:
    inputs = outputs = None
    if response.HasField("inputs"):
        inputs = tensors.decode(response.inputs, field="inputs")
        outputs = tensors.decode(response.outputs, field="outputs")
    event = _EVENTS.get(response.event)
    for place in range(response.steps):
        x = None if inputs is None else inputs[place]
        yield ReplayedStep(
            step_index=response.step_index + place,
            input=int(x) if x is not None and x.ndim == 0 else x,
            output=None if outputs is None else outputs[place],
            matches=response.matches[place],
            difference=response.differences[place],
            exact=response.exact,
            superseded=response.superseded,
            event=None if place else event,
            missing_steps=0 if place else response.missing_steps,
            model_version=response.model_version,
            commit_time=to_datetime(response.commit_times[place]),
        )


_EVENTS: dict[int, AuditEvent] = {
    number: AuditEvent(name.removeprefix("AUDIT_EVENT_").lower())
    for name, number in pb.AuditEvent.items()
    if number
}
