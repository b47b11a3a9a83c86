"""The overview: whether the service is healthy, in ten seconds."""

from __future__ import annotations

from tools.dashboards.board import Board, Row
from tools.dashboards.panel import Panel, Query
from tools.dashboards.promql import MODEL, TARGET, heat, quantiles, ratio, share, slowest, total

TOP = Row(
    title="Is it well?",
    panels=(
        Panel(
            title="Servers down",
            text="Servers that Prometheus can't reach.",
            kind="stat",
            width=3,
            height=4,
            queries=(Query('count(up{job="carousel"} == 0) or vector(0)'),),
            thresholds=(1, 1),
        ),
        Panel(
            title="Alerts",
            text="Alerts that fire; the table at the end names them.",
            kind="stat",
            width=3,
            height=4,
            queries=(
                Query(
                    'count(ALERTS{alertname=~"Carousel.*", alertstate="firing"}) or vector(0)',
                ),
            ),
            thresholds=(1, 3),
        ),
        Panel(
            title="Steps a second",
            text="Steps committed, all models together.",
            kind="stat",
            width=4,
            height=4,
            queries=(Query(f"sum(rate(carousel_steps_total{{{MODEL}}}[$__rate_interval]))"),),
        ),
        Panel(
            title="Failing",
            text="Items answered with an error, as a share of these and the steps committed.",
            kind="stat",
            width=3,
            height=4,
            queries=(Query(share("carousel_steps_failed_total", "carousel_steps_total")),),
            unit="percentunit",
            thresholds=(0.001, 0.01),
        ),
        Panel(
            title="Step, p99",
            text="Of the slowest model: 99 of 100 single steps take less, from arrival to answer.",
            kind="stat",
            width=4,
            height=4,
            queries=(
                Query(f"max(target_model:carousel_step_duration_seconds:p99_rate30s{{{MODEL}}})"),
            ),
            unit="s",
            thresholds=(0.1, 0.2),
        ),
        Panel(
            title="Sessions",
            text="Live sessions.",
            kind="stat",
            width=4,
            height=4,
            queries=(Query(f"sum(carousel_sessions{{{MODEL}}})"),),
        ),
        Panel(
            title="Capacity in use",
            text="Live sessions as a share of those that fit in; at 100 % new ones are refused.",
            kind="stat",
            width=3,
            height=4,
            queries=(Query(f"max(target:carousel_sessions:ratio{{{TARGET}}})"),),
            unit="percentunit",
            thresholds=(0.75, 0.9),
        ),
    ),
)

