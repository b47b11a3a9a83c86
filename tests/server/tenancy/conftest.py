"""A server with the tiny models, shared by all, and a tenant that has one of each thing."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.conftest import RunningServer, running, tiny_models
from tests.server.tenancy.estate import Estate


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that trains nothing: jobs wait."""
    store = tmp_path_factory.mktemp("store")
    tiny_models(store)
    with running(
        store=store, shipped=False, training_jobs_at_once=0, import_root=store, max_sessions=1000
    ) as server:
        yield server


@pytest.fixture(scope="module")
def wire(shared: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def estate(wire: grpc.Channel) -> Estate:
    return Estate(wire, "acme")
