"""The long-range tasks of the literature, one file each."""

from carousel.model.experiments.tasks.adding import Adding
from carousel.model.experiments.tasks.copying import Copying
from carousel.model.experiments.tasks.digits import Digits, DigitsError
from carousel.model.experiments.tasks.order import Order
from carousel.model.experiments.tasks.task import Task

__all__ = ["Adding", "Copying", "Digits", "DigitsError", "Order", "Task"]
