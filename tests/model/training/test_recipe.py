"""Recipes: the proto's defaults, a round trip through JSON, refusals that say what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.model.errors import ConfigError
from carousel.model.training import NetworkShape, Recipe

TEXT = {"type": "language_model"}
SERIES = {"type": "forecast", "targets": ["y"]}


def test_defaults_are_the_proto_s() -> None:
    recipe = Recipe.from_dict({"task": TEXT})
    assert recipe.network == NetworkShape(hidden_size=256)
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("adamw", 0.003, 0.01)
    assert (recipe.max_steps, recipe.batch_size, recipe.window) == (2000, 32, 96)
    assert (recipe.warmup_steps, recipe.evaluate_every, recipe.checkpoint_every) == (100, 100, 100)
    assert (recipe.schedule, recipe.final_share, recipe.clip_norm) == ("cosine", 0.02, 1.0)
    assert (recipe.keep_checkpoints, recipe.gradients_every) == (2, 100)
    assert recipe.network.constant_bias == 1.0
    series = Recipe.from_dict({"task": SERIES, "optimizer": "sgd", "max_steps": 10_000})
    assert (series.learning_rate, series.momentum, series.weight_decay) == (0.5, 0.9, 0.0)
    assert (series.warmup_steps, series.network.hidden_size) == (200, 64)
    assert "max_seconds" not in series.to_dict()


@pytest.mark.parametrize(
    ("max_steps", "between"), [(1, 1), (20, 20), (50, 50), (999, 50), (1000, 50), (1020, 51)]
)
def test_evaluations_are_few_by_default(max_steps: int, between: int) -> None:
    recipe = Recipe.from_dict({"task": TEXT, "max_steps": max_steps})
    assert recipe.evaluate_every == recipe.checkpoint_every == recipe.gradients_every == between


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "optimizer": st.sampled_from(["adamw", "sgd"]),
            "learning_rate": st.floats(0, 10),
            "weight_decay": st.floats(0, 1),
            "warmup_steps": st.integers(0, 100),
            "max_steps": st.integers(1, 10**6),
            "max_seconds": st.floats(0, 1e6),
            "evaluate_every": st.integers(0, 1000),
            "network": st.fixed_dictionaries(
                {},
                optional={
                    "cell": st.sampled_from(["lstm", "gru"]),
                    "hidden_size": st.integers(0, 512),
                    "chrono_steps": st.integers(2, 1000),
                    "dropout": st.floats(0, 0.9),
                },
            ),
            "seed": st.integers(0, 2**64 - 1),
        },
    )
)
def test_the_json_form_makes_an_equal_recipe(options: dict[str, Any]) -> None:
    recipe = Recipe.from_dict({"task": SERIES, **options})
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": -1}, "window must be an integer between 1 and 1048576, got -1"),
        ({"optimizer": "adam"}, "optimizer must be one of adamw, sgd, got 'adam'"),
        ({"momentum": 1}, "momentum must be at least 0 and below 1, got 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, got nan"),
        ({"widnow": 1}, "recipe has no 'widnow'"),
        ({"network": {"cells": 1}}, "network has no 'cells'"),
        ({"network": {"dropout": 1.0}}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"network": {"constant_bias": 1, "chrono_steps": 9}}, "exclude each other"),
        ({"network": {"layers": 1, "dropout": 0.1}}, "dropout acts between layers"),
        (
            {"network": {"projection": 256}},
            r"projection must be below hidden_size \(256\)",
        ),
        ({"task": {"type": "sing"}}, "task.type must be one of language_model, forecast"),
        ({"seed": 2**64}, "seed must be an integer between 0 and 18446744073709551615"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict({"task": TEXT, **options})


def test_a_recipe_needs_a_task() -> None:
    with pytest.raises(ConfigError, match="recipe must have a task, got none"):
        Recipe.from_dict({})
