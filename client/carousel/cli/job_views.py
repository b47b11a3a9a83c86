"""How jobs, their evaluations, checkpoints and gradients look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carousel.cli import job_lines, plots, tables
from carousel.cli.quantities import count, size, span, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Checkpoint, Evaluation, GradientFlow, Job

_NAIVE = "naive_"
_BARS = 48


def jobs(listed: Sequence[Job]) -> RenderableType:
    if not listed:
        return "There are no jobs: carousel train FILE --name MODEL makes one."
    rows = [
        (
            tables.owned(one),
            one.promotion.model,
            tables.state(one.state),
            _steps(one),
            "" if one.progress is None else job_lines.number(one.progress.loss),
            version(one) or "",
            when(one.create_time),
            data(one),
        )
        for one in listed
    ]
    columns = ("job", "model", "state", "updates", "loss", "version", "made", "learns from")
    return tables.table(*columns, rows=rows, numbers=("updates", "loss"))


def job(one: Job) -> RenderableType:
    """Everything about a job, its evaluation below."""
    pairs: dict[str, RenderableType] = {
        "job": tables.owned(one),
        "state": tables.state(one.state, one.state_message),
        "learns from": data(one),
        "task": task(one),
        "network": network(one),
        "updates": _steps(one),
    }
    if one.progress is not None:
        pairs["now"] = ", ".join(job_lines.progress(one.progress))
    if one.checkpoint_step:
        pairs["last checkpoint"] = f"after {count(one.checkpoint_step)} updates"
    pairs["goes to"] = goes_to(one)
    if one.version:
        pairs["version"] = version(one)
    if one.attempts > 1:
        pairs["attempts"] = count(one.attempts)
    pairs["made"] = when(one.create_time)
    if one.start_time is not None and one.end_time is not None:
        pairs["learned for"] = span((one.end_time - one.start_time).total_seconds())
    if one.evaluation is None:
        return tables.facts(pairs)
    from rich.console import Group

    return Group(tables.facts(pairs), "", evaluation(one.evaluation))


def evaluation(found: Evaluation) -> RenderableType:
    """What the model is worth, the naive baseline beside it."""
    names = [name for name in found.metrics if not name.startswith(_NAIVE)]
    naive = {n.removeprefix(_NAIVE): v for n, v in found.metrics.items() if n.startswith(_NAIVE)}
    names += [name for name in naive if name not in names and name != "loss"]
    values = {"loss": found.loss, **found.metrics}
    rows = [
        (job_lines.plain(name), _number(values.get(name)), _number(naive.get(name)))
        for name in ("loss", *(name for name in names if name != "loss"))
    ]
    heads = (f"on {found.split} data", "model", "naive")
    if not naive:
        return tables.table(*heads[:2], rows=[row[:2] for row in rows], numbers=heads[1:2])
    return tables.table(*heads, rows=rows, numbers=heads[1:])


def checkpoints(listed: Sequence[Checkpoint]) -> RenderableType:
    if not listed:
        return "There are no checkpoints."
    rows = [
        (
            str(one.step),
            _number(one.validation_loss),
            "best" if one.best else "",
            size(one.size_bytes),
            when(one.create_time),
        )
        for one in listed
    ]
    columns = ("checkpoint", "validation loss", "", "size", "written")
    return tables.table(*columns, rows=rows, numbers=(*columns[:2], "size"))


def gradients(flow: GradientFlow) -> RenderableType:
    """Each layer's norms by lag, as bars: a bar less high by a seventh is 0.27 of it."""
    from rich.console import Group

    rows = [
        (
            str(layer.layer),
            plots.bars(layer.hidden_norms, width=_BARS),
            plots.bars(layer.cell_norms, width=_BARS),
            count(layer.horizon),
            _number(layer.forget_mean),
            _number(layer.spectral_radius),
        )
        for layer in flow.layers
    ]
    numbers = ("horizon", "forget gate", "spectral radius")
    table = tables.table("layer", "dL/dh by lag", "dL/dc by lag", *numbers, rows=rows,
                         numbers=numbers)  # fmt: skip
    return Group(table, "", flow.verdict) if flow.verdict else table


def promoted(done: Mapping[str, Any]) -> RenderableType:
    return f"{short(done['version'])} is made of checkpoint {done['checkpoint']} of {done['job']}"


def deleted(done: Mapping[str, str]) -> RenderableType:
    return f"{done['deleted']} is deleted; versions that came of it stay"


def plotted(done: Mapping[str, Sequence[str]]) -> RenderableType:
    return "\n".join(done["files"])


def short(version_name: str) -> str:
    """`load/2`, as one would write it."""
    return version_name.removeprefix("models/").replace("/versions/", "/")


def version(one: Job) -> str:
    return short(one.version)


def task(one: Job) -> str:
    """`forecast of load, 24 steps`."""
    from carousel.client import Classify, Forecast, LanguageModel, Tag

    match one.recipe.task:
        case LanguageModel() as found:
            return f"language model of {found.tokenization or 'characters'}"
        case Forecast() as found:
            steps = "1 step" if (found.horizon or 1) == 1 else f"{count(found.horizon or 1)} steps"
            return f"forecast of {', '.join(found.targets)}, {steps}"
        case Classify() as found:
            return f"a label for each sequence, {found.label_column or 'y'}"
        case Tag() as found:
            return f"a label for each step, {found.label_column or 'y'}"


def network(one: Job) -> str:
    """`lstm 2 x 64, 52,000 parameters`."""
    shape = one.recipe.network
    made = f"{shape.cell or 'lstm'} {shape.layers or 2} x {shape.hidden_size or 'default'}"
    return f"{made}, {count(one.parameters)} parameters" if one.parameters else made


def data(one: Job) -> str:
    return one.dataset.removeprefix("datasets/") or one.uri


def goes_to(one: Job) -> str:
    wanted = one.promotion
    if not wanted.model:
        return "no model"
    alias = f", alias {wanted.alias}" if wanted.alias else ""
    gate = "" if wanted.margin is None else f", if better by {wanted.margin:.1%}"
    return f"{wanted.model}{alias}{gate}"


def _steps(one: Job) -> str:
    if one.progress is None:
        return "0"
    return f"{count(one.progress.step)} of {count(one.progress.max_steps)}"


def _number(value: float | None) -> str:
    return "" if value is None else job_lines.number(value)
