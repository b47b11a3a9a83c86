"""A replay: the steps of a verified log, segment by segment, compared with what is computed now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from carousel import tensors
from carousel.server.audit.compute import Again, Doubles, Numbers, distances
from carousel.server.audit.entry import PERIODIC, digest
from carousel.server.audit.head import Head
from carousel.server.audit.reader import NO_LIMIT, Scan, Segment, entries_of
from carousel.server.names import shown
from carousel.server.work import Floats, Inputs
from carousel.v1 import session_service_pb2 as pb

MESSAGE_BYTES = 2**20


@dataclass(slots=True)
class Steps:
    """The steps of one segment that are asked for, from step `begin` on."""

    segment: Segment
    begin: int
    inputs: Inputs  # [T, D] or [T]
    outputs: Numbers  # [T, O], what was answered as far as the log says it
    differences: Doubles  # [T]
    matches: list[bool]
    times: list[float]


@dataclass(slots=True)
class Replay:
    """Computes the steps `begin` to `end` of a log again."""

    scan: Scan
    begin: int
    end: int
    verify_only: bool
    again: Callable[[Head], Again]
    mismatches: int = 0
    missing: int = 0
    _ready: tuple[Head, Again] | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[pb.ReplaySessionResponse]:
        following: Sequence[Segment | None] = [*self.scan.segments[1:], None]
        for segment, after in zip(self.scan.segments, following, strict=True):
            self.missing += self._asked(segment.begin - segment.missing, segment.begin)
            if self._asked(segment.begin, segment.end):
                yield from self._messages(self._steps(segment, after))
            elif segment.event != PERIODIC and self._asked(segment.begin, segment.begin + 1):
                yield self._message(segment, segment.begin)
        yield self._summary()

    def _asked(self, begin: int, end: int) -> int:
        """How many of these steps are asked for."""
        return max(0, min(end, self.end) - max(begin, self.begin))

    def _summary(self) -> pb.ReplaySessionResponse:
        found = self.scan
        summary = pb.AuditSummary(
            entries=found.entries,
            chain=found.hash,
            mismatches=self.mismatches,
            missing_steps=self.missing,
            complete=found.complete,
        )
        return pb.ReplaySessionResponse(step_index=found.index, summary=summary)

    def _steps(self, segment: Segment, after: Segment | None) -> Steps:
        """Compute a segment from its state on, and compare."""
        head, again = segment.head, self._conditions(segment.head)
        state, entries = entries_of(segment)
        fed, said = zip(*map(head.steps, entries), strict=True)
        times = [entry.time for entry in entries for _ in range(entry.steps)]
        inputs = np.concatenate(fed)[: self.end - segment.begin]
        outputs, row = again.run(inputs, head.row(state))
        if head.bit_exact:
            differences = _unequal(outputs, [one for some in said for one in some])
        else:
            answered = np.concatenate(said)[: len(inputs)]
            differences, outputs = distances(answered, outputs), answered
        whole = segment.begin + len(inputs) == segment.end
        if whole and after is not None and after.event == PERIODIC:
            logged = head.row(entries_of(after)[0])
            differences[-1] = max(differences[-1], _between(logged, row, exact=head.bit_exact))
        skipped = max(0, self.begin - segment.begin)
        return Steps(
            segment,
            segment.begin + skipped,
            inputs[skipped:],
            outputs[skipped:],
            differences[skipped:],
            (differences[skipped:] <= again.tolerance).tolist(),
            times[skipped : len(inputs)],
        )

    def _conditions(self, head: Head) -> Again:
        if self._ready is None or self._ready[0] != head:
            self._ready = head, self.again(head)
        return self._ready[1]

    def _messages(self, steps: Steps) -> Iterator[pb.ReplaySessionResponse]:
        """The steps in messages of moderate size; those that were superseded apart."""
        self.mismatches += steps.matches.count(False)
        count, segment = len(steps.matches), steps.segment
        size = 1 if not count else (steps.inputs.nbytes + steps.outputs.nbytes) // count + 9
        most = max(1, MESSAGE_BYTES // size)
        limit = min(max(segment.limit - steps.begin, 0), count)
        edges = sorted({*range(0, limit, most), *range(limit, count, most), count})
        for a, b in pairwise(edges):
            message = self._message(segment, steps.begin + a)
            message.steps = b - a
            message.matches.extend(steps.matches[a:b])
            message.differences.extend(steps.differences[a:b].tolist())
            message.superseded = steps.begin + a >= segment.limit
            for time in steps.times[a:b]:
                message.commit_times.add().FromNanoseconds(int(time * 1e9))
            if not self.verify_only:
                message.inputs.CopyFrom(tensors.encode(steps.inputs[a:b]))
                message.outputs.CopyFrom(tensors.encode(steps.outputs[a:b]))
            yield message

    def _message(self, segment: Segment, step_index: int) -> pb.ReplaySessionResponse:
        first = step_index == segment.begin
        return pb.ReplaySessionResponse(
            step_index=step_index,
            exact=segment.head.bit_exact,
            model_version=shown(segment.head.model),
            event=segment.event if first else PERIODIC,  # type: ignore[arg-type]
            missing_steps=segment.missing if first else 0,
            superseded=segment.limit != NO_LIMIT and step_index >= segment.limit,
        )


def _unequal(outputs: Numbers, said: list[bytes]) -> Doubles:
    """0 for each row [n, O] whose digest is the one that was logged, infinity for others."""
    equal = [digest(row.tobytes()) == own for row, own in zip(outputs, said, strict=False)]
    return np.where(equal, 0.0, np.inf)


def _between(logged: Floats, row: Numbers, *, exact: bool) -> float:
    """How far two rows [width] differ."""
    if exact:
        return 0.0 if logged.tobytes() == row.tobytes() else float("inf")
    return float(distances(logged[None], row[None])[0])
