"""The command as a user runs it, in a process of its own; and the same within this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import RunningServer, running, tiny_models
from tests.processes import PATIENCE
from typer.testing import CliRunner

from carousel.cli.app import app
from carousel.model import Characters, ModelConfig, Network, Softmax, Tokens, save

COMMAND = [sys.executable, "-m", "carousel.cli"]
SYMBOLS = "\n abcdefghijklmnopqrstuvwxyz"


def environment(**more: str) -> dict[str, str]:
    """That of this process without settings for Carousel or colours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CAROUSEL_") and name not in ("NO_COLOR", "FORCE_COLOR", "TERM")
    }
    return {**kept, "TERM": "xterm-256color", **more}


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class Command:
    """`carousel`, pointed at a server."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __call__(
        self, *words: object, stdin: str = "", timeout: float = PATIENCE, **env: str
    ) -> Done:
        done = subprocess.run(
            [*COMMAND, *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment(CAROUSEL_TARGET=self.target, **env),
        )
        return Done(done.returncode, done.stdout, done.stderr)


class InProcess(Command):
    """The same in this process, for what is about commands and not about processes."""

    def __call__(
        self, *words: object, stdin: str = "", timeout: float = PATIENCE, **env: str
    ) -> Done:
        done = CliRunner(env={"CAROUSEL_TARGET": self.target, **env}).invoke(
            app, [*map(str, words)], input=stdin
        )
        return Done(done.exit_code, done.stdout, done.stderr)


def writer(folder: Path) -> Path:
    """A small random model that can generate text."""
    torch.manual_seed(2)
    config = ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=16,
        input=Tokens(len(SYMBOLS), 4),
        head=Softmax(len(SYMBOLS)),
        tokenizer=Characters(SYMBOLS),
    )
    save(folder, Network(config))
    return folder


@pytest.fixture(scope="session")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose store these tests may change."""
    store = tmp_path_factory.mktemp("cli") / "models"
    tiny_models(store)
    writer(store / "writer" / "1")
    with running(store=store, shipped=False) as server:
        yield server


@pytest.fixture(scope="session")
def carousel(own_server: RunningServer) -> Command:
    return Command(own_server.target)


@pytest.fixture(scope="session")
def inside(own_server: RunningServer) -> InProcess:
    return InProcess(own_server.target)
