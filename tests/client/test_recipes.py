"""Recipes: what people write, as the messages of the contract, and back."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from carousel.client import Classify, Forecast, LanguageModel, NetworkShape, Recipe, Tag
from carousel.client._training_recipe import from_message, to_message
from carousel.errors import InvalidField
from carousel.v1 import training_pb2 as pb

FULL = Recipe(
    task=Forecast(
        ["load", "wind"],
        features=["temperature"],
        time_column="hour",
        group_column="site",
        horizon=24,
        season=168,
    ),
    network=NetworkShape(
        cell="gru",
        layers=3,
        hidden_size=128,
        embedding_size=16,
        projection=32,
        dropout=0.1,
        weight_dropout=0.3,
        learned_initial_state=True,
        chrono_steps=400,
    ),
    optimizer="sgd",
    learning_rate=0.25,
    momentum=0.0,
    weight_decay=0.0,
    schedule="plateau",
    warmup_steps=0,
    final_share=0.5,
    max_steps=700,
    max_epochs=9,
    max_duration=timedelta(seconds=90),
    batch_size=8,
    window=48,
    clip_norm=0.0,
    evaluate_every=70,
    patience=3,
    checkpoint_every=35,
    keep_checkpoints=4,
    gradients_every=140,
    averaging="ema",
    precision="bfloat16",
    seed=11,
    validation_share=0.2,
    test_share=0.0,
)


@pytest.mark.parametrize(
    "recipe",
    [
        FULL,
        Recipe(task=LanguageModel()),
        Recipe(task=LanguageModel(tokenization="subwords", vocabulary=512)),
        Recipe(task=Classify(label_column="digit", sequence_column="image")),
        Recipe(
            task=Tag(label_column="tag", features="word"), network=NetworkShape(constant_bias=0)
        ),
    ],
)
def test_a_recipe_survives_the_wire(recipe: Recipe) -> None:
    assert from_message(pb.Recipe.FromString(to_message(recipe).SerializeToString())) == recipe


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (Recipe, pb.Recipe),
        (NetworkShape, pb.NetworkShape),
        (LanguageModel, pb.LanguageModelTask),
        (Forecast, pb.ForecastTask),
        (Classify, pb.ClassifyTask),
        (Tag, pb.TagTask),
    ],
)
def test_a_recipe_has_every_field_of_the_contract(ours: Any, message: Any) -> None:
    tasks = {"language_model", "forecast", "classify", "tag"}
    wanted = {field.name for field in message.DESCRIPTOR.fields}
    if ours is Recipe:
        wanted = (wanted - tasks) | {"task"}
    assert {field.name for field in fields(ours) if field.init} == wanted


def test_what_is_not_said_is_left_to_the_server() -> None:
    assert to_message(Recipe(task=LanguageModel())) == pb.Recipe(
        language_model=pb.LanguageModelTask(), network=pb.NetworkShape()
    )


def test_zero_is_said_where_it_means_something() -> None:
    message = to_message(FULL)
    for name in ("momentum", "weight_decay", "warmup_steps", "clip_norm", "test_share"):
        assert message.HasField(name), name


def test_a_mapping_is_as_good_as_a_recipe() -> None:
    given = {"task": {"type": "forecast", "targets": "load"}, "network": {"layers": 1}, "seed": 3}
    assert Recipe.of(given) == Recipe(task=Forecast("load"), network=NetworkShape(layers=1), seed=3)
    assert Recipe.of(FULL) is FULL


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({}, "recipe", "task"),
        ({"task": {"type": "guess"}}, "recipe.task", "'guess'"),
        ({"task": {"type": "forecast"}}, "recipe.task", "targets"),
        ({"task": {"type": "tag", "label": "x"}}, "recipe.task.label", "label_column"),
        ({"task": {"type": "tag"}, "lr": 0.1}, "recipe.lr", "learning_rate"),
        ({"task": {"type": "tag"}, "optimizer": "adam"}, "optimizer", "adamw or sgd"),
        ({"task": {"type": "tag"}, "max_steps": -1}, "max_steps", "-1"),
        ({"task": {"type": "tag"}, "window": "long"}, "window", "'long'"),
        (
            {"task": {"type": "tag"}, "network": {"constant_bias": 1.0, "chrono_steps": 9}},
            "recipe.network.forget_bias",
            "either",
        ),
    ],
)
def test_what_no_recipe_can_be_is_refused(given: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(InvalidField) as caught:
        Recipe.of(given)
    assert caught.value.field == field
    assert said in caught.value.message