RATE = Row(
    title="Rate and errors",
    panels=(
        Panel(
            title="Steps a second",
            text="Steps committed, by model.",
            queries=(Query(total("carousel_steps_total", "model"), "{{model}}"),),
            stacked=True,
        ),
        Panel(
            title="Items that failed, a second",
            text="Items answered with an error, by its reason; of no model if all are chosen.",
            queries=(Query(total("carousel_steps_failed_total", "reason"), "{{reason}}"),),
            stacked=True,
        ),
        Panel(
            title="Calls a second",
            text="gRPC calls that ended, by method.",
            queries=(
                Query(
                    "sum by (grpc_method) (rate("
                    f"grpc_server_handled_total{{{TARGET}}}[$__rate_interval])) > 0",
                    "{{grpc_method}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            title="Refused and dropped, a second",
            text="Items refused because too many wait, and items whose deadline passed first.",
            queries=(
                Query(total("carousel_admission_rejected_total", "reason"), "{{reason}}"),
                Query(
                    total("carousel_deadline_dropped_total", "phase"), "deadline, in the {{phase}}"
                ),
            ),
            stacked=True,
        ),
    ),
)

LATENCY = Row(
    title="Latency",
    panels=(
        Panel(
            title="Single steps by their duration",
            text="From a step's arrival to its answer; the brighter, the more steps.",
            kind="heatmap",
            queries=(Query(heat("carousel_step_duration_seconds"), "{{le}}"),),
            unit="s",
            least=None,
        ),
        Panel(
            title="Duration of a step",
            text="Over all models, p99 of each, and the target of that.",
            queries=(
                *quantiles("carousel_step_duration_seconds", 0.5, 0.9),
                slowest("carousel_step_duration_seconds"),
                Query("max(carousel:step_duration_seconds:target)", "target"),
            ),
            unit="s",
            log=True,
            least=None,
        ),
        Panel(
            title="Where a step's time goes",
            text="Means: waiting for a turn, and the network in it.",
            queries=(
                Query(ratio("carousel_step_queue_seconds"), "queue"),
                Query(ratio("carousel_step_compute_seconds"), "compute"),
            ),
            unit="s",
            stacked=True,
        ),
        Panel(
            title="Duration of a turn",
            text="Which all sessions wait for: over all models, p99 of each, its target.",
            queries=(
                *quantiles("carousel_turn_duration_seconds", 0.5),
                slowest("carousel_turn_duration_seconds"),
                Query("max(carousel:turn_duration_seconds:target)", "target"),
            ),
            unit="s",
            log=True,
            least=None,
        ),
    ),
)

BATCH = Row(
    title="Batch and queue",
    panels=(
        Panel(
            title="Turns by their rows",
            text="How many sessions share a turn; the brighter, the more turns.",
            kind="heatmap",
            queries=(Query(heat("carousel_turn_batch_size"), "{{le}}"),),
            least=None,
        ),
        Panel(
            title="Rows in a turn",
            text="The mean, by model.",
            queries=(Query(ratio("carousel_turn_batch_size", "model"), "{{model}}"),),
        ),
        Panel(
            title="Waiting and running",
            text="Items that wait for a turn, and those in it, as they are when Prometheus looks.",
            queries=(
                Query(f"sum by (model) (carousel_requests_waiting{{{MODEL}}})", "{{model}} waits"),
                Query(f"sum by (model) (carousel_requests_running{{{MODEL}}})", "{{model}} rides"),
            ),
        ),
        Panel(
            title="Generation",
            text="Tokens made a second, by model.",
            queries=(Query(total("carousel_generated_tokens_total", "model"), "{{model}}"),),
            width=6,
        ),
        Panel(
            title="First and next token",
            text="Time to the first token, and from token to token.",
            queries=(
                *quantiles("carousel_time_to_first_token_seconds", 0.5, 0.99, name="first"),
                *quantiles("carousel_time_per_output_token_seconds", 0.5, 0.99, name="next"),
            ),
            unit="s",
            width=6,
            log=True,
            least=None,
        ),
    ),
)

CALLERS = Row(
    title="Callers",
    panels=(
        Panel(
            title="Credentials refused, a second",
            text="Calls without a good credential, and those of one that lacks the scope, by kind.",
            queries=(
                Query(
                    "sum by (credential, result) (rate(carousel_auth_requests_total"
                    f'{{{TARGET}, result!="admitted"}}[$__rate_interval])) > 0',
                    "{{credential}} {{result}}",
                ),
            ),
            width=8,
            stacked=True,
        ),
        Panel(
            title="Quotas in use",
            text="Of what tenants may use, where there is a limit; at 100 % more is refused.",
            queries=(
                Query(
                    f"max by (tenant, quota) (carousel_quota_usage{{{TARGET}}} / "
                    f"carousel_quota_limit{{{TARGET}}}) > 0",
                    "{{tenant}} {{quota}}",
                ),
            ),
            unit="percentunit",
            width=8,
        ),
        Panel(
            title="Refused over a quota, a second",
            text="Calls refused because a tenant is at its limit.",
            queries=(
                Query(
                    total("carousel_quota_refusals_total", "tenant", "quota", labels=TARGET)
                    + " > 0",
                    "{{tenant}} {{quota}}",
                ),
            ),
            width=8,
            stacked=True,
        ),
    ),
)

ALERTS = Row(
    title="Alerts",
    panels=(
        Panel(
            title="Alerts that fire",
            text="docs/operations.md has a paragraph for each.",
            kind="table",
            width=24,
            height=6,
            queries=(Query('ALERTS{alertname=~"Carousel.*", alertstate="firing"}'),),
        ),
    ),
)

BOARD = Board(
    id="overview",
    title="overview",
    text="Whether the service is healthy: rate, errors, latency, batch, queue.",
    rows=(TOP, RATE, LATENCY, BATCH, CALLERS, ALERTS),
)
