"""Commands that ask a server: a function from a client to a value, and the view of that value.

    @remote(app, view=views.version)
    def show(client: "Client", model: ModelName) -> "ModelVersion":
        "Describe a version."
        return client.get_version(model)

The options of the connection and `--json` are added here, errors become exit codes here, and the
client is imported only when a command runs. An id of `TENANT/ID`, as lists show it to the operator,
makes the command work in that tenant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer

from carousel.cli import connection, output
from carousel.cli.arguments import OWNED, apart

Function = Callable[..., Any]

_OPTIONS = {
    option.name: option.replace(kind=option.KEYWORD_ONLY)
    for option in inspect.signature(connection.options).parameters.values()
}


def remote(
    app: typer.Typer,
    *,
    view: output.View,
    name: str | None = None,
    address: Any = connection.Target,
) -> Callable[[Function], Function]:
    """Register a command whose first argument is a client; `address` names the server."""
    options = {**_OPTIONS, "target": _OPTIONS["target"].replace(annotation=address)}

    def register(function: Function) -> Function:
        def run(**given: Any) -> None:
            wanted = {option: given.pop(option) for option in _OPTIONS}
            as_json = wanted.pop("as_json")
            for argument in owned:
                wanted["tenant"], given[argument] = apart(given[argument])
            with connection.reporting(as_json=as_json), connection.connect(**wanted) as client:
                output.show(function(client, **given), view=view, as_json=as_json)

        _, *own = inspect.signature(function).parameters.values()
        owned = [p.name for p in own if p.annotation in OWNED]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own] + list(options.values())
        run.__doc__ = function.__doc__
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        app.command(name or function.__name__.rstrip("_"))(run)
        return function

    return register
