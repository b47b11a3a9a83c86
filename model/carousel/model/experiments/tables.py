"""The records as Markdown: one section an experiment, with its plots."""

from carousel.model.experiments.catalogue import GRADIENTS
from carousel.model.experiments.record import Record

COMMAND = "python -m carousel.model.experiments"


def page(records: list[Record]) -> str:
    """README.md of the folder that the records lie in."""
    head = (
        "# Experiments\n\n"
        "What follows was written by the command under each title from the `.json` file beside it; "
        "a run again on the same machine gives the same scores, but other seconds, since the "
        "machine was shared with other work. "
        "[docs/theory.md](../theory.md) says what to see in it.\n"
    )
    sections = (_gradients(r) if r["experiment"] == GRADIENTS else _task(r) for r in records)
    return "\n".join([head, *sections])


def _task(record: Record) -> str:
    name, metric = record["experiment"], record["metric"]
    s, e = record["settings"], record["environment"]
    rows = [
        f"| network | parameters | {metric} | solved after | seconds | horizon before | after |",
        "|---|--:|--:|--:|--:|--:|--:|",
        f"| guessing | | {_score(record, record['baseline'])} | | | | |",
    ]
    for run in record["runs"]:
        after = f"{run['solved_at']:,} updates" if run["solved_at"] else "-"
        before, end = (run["gradients"][when]["horizon"] for when in ("start", "end"))
        rows.append(
            f"| {run['network']} | {run['parameters']:,} | {_score(record, run['score'])} "
            f"| {after} | {run['seconds']:.0f} | {before} | {end} |"
        )
    bar = f"{'at most' if metric == 'MSE' else 'at least'} {_score(record, record['solved'])}"
    return "\n".join(
        [
            f"## {record['title']}\n",
            *_how(name),
            *rows,
            "",
            f"{_solved(record)} "
            f"Solved is {metric} {bar} on sequences that were not learned from; horizon is the "
            "number of steps back until the gradient is under 1 %. "
            f"At most {s['updates']:,} updates of {s['batch']} sequences, Adam at {s['rate']}, "
            f"gradients clipped at {s['clip']}, {s['hidden']} units, seed {s['seed']}, "
            f"torch {e['torch']}, {e['threads']} thread of a CPU.\n",
            f"Published: {record['published']}.\n",
            f"![{metric} by update]({name}.png)\n",
            f"![gradient by lag]({name}-gradients.png)\n",
        ]
    )


def _solved(record: Record) -> str:
    """Whom the task was too hard for."""
    failed = [run["network"] for run in record["runs"] if run["solved_at"] is None]
    if len(failed) == len(record["runs"]):
        return "**Solved by none of them.**"
    return f"**Not solved by: {'; '.join(failed)}.**" if failed else "Solved by all of them."


def _gradients(record: Record) -> str:
    windows = record["settings"]["windows"]
    networks = list(dict.fromkeys(run["network"] for run in record["runs"]))
    found = {(r["network"], r["window"]): r["gradients"]["start"] for r in record["runs"]}
    rows = [
        "| network | " + " | ".join(f"T = {steps:,}" for steps in windows) + " | spectral radius |",
        "|---" + "|--:" * (len(windows) + 1) + "|",
    ]
    for network in networks:
        cells = [str(found[network, steps]["horizon"]) for steps in windows]
        radius = found[network, windows[-1]]["spectral_radius"]
        rows.append(f"| {network} | {' | '.join(cells)} | {radius:.2f} |")
    return "\n".join(
        [
            f"## {record['title']}\n",
            *_how(GRADIENTS),
            *rows,
            "",
            "Steps back until the gradient of the last step's loss is under 1 %, before anything "
            f"was learned, on the adding problem: {record['settings']['hidden']} units, mean over "
            f"{record['settings']['sequences']} sequences. Of an LSTM it is that of the cell state "
            "or the hidden state, whichever lasts longer.\n",
            f"![gradient by lag]({GRADIENTS}.png)\n",
        ]
    )


def _how(name: str) -> list[str]:
    return [f"    {COMMAND} {name}", ""]


def _score(record: Record, score: float) -> str:
    return f"{score:.4f}" if record["metric"] == "MSE" else f"{100 * score:.1f} %"
