"""Tests of the server of one process, again: each server that they start has two front ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def through_front_ends() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAROUSEL_FRONTENDS", "2")
        yield
