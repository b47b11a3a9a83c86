"""Heat maps of gates: in a terminal, as a page and as a picture, all with the values of a trace."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.conftest import RunningServer

from carousel.cli.heat import HeatMap, bands, surprises
from carousel.cli.heat_figure import draw
from carousel.cli.heat_page import write
from carousel.cli.heat_terminal import HeatView
from carousel.client import Client

from .conftest import Command

TEXT = "the sun</script> & b"
PLAIN = "the quick brown fox jumps"


class Page(HTMLParser):
    """The tags of a page, what they refer to, and the data in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.refers: list[str] = []
        self.data: Any = None
        self._in_data = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.refers += [value or "" for name, value in attrs if name in ("src", "href")]
        self._in_data = ("id", "data") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data = json.loads(data)


def test_a_page_has_every_unit_of_a_trace_and_asks_for_nothing(
    inside: Command, tmp_path: Path
) -> None:
    file = tmp_path / "gates.html"
    done = inside("trace", "writer", PLAIN, "--html", file)
    assert (done.code, f"{file} shows more of it" in done.out) == (0, True)
    text = file.read_text()
    page = Page(text)
    assert page.refers == []
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text
    assert page.data["labels"] == list(PLAIN)
    with Client(inside.target) as client:
        trace = client.trace("writer", PLAIN)
    surprise, *seen = page.data["bands"]
    assert {band["name"] for band in seen} == set(trace.layers[0])
    for band in seen:
        wanted = trace.layers[band["layer"]][band["name"]]
        np.testing.assert_allclose(band["values"], wanted, rtol=1e-4, atol=1e-5)
        assert band["low"] - 1e-4 <= np.min(band["values"])
        assert np.max(band["values"]) <= band["high"] + 1e-4
    assert (surprise["layer"], surprise["values"][0]) == (None, [None])
    assert np.isfinite(np.asarray(surprise["values"][1:], float)).all()


def test_a_label_cannot_break_out_of_a_page(tmp_path: Path) -> None:
    values = np.zeros((len(TEXT), 3), np.float32)
    made = HeatMap("<b>title</b>", bands([{"hidden": values}], groups=3), list(TEXT))
    write(made, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert page.data["labels"] == list(TEXT)
    assert "b" not in page.tags
    assert page.tags.count("script") == 2


def test_a_picture_shows_more_than_one_colour(inside: Command, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    file = tmp_path / "gates.png"
    assert inside("trace", "writer", PLAIN, "--png", file, "--json").json["symbols"] == list(PLAIN)
    pixels = image.imread(file)
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50


@pytest.mark.parametrize(("layers", "units"), [(1, 3), (2, 512), (12, 512)])
def test_a_picture_is_never_taller_than_a_screen_shows(
    tmp_path: Path, layers: int, units: int
) -> None:
    image = pytest.importorskip("matplotlib.image")
    values = np.random.default_rng(5).standard_normal((16, units)).astype(np.float32)
    gates: dict[str, Any] = dict.fromkeys(("input", "forget", "output", "candidate"), values)
    gates |= {"cell": values, "hidden": values}
    made = HeatMap("", bands([gates] * layers, groups=16), list("a" * 16))
    draw(made, tmp_path / "made.png")
    height, width, _ = image.imread(tmp_path / "made.png").shape
    assert height <= 14 * 150
    assert width == 12 * 150


def rendered(heat: HeatMap, width: int = 60) -> list[list[tuple[str, Any]]]:
    """Lines of characters and their styles, on a terminal with all colours."""
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width
    )
    lines: list[list[tuple[str, Any]]] = [[]]
    for segment in console.render(HeatView(heat)):
        for character in segment.text:
            if character == "\n":
                lines.append([])
            else:
                lines[-1].append((character, segment.style))
    return [line for line in lines if line]


def test_a_terminal_shows_every_value_in_its_colour() -> None:
    gate = np.random.default_rng(1).random((20, 4)).astype(np.float32)
    heat = HeatMap("", bands([{"forget": gate}], groups=4), list("twenty characters or"))
    *cells, axis = rendered(heat)
    assert "".join(c for c, _ in axis).strip() == "twenty·characters·or"
    assert "".join(c for c, _ in cells[0]).startswith("0 forget")
    anchors = np.array(
        [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in heat.bands[0].colours], float
    )
    places = np.linspace(0, 1, len(anchors))
    for line, row in enumerate(cells):
        for step, (character, style) in enumerate(row[-20:]):
            assert character == "▀"
            for colour, unit in ((style.color, 2 * line), (style.bgcolor, 2 * line + 1)):
                wanted = [np.interp(gate[step, unit], places, anchors[:, i]) for i in range(3)]
                np.testing.assert_allclose(colour.triplet, wanted, atol=1)


def test_what_is_wider_than_the_terminal_goes_on_below() -> None:
    gate = np.zeros((200, 2), np.float32)
    lines = rendered(HeatMap("", bands([{"forget": gate}], groups=2), list("ab" * 100)))
    axes = ["".join(c for c, _ in line).strip() for line in lines if line[-1][0] in "ab"]
    assert "".join(axes) == "ab" * (4 * 44 // 2)
    assert "24 more steps" in "".join(c for c, _ in lines[-1])


def test_without_colours_there_are_shades_and_no_escape_codes(carousel: Command) -> None:
    done = carousel("trace", "tiny", "--file", "-", stdin="1,2,3\n9,9,9\n")
    assert "\x1b" not in done.out
    assert "0 forget" in done.out
    assert "▀" not in done.out
    assert "step" in done.out


def test_surprise_is_the_loss_by_the_step_before() -> None:
    logits = np.random.default_rng(3).standard_normal((5, 7))
    tokens = [1, 6, 0, 3, 3]
    nats = surprises(logits, tokens)
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.isnan(nats[0])
    wanted = [-np.log(likelihood[t - 1, tokens[t]]) for t in range(1, 5)]
    np.testing.assert_allclose(nats[1:], wanted, rtol=1e-5)


def test_a_session_is_inspected(inside: Command) -> None:
    inside("sessions", "create", "writer", "--id", "seen")
    first = inside("sessions", "inspect", "seen")
    assert "no step has come" in first.out
    inside("step", "seen", "abc")
    shown = inside("sessions", "inspect", "seen")
    assert "0 update" in shown.out
    assert "abc" in shown.out
    assert "surprise" in shown.out
    found = inside("sessions", "inspect", "seen", "--json", "--units", 16).json
    assert (found["first_step"], found["steps"], len(found["tokens"])) == (0, 3, 3)
    assert found["surprises"][0] is None
    with Client(inside.target) as client:
        trace = client.trace("writer", "abc").layers[0]["update"]
    update = found["layers"][0]["gates"]["update"]
    np.testing.assert_allclose(update["units"], trace, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(update["means"], trace.mean(axis=1), rtol=1e-4)
    alone = inside("sessions", "inspect", "seen", "--steps", 0, "--json").json
    assert (alone["steps"], alone["watched_until"]) == (0, None)


def test_following_goes_on_until_the_session_ends(
    own_server: RunningServer, inside: Command
) -> None:
    inside("sessions", "create", "writer", "--id", "followed")
    from carousel.cli.inspect_view import Looks

    with Client(own_server.target) as client:
        seen = Looks(client, "followed", steps=4, units=2).follow()
        assert next(seen).steps == 0
        inside("step", "followed", "ab")
        assert next(seen).steps == 2
        client.delete_session("followed")
        assert list(seen) == []
