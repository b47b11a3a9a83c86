"""How jobs look, from values; and what a command line says, as a recipe."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from carousel.cli import job_figure, job_lines, job_views, plots, run, train_options, train_task
from carousel.cli.job_history import History
from carousel.cli.job_live import Picture
from carousel.client import (
    Evaluation,
    Forecast,
    GradientFlow,
    Job,
    JobEvent,
    JobState,
    JobWarning,
    LanguageModel,
    LayerGradients,
    NetworkShape,
    Progress,
    Promotion,
    Recipe,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB = Job(
    name="jobs/abc",
    dataset="datasets/readings",
    uri="",
    recipe=Recipe(
        task=Forecast("load", horizon=24),
        network=NetworkShape(cell="lstm", layers=2, hidden_size=64),
        window=96,
    ),
    promotion=Promotion(model="load", alias="stable", margin=0.05),
    workers=1,
    priority=0,
    state=JobState.RUNNING,
    state_message="",
    progress=None,
    evaluation=None,
    version="",
    create_time=NOON,
    start_time=None,
    end_time=None,
    attempts=1,
    checkpoint_step=0,
    parameters=51_000,
)
TEST = Evaluation(
    step=100, split="test", loss=0.2, metrics={"mae": 3.5, "mase": 0.7, "naive_mae": 5.0}
)


def event(what: Any, *, sequence: int = 1, attempt: int = 1) -> JobEvent:
    return JobEvent(sequence=sequence, time=NOON, attempt=attempt, kind="state", what=what)


def progress(step: int, loss: float) -> Progress:
    return Progress(
        step=step,
        max_steps=100,
        loss=loss,
        gradient_norm=0.5,
        learning_rate=0.003,
        steps_per_second=12_000,
        remaining_time=timedelta(seconds=75),
    )


def full_history() -> History:
    history = History()
    layers = (
        LayerGradients(layer=0, hidden_norms=(1.0, 0.1, 0.001), horizon=2),
        LayerGradients(layer=1, cell_norms=(1.0, 0.9, 0.8), horizon=3, forget_mean=0.73),
    )
    told = [JobState.RUNNING, *(progress(s, 3.0 - s / 50) for s in (10, 50, 90))]
    told += [
        Evaluation(step=50, split="validation", loss=2.5, metrics={"mae": 4.0}, best=True),
        GradientFlow(step=50, layers=layers, verdict="Layer 0 forgets within 2 steps."),
        JobWarning("an update was skipped\x1b[2J"),
    ]
    for what in told:
        history.add(event(what))
    return history


def rendered(what: Any, width: int = 100) -> str:
    console = Console(width=width, height=30, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_a_falling_line_falls_from_the_upper_left_to_the_lower_right() -> None:
    assert plots.curve([(0, 1), (10, 0)], width=2, height=1) == ["⠑⢄"]
    assert plots.curve([(0, 0), (10, 1)], width=2, height=1) == ["⡠⠊"]


def test_marks_lie_over_the_curve_and_what_is_not_finite_is_left_out() -> None:
    points = [(0.0, 0.0), (1.0, math.nan), (2.0, math.inf), (4.0, 0.0)]
    lines = plots.curve(points, width=5, height=3, marks=[(2.0, 1.0)])
    assert lines[0][2] == plots.MARK
    assert plots.curve([(0.0, math.nan)], width=3, height=1) == ["⠀⠀⠀"]


def test_a_loss_that_falls_far_is_shown_by_logarithms() -> None:
    history = History()
    for step in range(5):
        history.add(event(progress(10 * step + 10, 0.1**step)))
    picture = rendered(Picture(JOB, history))
    assert "by logarithms" in picture
    assert "0.0001 │" in picture
    assert "by logarithms" not in rendered(Picture(JOB, full_history()))
    assert plots.is_steep([(0, 1.0), (1, 0.05)])
    assert not plots.is_steep([(0, 1.0), (1, -0.05)])
    assert plots.logarithms([(0, 1.0), (1, 0.0)]) == [(0, 0.0)]


def test_bars_fall_with_the_logarithm() -> None:
    assert plots.bars([1.0, 0.1, 0.01, 0.001, 0.0001, 0.0], width=9) == "█▆▅▃▁▁"
    assert plots.bars([1.0, 0.0, 0.0, 0.0], width=2) == "█▁"
    assert plots.bars([1.0, math.nan], width=2) == "█!"
    assert plots.bars([], width=9) == ""


def test_updates_that_were_repeated_are_seen_once() -> None:
    history = History()
    for step, loss in ((10, 3.0), (20, 2.0), (30, 1.5)):
        history.add(event(progress(step, loss)))
    history.add(event(progress(20, 2.1), attempt=2))
    assert history.losses == [(10, 3.0), (20, 2.1)]
    assert history.attempt == 2


def test_the_picture_tells_everything_and_cannot_steer_the_terminal() -> None:
    picture = rendered(Picture(JOB, full_history(), hint="Ctrl-C leaves the job running."))
    for sign in (
        "abc  running",
        "90 of 100 updates",
        "loss 1.2",
        "75 s left",
        plots.MARK,
        "mae 4",
        "the best so far",
        "gradient of layer 1",
        "horizon 3",
        "forget 0.73",
        "Layer 0 forgets",
        "! an update was skipped",
        "Ctrl-C leaves the job running",
    ):
        assert sign in picture, sign
    assert "\x1b[2J" not in picture


def test_a_loss_that_is_not_finite_does_not_break_the_picture() -> None:
    history = History()
    for step, loss in ((10, math.nan), (20, math.inf)):
        history.add(event(progress(step, loss)))
    assert "loss inf" in rendered(Picture(JOB, history))


@pytest.mark.parametrize("width", [40, 60, 200])
def test_the_picture_fits_the_terminal(width: int) -> None:
    assert max(map(len, rendered(Picture(JOB, full_history()), width).splitlines())) <= width


def test_an_event_is_one_line() -> None:
    lines = [job_lines.line(event(what)) for what in (JobState.RUNNING, progress(40, 3.125), TEST)]
    assert lines[0].endswith("the job is running")
    assert "step 40 of 100: loss 3.125, gradient norm 0.5" in lines[1]
    assert "12,000 steps a second, 75 s left" in lines[1]
    assert lines[2].endswith("step 100, test: loss 0.2, mae 3.5, mase 0.7")


def test_an_evaluation_has_the_naive_baseline_beside_it() -> None:
    rows = [line.split() for line in rendered(job_views.evaluation(TEST)).splitlines()]
    assert ["mae", "3.5", "5"] in rows
    assert ["mase", "0.7"] in rows


def test_a_job_says_what_it_is_and_where_it_goes() -> None:
    shown = rendered(job_views.job(replace(JOB, state=JobState.SUCCEEDED, evaluation=TEST)))
    for sign in (
        "forecast of load, 24 steps",
        "lstm 2 x 64, 51,000",
        "alias stable",
        "5.0%",
        "mae",
    ):
        assert sign in shown, sign


def test_the_outcome_says_what_to_do_next() -> None:
    made = replace(JOB, state=JobState.SUCCEEDED, version="models/load/versions/3")
    assert run.outcome(made) == "load/3 is made, stable points at it"
    missed = replace(JOB, state=JobState.SUCCEEDED, state_message="it is worse than stable")
    assert "worse than stable" in run.outcome(missed)
    assert "carousel jobs promote abc" in run.outcome(missed)
    stopped = replace(JOB, state=JobState.CANCELLED, checkpoint_step=7)
    assert run.outcome(stopped) == "abc was cancelled; carousel jobs resume abc lets it go on"
    assert run.outcome(replace(JOB, state=JobState.FAILED)) == "abc has failed"


def test_the_figure_is_a_png_and_an_svg(tmp_path: Path) -> None:
    png, svg = job_figure.draw(JOB, full_history(), tmp_path / "abc")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in svg.read_text()
    with pytest.raises(typer.BadParameter, match="not learned"):
        job_figure.draw(JOB, History(), tmp_path / "none")


@pytest.mark.parametrize(
    ("file", "given", "task"),
    [
        ("book.txt", {}, "text"),
        ("readings.csv", {"targets": ["load"]}, "forecast"),
        ("digits.csv", {"label_column": "digit", "sequence_column": "image"}, "classify"),
        ("words.csv", {"label_column": "tag"}, "tag"),
        ("readings.csv", {"task": "tag"}, "tag"),
    ],
)
def test_the_task_is_guessed(file: str, given: dict[str, Any], task: str) -> None:
    assert train_task.guess(Path(file), given) == task


def test_a_table_without_a_target_is_told_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("hour,load\n1,2\n")
    with pytest.raises(typer.BadParameter, match="its columns are hour, load"):
        train_task.guess(file, {})


def test_options_make_a_recipe() -> None:
    given = {"targets": ["load"], "horizon": 24, "layers": 1, "minutes": 2.0, "cell": None}
    assert train_options.make("forecast", given) == Recipe(
        task=Forecast("load", horizon=24), network=NetworkShape(layers=1), max_duration=120.0
    )
    more = {"tokenization": "bytes", "recipe": '{"momentum": 0.5, "network": {"layers": 3}}'}
    assert train_options.make("text", more) == Recipe(
        task=LanguageModel(tokenization="bytes"), network=NetworkShape(layers=3), momentum=0.5
    )


def test_options_of_another_task_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="--horizon means nothing for the task text"):
        train_options.make("text", {"horizon": 2})
    with pytest.raises(typer.BadParameter, match="--recipe must be"):
        train_options.make("text", {"recipe": "[1]"})
