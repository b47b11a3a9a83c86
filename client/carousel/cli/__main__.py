"""`python -m carousel.cli`: the same as the `carousel` command."""

from carousel.cli import main

main()
