"""`python -m tests.soak [NAME]`: long runs against real servers; without a name all, in turn."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from tests.soak import chaos, fuzz, histories, hostile, memory, messages, sessions, training


class Soak(Protocol):
    """A module: its first line is its help."""

    __doc__: str | None

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> Sequence[str]:
        """What was wrong, a line each; nothing: all was well."""
        ...


SOAKS: dict[str, Soak] = {
    "messages": messages,
    "fuzz": fuzz,
    "hostile": hostile,
    "sessions": sessions,
    "chaos": chaos,
    "histories": histories,
    "training": training,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    commands = parser.add_subparsers(dest="name", metavar="NAME")
    for name, soak in SOAKS.items():
        about = (soak.__doc__ or "").partition("\n")[0]
        soak.add_options(commands.add_parser(name, help=about, description=about))
    given = parser.parse_args()
    # Servers are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runs = [given] if given.name else [parser.parse_args([name]) for name in SOAKS]
    failed = []
    for options in runs:
        begin = time.monotonic()
        wrong = SOAKS[options.name].run(options)
        for line in wrong[:20]:
            print(line)
        verdict = "FAILED" if wrong else "all was well"
        print(f"{options.name}: {verdict} ({time.monotonic() - begin:.0f} s)", flush=True)
        failed += [options.name] if wrong else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
