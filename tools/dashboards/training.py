"""Training: which jobs there are, how well they learn, and how fast."""

from __future__ import annotations

from tools.dashboards.board import Board, Row
from tools.dashboards.panel import Panel, Query
from tools.dashboards.promql import TARGET, quantiles, total

JOB = "{{training_job}}"


def _of_jobs(name: str) -> Query:
    return Query(f"carousel_training_{name}{{{TARGET}}}", JOB)


def _age(name: str) -> Query:
    return Query(f"time() - carousel_training_last_{name}_timestamp_seconds{{{TARGET}}}", JOB)


JOBS = Row(
    title="Jobs",
    panels=(
        Panel(
            title="Jobs by state",
            text="Of all servers that share the records.",
            queries=(
                Query(f"max by (state) (carousel_training_jobs{{{TARGET}}}) > 0", "{{state}}"),
            ),
            stacked=True,
            width=8,
        ),
        Panel(
            title="Ended, by how",
            text="Jobs that ended since the server started.",
            queries=(
                Query(
                    f"sum by (state) (carousel_training_jobs_finished_total{{{TARGET}}})",
                    "{{state}}",
                ),
            ),
            width=8,
        ),
        Panel(
            title="Updates that came to nothing, a second",
            text="Skipped for a loss or gradient that was NaN or infinite.",
            queries=(
                Query(
                    total("carousel_training_nonfinite_steps_total", "model", labels=TARGET),
                    "{{model}}",
                ),
            ),
            width=8,
        ),
    ),
)

LEARNING = Row(
    title="How well",
    panels=(
        Panel(
            title="Loss",
            text="Mean of the last updates: nats, or squared normalised units.",
            queries=(_of_jobs("loss"),),
            least=None,
        ),
        Panel(
            title="Gradient norm",
            text="Mean before clipping.",
            queries=(_of_jobs("gradient_norm"),),
            log=True,
            least=None,
        ),
        Panel(
            title="How far back the gradient goes",
            text="Steps over which it stays above 1 %.",
            queries=(_of_jobs("gradient_horizon_steps"),),
        ),
        Panel(
            title="Clipped",
            text="Share of updates whose gradient was clipped.",
            queries=(_of_jobs("clipped_ratio"),),
            unit="percentunit",
            most=1,
        ),
    ),
)

SPEED = Row(
    title="How fast, and how safe",
    panels=(
        Panel(
            title="Sequence steps learned a second",
            text="Tokens or readings, by model.",
            queries=(
                Query(total("carousel_training_tokens_total", "model", labels=TARGET), "{{model}}"),
            ),
            width=6,
        ),
        Panel(
            title="Time of an update",
            text="Quantiles of means over the 2 seconds between two reports.",
            queries=quantiles("carousel_training_step_seconds", 0.5, 0.99, labels=TARGET),
            unit="s",
            width=6,
            log=True,
            least=None,
        ),
        Panel(
            title="Age of the last checkpoint",
            text="What would be lost with the job's process.",
            queries=(_age("checkpoint"),),
            unit="s",
            width=6,
            thresholds=(600, 900),
        ),
        Panel(
            title="Last sign of life",
            text="Since the job's process told anything; it does every 2 seconds.",
            queries=(_age("event"),),
            unit="s",
            width=6,
            thresholds=(10, 15),
        ),
    ),
)

BOARD = Board(
    id="training",
    title="training",
    text="Which jobs there are, how well they learn, and how fast.",
    rows=(JOBS, LEARNING, SPEED),
    choices=("target",),
)
