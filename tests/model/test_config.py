"""A config is checked when made, says what is wrong, and survives JSON."""

import json
from typing import Any

import pytest

from carousel.model import (
    Characters,
    Classifier,
    ConfigError,
    Features,
    Linear,
    ModelConfig,
    NoHead,
    Normalization,
    Softmax,
    StateSchema,
    Tokens,
)

CONFIGS = [
    ModelConfig(cell="rnn_relu", layers=1, hidden_size=3, input=Features(2)),
    ModelConfig(
        cell="gru",
        layers=3,
        hidden_size=8,
        input=Features(2, ("load", "wind")),
        head=Linear(2, targets=("load",)),
        dropout=0.25,
        bidirectional=True,
        normalization=Normalization((0.0, 1.5), (1.0, 2.0)),
        output_normalization=Normalization((3.0, 1e-3), (0.1, 2.0)),
    ),
    ModelConfig(
        cell="lstm",
        layers=2,
        hidden_size=8,
        input=Tokens(3, 5),
        head=Softmax(3),
        projection=4,
        tokenizer=Characters("ab\n"),
        learned_initial_state=True,
    ),
    ModelConfig(
        cell="lstm", layers=1, hidden_size=8, input=Tokens(9, 5), head=Classifier(("no", "yes"))
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.cell)
def test_config_survives_json(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_sizes_follow_from_the_config() -> None:
    assert [c.input_size for c in CONFIGS] == [2, 2, 5, 5]
    assert [c.output_size for c in CONFIGS] == [3, 2, 3, 2]
    assert [c.takes_tokens for c in CONFIGS] == [False, False, True, True]
    assert [StateSchema.of(c).width for c in CONFIGS] == [3, 48, 24, 16]
    both = ModelConfig(
        cell="gru", layers=1, hidden_size=4, input=Features(1), head=NoHead(), bidirectional=True
    )
    assert both.output_size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "elman"}, "cell must be one of lstm, gru, rnn_tanh, rnn_relu, got 'elman'"),
        ({"hidden_size": 0}, "hidden_size must be an integer between 1 and 8192, got 0"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"hidden_size": 8.0}, "hidden_size must be an integer"),
        ({"layers": 10**9}, "layers must be an integer between 1 and 64, got 1000000000"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout must be"),
        ({"dropout": 0.5, "layers": 1}, "dropout acts between layers"),
        ({"head": {"type": "linear", "size": 2, "residual": 3}}, "residual must .* 0 and 2, got 3"),
        ({"head": {"type": "linear", "size": 3, "residual": 2}}, "head.size must be a multiple of"),
        ({"head": {"type": "linear", "size": 4, "residual": 4}}, "at most the number of features"),
        ({"head": {"type": "linear", "size": 3, "targets": ["a", "b"]}}, "number of head.targets"),
        ({"head": {"type": "linear", "size": 1, "targets": "a"}}, "head.targets must be a list of"),
        ({"input": {"type": "features", "size": 2, "names": ["a"]}}, "input.names must be 2, one"),
        ({"input": {"type": "features", "size": 1, "names": [1]}}, "input.names must be a list of"),
        ({"projection": 8}, "projection must be an integer between 0 and 7, got 8"),
        ({"projection": 4, "cell": "gru"}, "projection is for the lstm cell only, got gru"),
        ({"bidirectional": 1}, "bidirectional must be bool, got 1"),
        ({"input": None}, "input must be Features | Tokens, got None"),
        ({"input": {"type": "pixels"}}, "input.type must be one of features, tokens, got 'pixels'"),
        ({"input": {"type": ["features"]}}, "input.type must be one of"),
        ({"input": {"type": "features"}}, "size must be given: input is not"),
        ({"input": {"type": "features", "size": 2, "rate": 1}}, "input has no 'rate': allowed are"),
        ({"input": {"type": "tokens", "vocabulary": 0, "embedding": 1}}, "input.vocabulary must"),
        ({"input": "features"}, "input must be an object, got 'features'"),
        ({"head": {"type": "linear", "size": -1}}, "head.size must be an integer"),
        ({"head": {"type": "classifier", "labels": ["a", "a"]}}, "2 to 8192 different strings"),
        ({"head": {"type": "classifier", "labels": "ab"}}, "different strings"),
        ({"normalization": {"mean": [0.0], "std": [1.0]}}, "one number for each feature"),
        ({"normalization": {"mean": [0.0, 0.0], "std": [1.0, 0.0]}}, "std must be above 0"),
        ({"normalization": {"mean": [0.0, 0.0], "std": [1.0]}}, "must be equally long"),
        ({"normalization": {"mean": [0.0, float("inf")], "std": [1.0, 1.0]}}, "finite numbers"),
        ({"output_normalization": {"mean": [0.0], "std": [1.0]}}, "each output of a linear head"),
        ({"tokenizer": {"type": "characters", "symbols": "ab"}}, "needs token input"),
        ({"tokenizer": {"type": "characters", "symbols": "aa"}}, "'a' more than once"),
        ({"tokenizer": {"type": "characters", "symbols": []}}, "symbols must be a string"),
        ({"colour": "red"}, "config has no 'colour': allowed are cell, layers"),
    ],
    ids=str,
)
def test_impossible_config_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "cell": "lstm",
        "layers": 2,
        "hidden_size": 8,
        "input": {"type": "features", "size": 2},
    }
    ModelConfig.from_dict(good)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(good | change)


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="hidden_size must be given"):
        ModelConfig.from_dict(
            {"cell": "gru", "layers": 1, "input": {"type": "features", "size": 1}}
        )
    with pytest.raises(ConfigError, match="config must be an object"):
        ModelConfig.from_dict([])  # type: ignore[arg-type]
