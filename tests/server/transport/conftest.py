"""Servers that speak TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningServer, running
from tests.papers import Papers


@pytest.fixture(scope="session")
def tls_server(model_store: Path, papers: Papers) -> Iterator[RunningServer]:
    """Shows a certificate, and wants none."""
    with running(store=model_store, shipped=False, **papers.serving()) as server:
        yield server


@pytest.fixture(scope="session")
def mutual_server(model_store: Path, papers: Papers) -> Iterator[RunningServer]:
    """Wants a certificate of its clients."""
    with running(store=model_store, shipped=False, **papers.serving(mutual=True)) as server:
        yield server
