"""A recipe and a corpus to weights: the loop, its checkpoints and events."""

from carousel.model.training.errors import CheckpointError, DivergedError, TrainingError
from carousel.model.training.evaluate import Evaluation, Evaluator
from carousel.model.training.recipe import NetworkShape, Recipe
from carousel.model.training.trainer import Trainer, make_network

__all__ = [
    "CheckpointError",
    "DivergedError",
    "Evaluation",
    "Evaluator",
    "NetworkShape",
    "Recipe",
    "Trainer",
    "TrainingError",
    "make_network",
]
