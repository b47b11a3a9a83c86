"""Networks with random weights, since constant ones pass with the gates in the wrong order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings

from carousel.model import Features, Linear, ModelConfig, Network

settings.register_profile("model", deadline=None, max_examples=25)
settings.load_profile("model")

MakeNetwork = Callable[..., Network]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """A small network; every option of ModelConfig can be given."""

    def make(**options: Any) -> Network:
        plain: dict[str, Any] = {"cell": "lstm", "layers": 2, "hidden_size": 6}
        parts: dict[str, Any] = {"input": Features(3), "head": Linear(4)}
        network = Network(ModelConfig(**(plain | parts | options)))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-0.7, 0.7)
        return network.eval()

    return make
