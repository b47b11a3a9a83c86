"""Stages: a clock of what a step goes through, put around the functions of a server from outside.

Nothing in the server knows of it, so that it costs nothing where nobody asks. The stages of a
message follow one another without a gap: together they are the time from its first byte that is
parsed to the last byte of its answer. `carousel bench stages` shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

from carousel.server import gatekeeper, lone, outbox, rpc, steps
from carousel.server.services.inference_service import InferenceService
from carousel.server.turns import Turns
from carousel.server.work import Answer, Work
from carousel.v1 import inference_service_pb2 as pb

# In the order in which a message goes through them. In the queue it waits for the engine, twice: to
# be looked at, and for its turn; and in `deliver` for the event loop.
STAGES = (
    *("decode", "queue", "validate", "gather", "compute", "commit"),
    *("deliver", "encode", "write"),
)
WAITS = frozenset({"queue", "deliver"})


@dataclass(slots=True)
class Stages:
    """Seconds of each stage: `passed` by all messages, and `worked` whoever waited for it."""

    messages: int = 0
    steps: int = 0
    turns: int = 0
    whole: float = 0.0  # from the first to the last moment of each message
    passed: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    worked: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, times: Sequence[tuple[str, float]], steps: int) -> None:
        """A message: where each stage of it ended; the first is where it began."""
        self.messages += 1
        self.steps += steps
        self.whole += times[-1][1] - times[0][1]
        for (_, before), (stage, end) in pairwise(times):
            self.passed[stage] += end - before


class StageClock:
    """Notes, of every message that rides one turn as a whole, when it went through each stage.

    Of messages that do not (chunks, items that are refused, answers from memory) nothing is told.
    """

    def __init__(self) -> None:
        self._now = time.perf_counter
        self._stages = Stages()
        self._times: dict[Work, list[tuple[str, float]]] = {}
        self._leaving: dict[tuple[int, int], list[Work]] = {}  # by the first item of their answer
        self._parsed = 0.0
        self._riding: Sequence[Work] = ()
        self._turn_began = self._computed = 0.0

    def take(self) -> Stages:
        """What was noted since the last time; what is on its way is not told."""
        stages, self._stages = self._stages, Stages()
        self._times.clear()
        self._leaving.clear()
        return stages

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure servers that are started in this block. For one of them at a time."""
        around = (
            (rpc, "parser", self._parser),
            (InferenceService, "_decode", self._decode),
            (gatekeeper, "admit_together", self._admit),
            (lone, "plan_of", self._plan_alone),
            (Turns, "turn", self._ride),
            (Turns, "_compute", self._compute),
            (outbox, "hand_out", self._hand_out),
            (steps, "encode", self._encode),
            (rpc, "serializer", self._serializer),
        )
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in around]
        for owner, name, method in around:
            setattr(owner, name, _around(getattr(owner, name), method))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _mark(self, works: Sequence[Work], stage: str, when: float) -> None:
        for work in works:
            if (times := self._times.get(work)) is not None:
                times.append((stage, when))

    def _parser(self, run: Callable[[], Any], *_: Any) -> Any:
        parse = run()

        def read(data: bytes) -> Any:
            self._parsed = self._now()
            return parse(data)

        return read

    def _decode(self, run: Callable[[], Any], *_: Any) -> Any:
        begin, found = self._parsed, run()
        end = self._now()
        if isinstance(found, tuple) and found[1].lengths is None:
            self._times[found[1]] = [("", begin), ("decode", end)]
            self._stages.worked["decode"] += end - begin
        return found

    def _plan_alone(self, run: Callable[[], Any], *args: Any) -> Any:
        works, begin, plan = [args[2]], self._now(), run()
        end = self._now()
        if plan is not None:
            self._mark(works, "queue", begin)
            self._mark(works, "validate", end)
            self._stages.worked["validate"] += end - begin
        return plan

    def _admit(self, run: Callable[[], Any], *args: Any) -> Any:
        works, begin, good = args[2], self._now(), run()
        end = self._now()
        self._mark(works, "queue", begin)
        self._mark(works, "validate", end)
        self._stages.worked["validate"] += end - begin
        return good

    def _ride(self, run: Callable[[], Any], *args: Any) -> Any:
        plan, begin = args[2], self._now()
        parts = zip(plan.works, pairwise(plan.bounds.tolist()), strict=True)
        for work in [work for work, (first, last) in parts if last - first < len(work)]:
            self._times.pop(work, None)  # it rides several turns
        self._riding, self._turn_began, self._computed = plan.works, begin, 0.0
        self._mark(plan.works, "queue", begin)
        run()
        end = self._now()
        self._mark(plan.works, "commit", end)
        if self._computed:
            self._stages.turns += 1
            self._stages.worked["commit"] += end - self._computed

    def _compute(self, run: Callable[[], Any], *_: Any) -> Any:
        begin, found = self._now(), run()
        end = self._now()
        self._mark(self._riding, "gather", begin)
        self._mark(self._riding, "compute", end)
        self._stages.worked["gather"] += begin - self._turn_began
        self._stages.worked["compute"] += end - begin
        self._computed = end
        return found

    def _hand_out(self, run: Callable[[], Any], *args: Any) -> Any:
        answers: list[Answer] = args[0]
        for answer in answers:
            if answer.errors:
                self._times.pop(answer.work, None)
        return run()

    def _encode(self, run: Callable[[], Any], *args: Any) -> Any:
        works, begin = [answer.work for answer in args[0]], self._now()
        message = run()
        end = self._now()
        self._mark(works, "deliver", begin)
        self._mark(works, "encode", end)
        self._stages.worked["encode"] += end - begin
        if isinstance(message, bytes):
            message = pb.StepResponse.FromString(message)
        self._leaving[_first(message)] = works
        return message

    def _serializer(self, run: Callable[[], Any], *args: Any) -> Any:
        serialize, kind = run(), args[0]

        def write(message: Any) -> bytes:
            begin, data = self._now(), serialize(message)
            end = self._now()
            if kind in (pb.StepResponse, pb.StreamStepsResponse):
                message = kind.FromString(data)
                works = self._leaving.pop(_first(getattr(message, "step", message)), ())
                self._left(works, begin, end)
            return cast(bytes, data)

        return write

    def _left(self, works: Sequence[Work], begin: float, end: float) -> None:
        self._stages.worked["write"] += end - begin
        self._mark(works, "write", end)
        for work in works:
            times = self._times.pop(work, None)
            if times is not None and len(times) == len(STAGES) + 2:  # two waits in the queue
                self._stages.add(times, len(work))


def _first(message: pb.StepResponse) -> tuple[int, int]:
    return message.handles[0], message.step_indexes[0]


def _around(function: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Call `method` with what runs the function, and the function's positional arguments."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return method(lambda: function(*args, **kwargs), *args)

    return call
