"""Queries that panels share. `$target` and `$model` are what is chosen on top of a dashboard."""

from __future__ import annotations

from tools.dashboards.panel import Query

TARGET = 'target=~"$target"'
MODEL = 'target=~"$target", model=~"$model"'


def total(counter: str, *by: str, labels: str = MODEL) -> str:
    """How fast a counter grows, by labels."""
    return f"sum by ({', '.join(by)}) (rate({counter}{{{labels}}}[$__rate_interval]))"


def share(part: str, other: str, *, labels: str = MODEL) -> str:
    """How much of two counters' growth together is the first's, 0 where neither grows."""
    one, two = (f"({total(counter, labels=labels)} or vector(0))" for counter in (part, other))
    return f"{one} / ({one} + {two} > 0) or vector(0)"


def ratio(histogram: str, *by: str, labels: str = MODEL) -> str:
    """The mean of what a histogram counted lately."""
    parts = (total(f"{histogram}_{part}", *by, labels=labels) for part in ("sum", "count"))
    return " / ".join(parts)


def quantile(q: float, histogram: str, *by: str, labels: str = MODEL) -> str:
    """A quantile of what a histogram counted lately."""
    return f"histogram_quantile({q:g}, {total(f'{histogram}_bucket', *by, 'le', labels=labels)})"


def quantiles(
    histogram: str, *qs: float, name: str = "", by: tuple[str, ...] = (), labels: str = MODEL
) -> tuple[Query, ...]:
    """Several of them, named as in `p99`."""
    before = " ".join((name, *(f"{{{{{label}}}}}" for label in by))).strip()
    return tuple(
        Query(quantile(q, histogram, *by, labels=labels), f"{before} p{q * 100:g}".strip())
        for q in qs
    )


def slowest(histogram: str) -> Query:
    """Its p99 by model, as it is recorded: among all turns, those of one slow model are few."""
    return Query(
        f"max by (model) (target_model:{histogram}:p99_rate30s{{{MODEL}}})", "{{model}} p99"
    )


def heat(histogram: str, *, labels: str = MODEL) -> str:
    """What came into each bucket, for a heat map."""
    return f"sum by (le) (increase({histogram}_bucket{{{labels}}}[$__rate_interval]))"


def now(gauge: str, *by: str, labels: str = MODEL) -> str:
    """The sum of a gauge by labels."""
    return f"sum by ({', '.join(by)}) ({gauge}{{{labels}}})"
