"""The records as pictures: score by update, and gradient norm by lag."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carousel.model.experiments.catalogue import GRADIENTS
from carousel.model.experiments.record import Record

# Colours of Okabe & Ito, told apart by every kind of eye; lines differ for print in grey.
STYLES: Mapping[str, tuple[str, str]] = {
    "RNN tanh": ("#D55E00", "-"),
    "LSTM, forget bias 0": ("#56B4E9", "--"),
    "LSTM, forget bias 1": ("#CC79A7", "-."),
    "LSTM, chrono": ("#0072B2", "-"),
    "GRU": ("#009E73", "-"),
}
FLOOR = 1e-8  # of a gradient that is drawn


def draw(folder: Path, record: Record) -> None:
    """Write the pictures of a record as PNG beside it."""
    if record["experiment"] == GRADIENTS:
        windows = record["settings"]["windows"]
        figure, axes = _figure(2)
        for axis, window in zip(axes, (windows[0], windows[-1]), strict=True):
            _by_lag(axis, [run for run in record["runs"] if run["window"] == window], "start")
            axis.set_title(f"Before learning, T = {window:,}")
        _norm_axis(axes[0])
        _finish(figure, folder / f"{GRADIENTS}.png")
        return
    figure, axes = _figure(1)
    _by_update(axes[0], record)
    _finish(figure, folder / f"{record['experiment']}.png")
    figure, axes = _figure(2)
    for axis, when, title in zip(axes, ("start", "end"), ("before", "after"), strict=True):
        _by_lag(axis, record["runs"], when)
        axis.set_title(f"{record['title']}: {title} learning")
    _norm_axis(axes[0])
    _finish(figure, folder / f"{record['experiment']}-gradients.png")


def _by_update(axis: Any, record: Record) -> None:
    for run in record["runs"]:
        colour, line = STYLES[run["network"]]
        updates, scores = run["points"]["update"], run["points"]["score"]
        axis.plot(updates, scores, color=colour, linestyle=line, label=run["network"])
        # A dot where it ended, so that a run cut short because it was solved is seen as one.
        axis.plot(updates[-1], scores[-1], "o", color=colour, markersize=4)
    axis.axhline(record["baseline"], color="0.4", linestyle=":", label="guessing")
    if record["metric"] == "MSE":
        axis.set_yscale("log")
    else:
        axis.set_ylim(-0.02, 1.03)
    axis.set(title=record["title"], xlabel="updates", ylabel=record["metric"])


def _by_lag(axis: Any, runs: list[Record], when: str) -> None:
    for run in runs:
        colour, line = STYLES[run["network"]]
        flow = run["gradients"][when]
        # What lies under the floor is not drawn, rather than as a line along it.
        norms = [norm if norm > FLOOR else float("nan") for norm in flow["norms"]]
        symbol = "c" if flow["state"] == "cell" else "h"
        label = f"{run['network']} (${symbol}_t$)"
        axis.plot(range(len(norms)), norms, color=colour, linestyle=line, label=label)
    axis.axhline(0.01, color="0.4", linestyle=":", label="1 %")
    axis.set_yscale("log")
    axis.set_xlabel("steps back from the loss")


def _norm_axis(axis: Any) -> None:
    axis.set_ylabel("norm of the gradient, 1 at lag 0")
    axis.set_ylim(bottom=max(FLOOR, axis.get_ylim()[0]))


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # not pyplot: no window, no state of the process

    figure = Figure(figsize=(6.4 if panels == 1 else 10, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    for axis in axes:
        axis.grid(color="0.9", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _finish(figure: Any, path: Path) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Software": None})
