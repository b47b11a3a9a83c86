"""Sessions: how many, where their states are, and how they end."""

from __future__ import annotations

from tools.dashboards.board import Board, Row
from tools.dashboards.panel import Panel, Query
from tools.dashboards.promql import TARGET, now, quantiles, total

STORE = Row(
    title="The store",
    panels=(
        Panel(
            title="To the store and back, a second",
            text="Sessions written, brought back, and those that could not be.",
            queries=(
                Query(total("carousel_snapshots_total", "model"), "{{model}} written"),
                Query(total("carousel_restores_total", "model"), "{{model}} brought back"),
                Query(
                    total("carousel_restore_failures_total", "reason", labels=TARGET),
                    "failed: {{reason}}",
                ),
            ),
        ),
        Panel(
            title="Writes",
            text="Time to write a group of sessions.",
            queries=quantiles("carousel_store_write_seconds", 0.5, 0.99, labels=TARGET),
            unit="s",
            width=6,
            log=True,
            least=None,
        ),
        Panel(
            title="Writes that failed, a second",
            text="Attempts that failed and are made again, and sessions that another server has.",
            queries=(
                Query(f"sum(rate(carousel_store_failures_total{{{TARGET}}}[1m]))", "failed"),
                Query(f"sum(rate(carousel_store_fenced_writes_total{{{TARGET}}}[1m]))", "fenced"),
            ),
            width=6,
        ),
    ),
)

LIVE = Row(
    title="Live and parked",
    panels=(
        Panel(
            title="Live sessions",
            text="By model and version.",
            queries=(Query(now("carousel_sessions", "model", "version"), "{{model}} {{version}}"),),
            stacked=True,
        ),
        Panel(
            title="Parked sessions",
            text="Live sessions whose state is off the device, until their next step.",
            queries=(
                Query(now("carousel_sessions_parked", "model", "version"), "{{model}} {{version}}"),
            ),
            stacked=True,
            width=6,
        ),
        Panel(
            title="Capacity in use",
            text="Live sessions as a share of those that fit in; at 100 % new ones are refused.",
            queries=(Query(f"target:carousel_sessions:ratio{{{TARGET}}}", "{{target}}"),),
            unit="percentunit",
            most=1,
            thresholds=(0.75, 0.9),
            width=6,
        ),
        Panel(
            title="Bytes of state",
            text="Recurrent state by tier: on the device, in memory, in the store.",
            queries=(Query(now("carousel_session_state_bytes", "tier"), "{{tier}}"),),
            unit="bytes",
            stacked=True,
        ),
        Panel(
            title="Off the device and back, a second",
            text="Much of both at once: more sessions are busy than states fit on the device.",
            queries=(
                Query(total("carousel_session_parks_total", "model"), "{{model}} parked"),
                Query(total("carousel_session_unparks_total", "model"), "{{model}} back"),
            ),
        ),
    ),
)

ENDS = Row(
    title="Beginnings and ends",
    panels=(
        Panel(
            title="Sessions made, a second",
            text="By model.",
            queries=(Query(total("carousel_sessions_created_total", "model"), "{{model}}"),),
            stacked=True,
        ),
        Panel(
            title="Sessions ended, a second, by reason",
            text="All but closed, idle and lifetime are news to the caller.",
            queries=(Query(total("carousel_sessions_ended_total", "reason"), "{{reason}}"),),
            stacked=True,
        ),
        Panel(
            title="Age at the end",
            text="How long sessions lived that ended lately.",
            queries=quantiles("carousel_session_lifetime_seconds", 0.5, 0.9),
            unit="s",
            width=6,
            log=True,
            least=None,
        ),
        Panel(
            title="Steps at the end",
            text="How many steps sessions took that ended lately.",
            queries=quantiles("carousel_session_steps", 0.5, 0.9),
            width=6,
            log=True,
            least=None,
        ),
        Panel(
            title="Forks and rewinds, a second",
            text="Copies made of sessions, and returns to kept states.",
            queries=(
                Query(total("carousel_forks_total", "model"), "{{model}} forks"),
                Query(total("carousel_rewinds_total", "model"), "{{model}} rewinds"),
            ),
            width=6,
        ),
        Panel(
            title="Prefixes, a second",
            text="Sessions whose prefix was computed for them, or was there already.",
            queries=(
                Query(total("carousel_prefix_cache_hits_total", "model"), "{{model}} there"),
                Query(total("carousel_prefix_cache_misses_total", "model"), "{{model}} computed"),
            ),
            width=6,
        ),
    ),
)

PROTOCOL = Row(
    title="Exactly once",
    panels=(
        Panel(
            title="Steps sent again, a second",
            text="Answered from memory, without running twice.",
            queries=(Query(total("carousel_step_duplicates_total", "model"), "{{model}}"),),
            width=8,
        ),
        Panel(
            title="Conflicts, a second",
            text="Steps refused for their index or handle: two callers feed one session.",
            queries=(Query(total("carousel_step_conflicts_total", "model"), "{{model}}"),),
            width=8,
        ),
        Panel(
            title="Streams taken up again, a second",
            text="Callers that came back after a break.",
            queries=(Query(total("carousel_stream_resumes_total", "model"), "{{model}}"),),
            width=8,
        ),
        Panel(
            title="Quarantined sessions, a second",
            text="Sessions whose row became NaN or infinite.",
            queries=(Query(total("carousel_sessions_quarantined_total", "model"), "{{model}}"),),
            width=8,
        ),
        Panel(
            title="Audit logs",
            text="Live sessions whose inputs are kept.",
            queries=(
                Query(f"sum by (target) (carousel_audit_sessions{{{TARGET}}})", "{{target}}"),
            ),
            width=8,
        ),
        Panel(
            title="Audit logs and replays that failed, a second",
            text="Logs that could not be written, and steps that came out otherwise in a replay.",
            queries=(
                Query(total("carousel_audit_failures_total", labels=TARGET), "failures"),
                Query(total("carousel_audit_mismatches_total", labels=TARGET), "mismatches"),
            ),
            width=8,
        ),
    ),
)

BOARD = Board(
    id="sessions",
    title="sessions",
    text="How many there are, where their states lie, and how they end.",
    rows=(LIVE, ENDS, STORE, PROTOCOL),
)
