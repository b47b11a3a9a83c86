"""`carousel generate`: text, token by token.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli.arguments import ModelName
from carousel.cli.generate_view import Tokens, show
from carousel.cli.remote import remote

if TYPE_CHECKING:
    from carousel.client import Client, Session

PROMPT_HELP = "What to go on from; - reads it from standard input. A session may go on without."


def register(app: typer.Typer) -> None:
    remote(app, view=show)(generate)


def generate(
    client: "Client",
    model: ModelName,
    prompt: Annotated[str, typer.Argument(help=PROMPT_HELP)] = "",
    session: Annotated[
        str | None,
        typer.Option(
            metavar="SESSION",
            help="Go on in this session and keep it; it is made when there is none. Whoever holds "
            "it must attach again.",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Stop after this many tokens.")] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Divides the logits; 0 always takes the likeliest."),
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=0, help="Sample from the k likeliest; 0: from all.")
    ] = 0,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample from the likeliest that together reach this probability."),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Divides the logits of what was there before.")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Stop before this text; may be given several times."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same tokens.")
    ] = None,
    log_probabilities: Annotated[
        int | None,
        typer.Option(min=0, max=20, help="With --json: how likely, and this many alternatives."),
    ] = None,
) -> Tokens:
    """Generate text from a prompt, token by token.

    On a terminal the prompt is shown too, elsewhere only what was generated.
    """
    if prompt == "-":
        prompt = sys.stdin.read()
    sampling: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop or (),
        "seed": seed,
        "log_probabilities": log_probabilities,
    }
    if session is None:
        stream = client.generate(model, prompt, **sampling)
    else:
        stream = _session(client, model, session).generate(prompt, **sampling)
    return Tokens(prompt, stream)


def _session(client: "Client", model: str, session_id: str) -> "Session":
    """The session of this id, made when there is none or it has ended."""
    from carousel.errors import InvalidField, SessionEnded, SessionNotFound

    try:
        found = client.get_session(session_id)
        wanted = client.get_version(model).name
        if found.end_reason is None and found.model_version != wanted:
            raise InvalidField(
                f"sessions/{found.id} is of {found.model_version}, not of {wanted}", field="model"
            )
        return client.attach(session_id)
    except (SessionNotFound, SessionEnded):
        return client.session(model, session_id=session_id.removeprefix("sessions/"))
