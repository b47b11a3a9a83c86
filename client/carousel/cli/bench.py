"""`carousel bench`: the kernels of this machine, measured; and where the whole suite is.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli import exits, output, serve, tables

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.model.ladder import Rung

app = typer.Typer(help="Measure this machine.", invoke_without_command=True)


@app.callback()
def bench(context: typer.Context) -> None:
    """Measure this machine."""
    if context.invoked_subcommand is None:
        print("carousel bench kernels   step kernels on this machine, a minute")
        print("make bench               the whole suite, in a checkout of the repository")


@app.command()
def kernels(
    hidden_size: Annotated[int, typer.Option(min=1, max=8192, help="Units of a layer.")] = 256,
    layers: Annotated[int, typer.Option(min=1, max=16, help="Stacked layers.")] = 2,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Sessions in a turn; may be given several times: 64, 256."),
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
