"""Generated text while it comes: one object a token for programs, running text for people."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from carousel.client import TokenStream

# A model may have learned, or been made, to write escape codes.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Without what would move the cursor or change the terminal."""
    return _CONTROL.sub("\ufffd", text)


class Tokens(Iterator[dict[str, Any]]):
    """The tokens that follow a prompt, as they come; the last one says how it ended."""

    def __init__(self, prompt: str, stream: TokenStream) -> None:
        self.prompt = prompt
        self.stream = stream

    def __next__(self) -> dict[str, Any]:
        token = next(self.stream)
        line: dict[str, Any] = {"id": token.id, "text": token.text}
        if token.log_probability is not None:
            line |= {"log_probability": token.log_probability, "top": token.top}
        if token.finish_reason is not None:
            line |= {
                "finish_reason": token.finish_reason,
                "prompt_tokens": self.stream.prompt_tokens,
                "generated_tokens": self.stream.generated_tokens,
                "seed": self.stream.seed,
            }
        return line


def show(tokens: Tokens) -> None:
    """Write each token at once.

    On a terminal the prompt stands before it and a summary after; elsewhere there is only what
    was generated, byte for byte.
    """
    from carousel.cli.output import console

    if not sys.stdout.isatty():
        for token in tokens:
            print(token["text"], end="", flush=True)
        return
    _show_on_terminal(tokens, console())


def _show_on_terminal(tokens: Tokens, out: Console) -> None:
    from rich.text import Text

    begin = time.monotonic()
    for place, token in enumerate(tokens):
        if place == 0:  # not before: the request may be refused
            out.print(Text(harmless(tokens.prompt), style="bold"), end="", soft_wrap=True)
        sys.stdout.write(harmless(token["text"]))
        sys.stdout.flush()
    seconds = time.monotonic() - begin
    stream = tokens.stream
    rate = stream.generated_tokens / seconds if seconds else 0.0
    ended = f"{stream.generated_tokens} tokens, {rate:,.0f} a second, seed {stream.seed}"
    out.print(Text(f"\n{ended}", style="dim"))
