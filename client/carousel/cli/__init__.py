"""The `carousel` command."""

from carousel.cli.app import main

__all__ = ["main"]
