"""`carousel bench`: the kernels of this machine, measured; and where the whole suite is.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carousel.cli import exits, output, serve, tables

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.cli.bench_stages import Row
    from carousel.model.ladder import Rung
    from carousel.model.precision import Comparison

SESSIONS = 8  # that a precision is compared over

app = typer.Typer(help="Measure this machine.", invoke_without_command=True)


@app.callback()
def bench(context: typer.Context) -> None:
    """Measure this machine."""
    if context.invoked_subcommand is None:
        print("carousel bench kernels     step kernels on this machine, a minute")
        print("carousel bench precision   what int8 or 16 bits cost in exactness, by model")
        print("carousel bench stages      where a step's time goes in a server, half a minute")
        print("make bench                 the whole suite, in a checkout of the repository")


@app.command()
def kernels(
    hidden_size: Annotated[int, typer.Option(min=1, max=8192, help="Units of a layer.")] = 256,
    layers: Annotated[int, typer.Option(min=1, max=16, help="Stacked layers.")] = 2,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=2, max=4096, help="Sessions in a turn; may be given several times: 64, 256."
        ),
    ] = None,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks, of which the median counts.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.001, help="Length of a block of one arm.")] = 0.2,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Climb the ladder of step speeds, from one gate and one session at a time to all at once."""
    serve.prepare_threads(threads)
    try:
        import torch

        from carousel.model import ladder
    except ModuleNotFoundError as error:
        exits.leave(exits.FAILED, serve.needs_server("carousel bench kernels", error))
    torch.set_num_threads(threads)
    rungs = ladder.climb(
        hidden_size=hidden_size,
        layers=layers,
        batches=tuple(batch or (64, 256)),
        blocks=blocks,
        seconds=seconds,
    )
    output.show(rungs, view=_ladder, as_json=as_json)


@app.command()
def precision(
    model: Annotated[
        str, typer.Argument(help="A model that comes with Carousel, or a version's folder.")
    ] = "king-james",
    text: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Text to read; without it, random inputs."),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=2, help=f"Steps of each of {SESSIONS} sessions.")
    ] = 1000,
    precision: Annotated[
        Literal["int8", "bfloat16", "float16"], typer.Option(help="What to compare with float32.")
    ] = "int8",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Compare the outputs of a model in a lower precision with those in float32."""
    serve.prepare_threads(1)
    try:
        import torch

        from carousel.model import ModelError, load
        from carousel.model.precision import compare, examples
    except ModuleNotFoundError as error:
        exits.leave(exits.FAILED, serve.needs_server("carousel bench precision", error))
    torch.set_num_threads(1)
    try:
        network = load(_folder(model)).eval()
        read = None if text is None else _text(text)
        x = examples(network, sessions=SESSIONS, steps=steps, text=read)
        found = compare(network, x, precision)
    except (ModelError, OSError) as error:
        exits.leave(exits.USAGE, str(error))
    output.show(found, view=partial(_prices, of_text=text is not None), as_json=as_json)


def _folder(model: str) -> Path:
    """Of the newest version of a shipped model, or the one that is named."""
    from carousel.model import shipped

    versions = shipped()
    if model in versions:
        return max(versions[model].glob("[0-9]*"), key=lambda one: int(one.name))
    if not Path(model).is_dir():
        known = ", ".join(versions)
        exits.leave(exits.USAGE, f"MODEL must be a folder or one of {known}, got {model!r}")
    return Path(model)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        exits.leave(exits.USAGE, f"--text must be a file in UTF-8, {file} is not")


def _prices(found: "Comparison", *, of_text: bool) -> "RenderableType":
    facts: dict[str, RenderableType] = {
        "steps": f"{found.steps:,}",
        "largest difference of an output": f"{found.largest_difference:.2g}",
        "of the largest output": f"{found.share:.2%}",
    }
    if of_text and not math.isnan(found.bits):  # random inputs nobody can foretell
        bits = f"{found.bits_float32:.4f} in float32, {found.bits:.4f} in {found.precision}"
        facts["bits a token"] = f"{bits}: {found.more_bits:+.4f}"
    return tables.facts(facts)


@app.command()
def stages(
    load: Annotated[
        list[str] | None,
        typer.Option(help="alone, unary, stream, batch-64 or batch-256; may be given again."),
    ] = None,
    cell: Annotated[Literal["lstm", "gru", "rnn_tanh", "rnn_relu"], typer.Option()] = "lstm",
    hidden_size: Annotated[int, typer.Option(min=1, max=8192, help="Units of a layer.")] = 256,
    layers: Annotated[int, typer.Option(min=1, max=16, help="Stacked layers.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for each load.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Start a server, step its sessions, and show what each stage of a step takes.

    Of a message, which waits in stages for others too, and of what the server works in them, by
    turn and by step.
    """
    from carousel.cli import bench_stages

    known = {one.name: one for one in bench_stages.LOADS}
    wrong = [name for name in load or () if name not in known]
    if wrong:
        exits.leave(exits.USAGE, f"--load must be one of {', '.join(known)}, got {wrong[0]!r}")
    serve.prepare_threads(1)
    try:
        found = bench_stages.measure(
            [known[name] for name in load or known],
            cell=cell,
            layers=layers,
            hidden_size=hidden_size,
            seconds=seconds,
        )
        rows = serve.run_loop(found)
    except ModuleNotFoundError as error:
        exits.leave(exits.FAILED, serve.needs_server("carousel bench stages", error))
    output.show(rows, view=_stages, as_json=as_json)


def _stages(rows: "Sequence[Row]") -> "RenderableType":
    columns = ("load", "stage", "us a message", "share", "us a turn", "us a step")
    texts = [
        (
            row.load,
            f"{row.messages:,} messages" if row.stage == "whole" else row.stage,
            f"{row.message_us:,.0f}",
            f"{row.share:.0%}",
            "waits" if row.turn_us is None else f"{row.turn_us:,.0f}",
            "waits" if row.step_us is None else f"{row.step_us:,.1f}",
        )
        for row in rows
    ]
    return tables.table(*columns, rows=texts, numbers=columns[2:])


def _ladder(rungs: "Sequence[Rung]") -> "RenderableType":
    rows = [
        (
            rung.name,
            rung.note if rung.steps_per_second is None else f"{rung.steps_per_second:,.0f}",
            "" if rung.speed_up is None else f"{rung.speed_up:.1f} x",
        )
        for rung in rungs
    ]
    columns = ("kernel", "steps a second", "against the first")
    return tables.table(*columns, rows=rows, numbers=columns[1:])
