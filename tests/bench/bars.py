"""The bars: what is asked for, what was measured, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from tests.bench.bench import Ratio


@dataclass(frozen=True, slots=True)
class Bar:
    """`at_most`: less is better."""

    name: str
    text: str
    par: float
    excellent: float
    unit: str = "x"
    at_most: bool = False

    def verdict(self, value: float) -> str:
        for level, bound in (("excellent", self.excellent), ("par", self.par)):
            if value <= bound if self.at_most else value >= bound:
                return level
        return "MISSED"


BARS = (
    Bar("unary", "unary / null unary, H 256, N 64", 0.8, 0.9),
    Bar("callers", "unary / null grpc.aio handler, H 256, N 64", 0.85, 1.3),
    Bar("coalesced", "coalesced / unary, H 256, N 256", 6, 10),
    Bar("naive", "coalesced / naive, H 512, N 64", 8, 15),
    Bar("batch", "256 a message / engine ceiling, H 512", 0.8, 0.95),
    Bar("streams", "256 plain streams / naive batching streams, H 256", 1.5, 2.5),
    Bar("alone", "one session alone, p50 / (null + one engine step)", 1.2, 1.05, at_most=True),
    Bar("sgemm", "engine float32 / SGEMM of one core, B 32..256", 0.6, 0.8),
    Bar("onnx", "engine float32 / onnxruntime LSTM at T = 1, B 1..256", 1.0, 1.3),
    Bar("int8", "engine int8 / float32, H 512", 2.0, 3.5),
    Bar("gpu", "one turn on a GPU, B 512, H 1024, 16 bits", 25, 14, "us", at_most=True),
    Bar("predict", "Predict / nn.LSTM on a padded batch, W2 lengths", 1.0, 1.5),
    Bar("mixed", "W3: p99 of single steps, with / without long requests", 2, 1.3, at_most=True),
    Bar("overload", "3 x the rate offered, 64 a message: served / peak", 0.9, 0.97),
    Bar("overload-unary", "3 x the rate offered, one call a step: served / peak", 0.9, 0.97),
    Bar("fairness-1", "p99 of 1 session beside a greedy client / alone", 3, 2, at_most=True),
    Bar(
        "fairness-unary",
        "p99 of 1 session beside 64 unary callers of a greedy client / alone",
        3,
        2,
        at_most=True,
    ),
    Bar("fairness-16", "p99 of 16 sessions beside a greedy client / alone", 3, 2, at_most=True),
    Bar(
        "beside",
        "p99 of the server with / without a training job beside it",
        1.5,
        1.2,
        at_most=True,
    ),
    Bar(
        "guards",
        "CPU of a turn with / without exactly-once, finite check, metrics, gates, H 256",
        1.05,
        1.02,
        at_most=True,
    ),
    Bar("metrics", "CPU of a turn with / without metrics, H 256", 1.02, 1.01, at_most=True),
    Bar("churn", "W4: sessions opened and closed a second / 1,000", 1.0, 2.0),
    Bar("memory", "100,000 idle sessions, 2 x 256 LSTM: RSS", 1.0, 0.75, "GiB", at_most=True),
    Bar("start", "carousel serve, ten models, to ready", 5, 3, "s", at_most=True),
    Bar("import", "import carousel.client", 0.3, 0.2, "s", at_most=True),
    Bar("copies", "10,000 sessions moving: a copy for the store, p99", 5, 1, "ms", at_most=True),
    Bar("fork", "one session forked into 1,000", 5, 1, "ms", at_most=True),
)


def table(measured: dict[str, Ratio], notes: dict[str, str]) -> Table:
    """What was measured of the bars. The figure is the median, then the lowest and highest."""
    rows = Table(title="Bars", title_justify="left")
    for title in ("bar", "par", "excellent", "measured", "spread", "verdict"):
        rows.add_column(title, justify="left" if title == "bar" else "right", no_wrap=True)
    colours = {"excellent": "green", "par": "cyan", "MISSED": "red"}
    for bar in BARS:
        value = measured.get(bar.name)
        if value is None:
            continue
        verdict = bar.verdict(value.median)
        note = notes.get(bar.name)
        sign = "<= " if bar.at_most else ""
        rows.add_row(
            bar.text + (f"\n  ({note})" if note else ""),
            f"{sign}{bar.par:g} {bar.unit}",
            f"{sign}{bar.excellent:g} {bar.unit}",
            f"{value.median:.2f} {bar.unit}",
            f"{value.low:.2f} .. {value.high:.2f}",
            f"[{colours[verdict]}]{verdict}[/]",
        )
    return rows
