"""Host and device: what servers take of their machines, what they serve, and who watches them."""

from __future__ import annotations

from tools.dashboards.board import Board, Row
from tools.dashboards.panel import Panel, Query
from tools.dashboards.promql import MODEL, TARGET

DEVICE = Row(
    title="Processor and memory",
    panels=(
        Panel(
            title="Processor",
            text="Share of the cores that the server may use, that it uses.",
            queries=(
                Query(f'carousel_device_utilization_ratio{{{TARGET}, device="cpu"}}', "{{target}}"),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            title="Memory",
            text="Of the server's process.",
            queries=(
                Query(f'carousel_device_memory_used_bytes{{{TARGET}, device="cpu"}}', "{{target}}"),
            ),
            unit="bytes",
        ),
        Panel(
            title="GPU",
            text="Share of the time that a GPU computes.",
            queries=(
                Query(
                    f'carousel_device_utilization_ratio{{{TARGET}, device!="cpu"}}',
                    "{{target}} {{device}}",
                ),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            title="GPU memory",
            text="In use on the whole device.",
            queries=(
                Query(
                    f'carousel_device_memory_used_bytes{{{TARGET}, device!="cpu"}}',
                    "{{target}} {{device}}",
                ),
            ),
            unit="bytes",
        ),
    ),
)

MODELS = Row(
    title="What is served",
    panels=(
        Panel(
            title="Models",
            text="Versions in service.",
            kind="table",
            queries=(Query(f"carousel_model_info{{{MODEL}}}"),),
        ),
        Panel(
            title="Servers",
            text="What runs.",
            kind="table",
            width=6,
            queries=(Query(f"carousel_build_info{{{TARGET}}}"),),
        ),
        Panel(
            title="Time to load a model",
            text="Mean since the server started, by version.",
            queries=(
                Query(
                    f"sum by (model, version) (carousel_model_load_seconds_sum{{{MODEL}}}) / "
                    f"sum by (model, version) (carousel_model_load_seconds_count{{{MODEL}}})",
                    "{{model}} {{version}}",
                ),
            ),
            unit="s",
            width=6,
        ),
    ),
)

WATCHERS = Row(
    title="Who watches",
    panels=(
        Panel(
            title="Reached",
            text="Servers and exporters by Prometheus (1 or 0), targets by the exporter.",
            queries=(
                Query('up{job=~"carousel.*"}', "{{job}} {{instance}}"),
                Query("carousel_exporter_up", "{{target}} by the exporter"),
            ),
            most=1,
            width=8,
        ),
        Panel(
            title="Time to read the metrics",
            text="By Prometheus from servers and exporters, by the exporter from its targets.",
            queries=(
                Query('scrape_duration_seconds{job=~"carousel.*"}', "{{job}} {{instance}}"),
                Query("carousel_exporter_scrape_seconds", "{{target}} by the exporter"),
            ),
            unit="s",
            width=8,
        ),
        Panel(
            title="Reads that failed, a second",
            text="Of the exporter's, by target.",
            queries=(
                Query(
                    "sum by (target) "
                    "(rate(carousel_exporter_scrape_errors_total[$__rate_interval]))",
                    "{{target}}",
                ),
            ),
            width=8,
        ),
    ),
)

BOARD = Board(
    id="host",
    title="host and device",
    text="What servers take of their machines, what they serve, and who watches them.",
    rows=(DEVICE, MODELS, WATCHERS),
)
