"""One stand for all tests that need the real Prometheus."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.stand import Stand, stand


@pytest.fixture(scope="package")
def running_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Server, exporter, Prometheus and a load of all kinds."""
    if shutil.which("prometheus") is None:
        pytest.skip("there is no Prometheus: apt-get install prometheus")
    folder: Path = tmp_path_factory.mktemp("stand")
    with stand(folder) as made:
        yield made
