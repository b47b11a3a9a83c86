"""`carousel bench`: the kernels of this machine, measured; and where the whole suite is.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import typer

app = typer.Typer(help="Measure this machine.", invoke_without_command=True)


@app.callback()
def bench(context: typer.Context) -> None:
    """Measure this machine."""
    if context.invoked_subcommand is None:
        print("carousel bench kernels   the step kernels of this machine, each measured")
        print("make bench               the whole suite, in a checkout of the repository")
