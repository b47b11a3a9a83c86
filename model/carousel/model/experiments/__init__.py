"""The long-range tasks of the literature: which memory each cell has, in tables and plots."""

from carousel.model.experiments.command import main, report

__all__ = ["main", "report"]
