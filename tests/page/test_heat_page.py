"""The page of heat maps that `carousel trace --html` writes, in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from carousel.cli.heat import HeatMap, bands
from carousel.cli.heat_page import write
from tests.page.browser import Browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_zero_is_as_the_page(browser: Browser, tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "heat.html"
    values = np.array([[-1], [0], [1]], np.float32)
    write(HeatMap("", bands([{"hidden": values}], groups=1), list("abc")), file)
    browser.open(file.as_uri(), scheme=scheme)
    low, zero, high = browser.evaluate(
        "[0, 1, 2].map((step) => [...document.querySelector('canvas').getContext('2d')"
        ".getImageData(step, 0, 1, 1).data.slice(0, 3)])"
    )
    ground = browser.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert zero == ground
    assert zero not in (low, high)
    assert low != high
