"""Models for a server that is watched: healthy ones, and some that are made to go wrong."""

from __future__ import annotations

from pathlib import Path

import torch

from carousel.model import (
    Characters,
    Features,
    Linear,
    ModelConfig,
    Network,
    Softmax,
    Tokens,
    save,
)
from carousel.model.baseline import BASELINE, measure

SYMBOLS = "\n abcdefghijklmnopqrstuvwxyz"
FEATURES = 3


def make_models(store: Path) -> None:
    """`steady` has a baseline, `writer` writes, `explosive` overflows, `stuck` moves no gate."""
    torch.manual_seed(4)
    steady = Network(_lstm(16))
    save(store / "steady" / "1", steady)
    baseline = measure(steady, torch.randn(512, FEATURES))
    (store / "steady" / "1" / BASELINE).write_text(baseline.to_json())
    save(store / "writer" / "1", Network(_writer()))
    save(store / "explosive" / "1", _explosive())
    save(store / "stuck" / "1", _stuck())
    save(store / "long" / "1", Network(_lstm(256)))


def _lstm(hidden: int) -> ModelConfig:
    return ModelConfig(
        cell="lstm", layers=2, hidden_size=hidden, input=Features(FEATURES), head=Linear(2)
    )


def _writer() -> ModelConfig:
    return ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=16,
        input=Tokens(len(SYMBOLS), 4),
        head=Softmax(len(SYMBOLS)),
        tokenizer=Characters(SYMBOLS),
    )


def _explosive() -> Network:
    """Multiplies its state at every step, so that large inputs soon overflow."""
    network = Network(
        ModelConfig(
            cell="rnn_relu",
            layers=1,
            hidden_size=1,
            input=Features(FEATURES),
            head=Linear(2),
        )
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.0 if "bias" in name else 2.0)
    return network


def _stuck() -> Network:
    """Its biases open every gate, whatever comes in."""
    network = Network(_lstm(8))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("rnn.bias_ih"):
                parameter.fill_(30.0)
    return network
