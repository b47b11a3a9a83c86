"""Events of a job in words, one line each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from carousel.cli.quantities import count, size, span

if TYPE_CHECKING:
    from carousel.client import Evaluation, JobEvent, JobState, Progress

_SHOWN_METRICS = 3
_VERBS = {"succeeded": "has", "failed": "has", "cancelled": "was"}


def line(event: JobEvent) -> str:
    """`12:03:04 step 40 of 2,000: loss 3.12, ...`."""
    return f"{event.time.astimezone():%H:%M:%S} {_words(event)}"


def _words(event: JobEvent) -> str:
    from carousel.client import Checkpoint, Evaluation, GradientFlow, JobState, JobWarning, Progress

    match event.what:
        case JobState() as state:
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"the job {became(state)}{again}"
        case Progress() as now:
            of = f" of {count(now.max_steps)}" if now.max_steps else ""
            return f"step {count(now.step)}{of}: {', '.join(progress(now))}"
        case Evaluation() as found:
            return f"step {count(found.step)}, {evaluation(found)}"
        case GradientFlow() as found:
            return f"step {count(found.step)}, gradients: {found.verdict or 'looked at'}"
        case Checkpoint() as found:
            best = ", the best so far" if found.best else ""
            return f"step {count(found.step)}, checkpoint: {size(found.size_bytes)}{best}"
        case JobWarning(message):
            return f"warning: {message}"


def became(state: JobState) -> str:
    """`is running`, `has failed`, `was cancelled`."""
    return f"{_VERBS.get(state, 'is')} {state}"


def progress(now: Progress) -> Iterator[str]:
    yield f"loss {number(now.loss)}"
    clipped = f" ({now.clipped_ratio:.0%} clipped)" if now.clipped_ratio else ""
    yield f"gradient norm {number(now.gradient_norm)}{clipped}"
    yield f"learning rate {number(now.learning_rate)}"
    yield f"{now.steps_per_second:,.0f} steps a second"
    if now.nonfinite_steps:
        yield f"{count(now.nonfinite_steps)} updates skipped"
    if now.remaining_time:
        yield f"{span(max(1, round(now.remaining_time.total_seconds())))} left"


def evaluation(found: Evaluation) -> str:
    """`validation: loss 1.31, perplexity 3.7, the best so far`."""
    own = [(name, value) for name, value in found.metrics.items() if not _is_naive(name)]
    parts = [f"loss {number(found.loss)}"]
    parts += [f"{plain(name)} {number(value)}" for name, value in own[:_SHOWN_METRICS]]
    if found.best and found.split != "test":  # it is of the best weights anyway
        parts.append("the best so far")
    return f"{found.split}: {', '.join(parts)}"


def _is_naive(name: str) -> bool:
    return name.startswith("naive_")


def plain(metric: str) -> str:
    """`bits per character` for bits_per_character."""
    return metric.replace("_", " ")


def number(value: float) -> str:
    """Four digits; thousands without an exponent."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
