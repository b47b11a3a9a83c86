"""Inside the gates: what sessions remember and forget, and whether inputs are what was learned."""

from __future__ import annotations

from tools.dashboards.board import Board, Row
from tools.dashboards.panel import Panel, Query
from tools.dashboards.promql import MODEL, heat, quantiles, ratio, total

GATE = "{{model}} {{layer}} {{gate}}"

ACTIVITY = Row(
    title="Gates",
    panels=(
        Panel(
            title="Activation",
            text="The mean of each gate in the latest samples: 0 is shut, 1 is open.",
            queries=(Query(f"carousel_gate_activation_mean{{{MODEL}}}", GATE),),
            most=1,
        ),
        Panel(
            title="Saturation",
            text="The share of a gate's units that hardly move, whatever comes in.",
            queries=(Query(f"carousel_gate_saturation_ratio{{{MODEL}}}", GATE),),
            unit="percentunit",
            most=1,
            thresholds=(0.75, 0.9),
        ),
    ),
)

DRIFT = Row(
    title="Are the inputs those that were learned?",
    panels=(
        Panel(
            title="Drift",
            text="Population stability index against the version's baseline, of one long sequence: "
            "short sessions differ from it too. Gates above 0.5 are an alert; states are not.",
            queries=(Query(f"carousel_gate_drift_psi{{{MODEL}}}", GATE),),
            thresholds=(0.25, 0.5),
        ),
        Panel(
            title="Surprise",
            text="The loss of the actual next input, in nats: the mean and quantiles.",
            queries=(
                Query(ratio("carousel_surprise_nats", "model"), "{{model}} mean"),
                *quantiles("carousel_surprise_nats", 0.5, 0.9, by=("model",)),
            ),
        ),
    ),
)

MEMORY = Row(
    title="Memory",
    panels=(
        Panel(
            title="Units by how long they remember",
            text="After so many steps 1 / e is left of what a unit holds; the brighter, the more.",
            kind="heatmap",
            queries=(Query(heat("carousel_memory_horizon_steps"), "{{le}}"),),
            least=None,
        ),
        Panel(
            title="Memory horizon",
            text="Steps after which 1 / e is left, by layer: quantiles over units.",
            queries=quantiles("carousel_memory_horizon_steps", 0.5, 0.9, by=("model", "layer")),
            log=True,
            least=None,
        ),
        Panel(
            title="States by their norm",
            text="L2 norm of a layer's state; the brighter, the more.",
            kind="heatmap",
            queries=(Query(heat("carousel_state_norm"), "{{le}}"),),
            least=None,
        ),
        Panel(
            title="State norm",
            text="L2 norm of the state, by layer: quantiles over sampled steps.",
            queries=quantiles("carousel_state_norm", 0.5, 0.99, by=("model", "layer")),
            log=True,
            least=None,
        ),
    ),
)

NUMBERS = Row(
    title="Numbers",
    panels=(
        Panel(
            title="Rows that are not finite, a second",
            text="They are not committed, and their sessions go into quarantine.",
            queries=(Query(total("carousel_nonfinite_rows_total", "model"), "{{model}}"),),
            width=8,
        ),
        Panel(
            title="What company changes",
            text="The largest difference between a row in its turn and the same row run alone.",
            queries=(
                Query(
                    f"max by (model) (carousel_batch_audit_max_abs_difference{{{MODEL}}})",
                    "{{model}}",
                ),
            ),
            unit="sci",
            width=8,
        ),
        Panel(
            title="Health policies at work, a second",
            text="Rules that fired, by what they did to states.",
            queries=(Query(total("carousel_state_health_actions_total", "action"), "{{action}}"),),
            width=8,
        ),
    ),
)

BOARD = Board(
    id="gates",
    title="inside the gates",
    text="What sessions remember and forget, and whether inputs are what was learned.",
    rows=(ACTIVITY, DRIFT, MEMORY, NUMBERS),
)
