"""A server whose models compute in 8 bits, as it is set or as a version was loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from carousel.client import Client
from carousel.errors import InvalidField, ModelInUse
from carousel.model import Features, Linear, ModelConfig, Network, make_kernel, save
from tests.conftest import RunningServer, running

FORWARD = ModelConfig(cell="lstm", layers=2, hidden_size=32, input=Features(3), head=Linear(2))
BOTH = ModelConfig(
    cell="lstm", layers=1, hidden_size=8, input=Features(3), head=Linear(2), bidirectional=True
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network]:
    torch.manual_seed(7)
    store, network = tmp_path_factory.mktemp("models"), Network(FORWARD)
    save(store / "forward" / "1", network)
    save(store / "both" / "1", Network(BOTH))
    return store, network


@pytest.fixture(scope="module")
def server(networks: tuple[Path, Network]) -> Iterator[RunningServer]:
    """One that is set to int8."""
    with running(store=networks[0], shipped=False, precision="int8") as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


def test_steps_and_chunks_are_those_of_the_int8_kernel(
    client: Client, networks: tuple[Path, Network]
) -> None:
    x = np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32)
    kernel = make_kernel(networks[1], precision="int8")
    wanted = kernel.sequences(torch.from_numpy(x)[None], torch.tensor([12]))[0].numpy()
    assert client.get_version("forward").precision == "int8"
    with client.session("forward") as session:
        found = [session.step(one) for one in x[:4]]
        found += list(session.chunk(x[4:]))
    np.testing.assert_allclose(np.stack(found), wanted, rtol=0, atol=1e-5)
    exact = make_kernel(networks[1]).sequences(torch.from_numpy(x)[None], torch.tensor([12]))
    assert np.abs(np.stack(found) - exact[0].numpy()).max() > 1e-5


def test_what_has_no_next_step_computes_in_float32(client: Client) -> None:
    assert client.get_version("both").precision == "float32"
    with pytest.raises(ModelInUse, match="serves in float32; unload it first to have int8"):
        client.load_model("both", precision="int8")
    client.unload_model("both")
    assert client.get_version("both/1").precision == ""
    with pytest.raises(InvalidField, match="next step, got a bidirectional one") as refused:
        client.load_model("both/1", precision="int8")
    assert refused.value.field == "precision"
    assert client.load_model("both/1").precision == "float32"


def test_a_version_can_be_loaded_in_another_precision(client: Client) -> None:
    assert client.load_model("forward").precision == "int8"  # serves already
    with pytest.raises(ModelInUse, match="serves in int8; unload it first to have float32"):
        client.load_model("forward", precision="float32")
    client.unload_model("forward")
    try:
        assert client.load_model("forward/1", precision="float32").precision == "float32"
    finally:
        client.unload_model("forward")
        client.load_model("forward/1", precision="int8")
    with pytest.raises(
        InvalidField, match=r"precision must be one of float32, int8, .*, got 'int4'"
    ):
        client.load_model("forward", precision="int4")


def test_a_replay_of_an_audit_log_says_that_all_was_right(client: Client) -> None:
    x = np.random.default_rng(2).standard_normal((40, 3)).astype(np.float32)
    with client.session("forward", audit=True) as session:
        for one in x[:20]:
            session.step(one)
        session.chunk(x[20:])
    steps = list(client.replay(session))
    assert len(steps) == 40
    assert all(step.matches for step in steps)
