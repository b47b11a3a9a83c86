"""What is learned in the rounds: data made on the spot, and recipes of a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from carousel.client import Classify, Forecast, LanguageModel, NetworkShape, Recipe

WORDS = ("the ", "carousel ", "turns ", "and ", "sessions ", "hop ", "on ", "off.\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A recipe and its data. `poisoned`: updates come to nothing on the way.

    `spoiled`: rows of the training part that are made NaN before the job's process reads them.
    """

    name: str
    data: Callable[[], str]
    format: str
    recipe: Recipe
    workers: int = 1
    poisoned: bool = False
    spoiled: range | None = None


def words() -> str:
    """About 70,000 characters."""
    return "".join(WORDS[i] for i in np.random.default_rng(5).integers(0, 8, 12_000))


def waves() -> str:
    """Two series of 3,000 hours; a tenth of the values is missing."""
    random = np.random.default_rng(3)
    rows = ["site,hour,load,wind"]
    for site in "ab":
        for hour in range(3000):
            load = f"{np.sin(hour / 7) * 3 + random.normal():.3f}" if random.random() > 0.1 else ""
            rows.append(f"{site},{hour},{load},{np.cos(hour / 9):.3f}")
    return "\n".join(rows) + "\n"


def tracks() -> str:
    """400 sequences of 3 to 20 steps, of three kinds."""
    random = np.random.default_rng(4)
    rows = ["track,kind,x,y"]
    for track in range(400):
        kind = int(random.integers(3))
        for x, y in random.normal(kind, 1.5, (random.integers(3, 21), 2)):
            rows.append(f"{track},{'abc'[kind]},{x:.3f},{y:.3f}")
    return "\n".join(rows) + "\n"


OFTEN = Recipe(
    task=LanguageModel(),
    checkpoint_every=25,
    evaluate_every=100,
    gradients_every=250,
    batch_size=8,
    window=24,
)
SERIES = Forecast("load", time_column="hour", group_column="site", horizon=3, season=24)

LESSONS = {
    lesson.name: lesson
    for lesson in (
        Lesson(
            name="words",
            data=words,
            format="text",
            recipe=replace(
                OFTEN,
                network=NetworkShape(
                    hidden_size=32, embedding_size=8, dropout=0.2, weight_dropout=0.2
                ),
                averaging="ema",
                max_steps=1000,
                keep_checkpoints=3,
            ),
        ),
        Lesson(
            name="waves",
            data=waves,
            format="csv",
            recipe=replace(
                OFTEN,
                task=SERIES,
                network=NetworkShape(cell="gru", hidden_size=24, learned_initial_state=True),
                optimizer="sgd",
                learning_rate=0.05,
                schedule="plateau",
                max_steps=1500,
                keep_checkpoints=1,
            ),
        ),
        Lesson(
            name="tracks",
            data=tracks,
            format="csv",
            recipe=replace(
                OFTEN,
                task=Classify(label_column="kind", sequence_column="track"),
                network=NetworkShape(hidden_size=24, dropout=0.1),
                averaging="mean",
                max_steps=1200,
                batch_size=16,
            ),
        ),
        Lesson(
            name="two-workers",
            data=words,
            format="text",
            recipe=replace(
                OFTEN,
                network=NetworkShape(hidden_size=24, embedding_size=8),
                max_steps=500,
            ),
            workers=2,
        ),
        # So high a rate that it overflows five times on its way, wherever it goes back to.
        Lesson(
            name="explodes",
            data=words,
            format="text",
            recipe=replace(
                OFTEN,
                network=NetworkShape(cell="rnn_relu", hidden_size=32, embedding_size=8),
                optimizer="sgd",
                learning_rate=8.0,
                schedule="constant",
                warmup_steps=300,
                clip_norm=0.0,
                checkpoint_every=30,
                evaluate_every=60,
                gradients_every=250,
                max_steps=900,
            ),
            poisoned=True,
        ),
        Lesson(
            name="spoiled",
            data=waves,
            format="csv",
            recipe=replace(
                OFTEN,
                task=SERIES,
                network=NetworkShape(hidden_size=24),
                max_steps=900,
                batch_size=4,
            ),
            poisoned=True,
            spoiled=range(900, 1000),
        ),
    )
}
