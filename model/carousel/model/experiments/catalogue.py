"""The experiments by name: which task, for how long, and what others have published."""

from collections.abc import Callable
from dataclasses import dataclass

from carousel.model.experiments.tasks import Adding, Copying, Digits, Order, Task

BAI = "Bai et al. 2018 (arXiv:1803.01271)"
ADDING = f"at T = 600: RNN 0.177, LSTM 0.164 (not learned), GRU 0.00005; {BAI}"
COPYING = f"loss at T = 1,000: RNN 0.0202, LSTM 0.0204, GRU 0.0197 (guessing 0.0204); {BAI}"
ORDER = "LSTM learns all of it; Hochreiter & Schmidhuber 1997, experiment 6a"
DIGITS = f"sequential MNIST, 784 steps of one pixel: RNN 21.5 %, LSTM 87.2 %, GRU 96.2 %; {BAI}"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A task that every network learns with the same settings; `updates` is the most it may take.

    `published` are the figures of others, at lengths and sizes that are mostly not ours.
    """

    task: Callable[[], Task]
    updates: int
    rate: float
    published: str
    hidden: int = 64


EXPERIMENTS: dict[str, Experiment] = {
    "adding-50": Experiment(lambda: Adding(50), 4000, 3e-3, ADDING),
    "adding-100": Experiment(lambda: Adding(100), 4000, 3e-3, ADDING),
    "adding-200": Experiment(lambda: Adding(200), 4000, 3e-3, ADDING),
    "copying-20": Experiment(lambda: Copying(20), 8000, 3e-3, COPYING),
    "copying-100": Experiment(lambda: Copying(100), 8000, 3e-3, COPYING),
    "order-30": Experiment(Order.short, 3000, 3e-3, ORDER),
    "order-100": Experiment(Order, 4000, 3e-3, ORDER),
    "digits": Experiment(Digits.read, 1200, 3e-3, DIGITS),
}
GRADIENTS = "gradients"  # how far the gradient travels in networks that have learned nothing
NAMES = (GRADIENTS, *EXPERIMENTS)
