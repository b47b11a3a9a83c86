"""The status page in a real browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.cli import metric_views
from carousel.client import Client, GradientFlow, Session
from carousel.v1 import session_service_pb2, session_service_pb2_grpc
from tests.conftest import RunningServer, running
from tests.page.browser import Browser
from tests.page.conftest import EVIL, LONG
from tests.processes import until

STEPS, UNITS = 128, 24  # what the page asks for

PIXELS = """
(canvas) => {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const row = (y) => Array.from({ length: width }, (_, x) => 4 * (y * width + x));
  const rows = Array.from({ length: height }, (_, y) => row(y));
  return rows.map((places) => places.map((place) => [...data.slice(place, place + 4)]));
}
"""


@pytest.fixture
def spoken(client: Client) -> Iterator[Session]:
    """A session that read what would be markup."""
    with client.session("speaker", session_id="spoken") as session:
        yield session


def tell(browser: Browser, selector: str) -> str:
    return str(browser.evaluate(f"document.querySelector({selector!r}).innerText"))


def speak(session: Session, client: Client, text: str) -> None:
    [version] = [m for m in client.server_info().ready_versions if "speaker" in m]
    for token in client.tokenize(version, [text])[0]:
        session.step(int(token))


def test_numbers_move_while_a_client_steps(browser: Browser, url: str, client: Client) -> None:
    browser.open(url)
    browser.wait("document.querySelector('#state').innerText === 'all is well'")
    stop = threading.Event()

    def step() -> None:
        with client.session("tiny", session_id="mover") as session:
            while not stop.is_set():
                session.step(np.zeros(3, np.float32))

    thread = threading.Thread(target=step)
    thread.start()
    try:
        value = "parseFloat(document.querySelector('#tiles .value').innerText)"
        browser.wait(f"{value} > 0")
        row = "document.querySelector('#sessions-rows tr[data-key=\"sessions/mover\"]')"
        browser.wait(f"{row} !== null")
        steps = f"Number({row}.cells[2].innerText.replaceAll(',', ''))"
        first = browser.evaluate(steps)
        browser.wait(f"{steps} > {first}")
        browser.wait("document.querySelectorAll('#tiles svg path').length > 8")
    finally:
        stop.set()
        thread.join()
    browser.wait(f"{row} === null")


def test_a_heat_map_shows_the_values_of_inspect_session(
    browser: Browser, url: str, client: Client, spoken: Session, site: RunningServer
) -> None:
    browser.open(f"{url}#/sessions/spoken")
    browser.wait("document.querySelector('#inside-note').innerText.startsWith('It is watched')")
    speak(spoken, client, EVIL)
    last = spoken.step_index - 1
    browser.wait(f"document.querySelector('.readout')?.innerText.startsWith('Step {last} ')")
    with grpc.insecure_channel(site.target) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        inspected = stub.InspectSession(
            session_service_pb2.InspectSessionRequest(
                name="sessions/spoken", steps=STEPS, units=UNITS
            )
        )
    assert inspected.steps == len(EVIL)
    gate, signed = (
        pixels(browser, f"document.querySelectorAll('.legend canvas')[{i}]")[0] for i in (0, 1)
    )
    for number, layer in enumerate(inspected.layers):
        for one in layer.gates:
            values = tensors.decode(one.units, field="units").T  # [groups, T]
            selector = f".map canvas[data-layer='{number}'][data-gate='{one.name}']"
            canvas = f"document.querySelector({selector!r})"
            data = browser.evaluate(f"({{...{canvas}.dataset}})")
            low, high = float(data["low"]), float(data["high"])
            legend = gate if low == 0 else signed
            shown = read_off(pixels(browser, canvas), legend, low, high)
            np.testing.assert_allclose(
                shown[:, -inspected.steps :], values, atol=(high - low) / 60, err_msg=one.name
            )
            assert np.isnan(shown[:, : -inspected.steps]).all()
            assert float(data["last"]) == pytest.approx(one.means[-1], rel=1e-5)


def pixels(browser: Browser, canvas: str) -> Any:
    """Of a canvas: red, green, blue and opacity [rows, columns, 4]."""
    return np.array(browser.evaluate(f"({PIXELS})({canvas})"))


def read_off(seen: Any, legend: Any, low: float, high: float) -> Any:
    """The values [groups, T] of pixels, by the nearest colour of the legend; NaN: not painted."""
    distances = np.abs(seen[:, :, None, :3] - legend[None, None, :, :3]).sum(-1)
    values = low + (high - low) * distances.argmin(-1) / (len(legend) - 1)
    return np.where(seen[:, :, 3] == 0, np.nan, values)


def test_what_was_read_stays_text(
    browser: Browser, url: str, client: Client, spoken: Session
) -> None:
    browser.open(f"{url}#/sessions/spoken")
    browser.wait("document.querySelector('#inside-note').innerText.startsWith('It is watched')")
    speak(spoken, client, EVIL)
    browser.wait(f"document.querySelector('.read')?.innerText === {EVIL!r}")
    browser.wait("document.querySelector('#models-rows .bad') !== null")
    assert EVIL in browser.evaluate("document.querySelector('#models-rows .bad').title")
    browser.evaluate(f"location.hash = '#/sessions/' + encodeURIComponent({EVIL!r})")
    browser.wait("document.querySelector('#inside-note').innerText.includes('sessions/{id}')")
    assert "<img" in tell(browser, "#inside-note")
    assert browser.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert browser.evaluate("document.title") == "Carousel"
    # The browser itself notes the refusal of that session.
    assert all("400" in trouble for trouble in browser.troubles())
    browser.open(url)


def test_everything_is_reached_by_keyboard(
    browser: Browser, url: str, client: Client, spoken: Session
) -> None:
    browser.open(url)
    browser.wait("document.querySelector('#sessions-rows a') !== null")
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "sessions"
    for wanted in ("search-model", "search-id"):
        browser.press("Tab")
        assert browser.evaluate("document.activeElement.id") == wanted
    browser.type("spok")
    browser.wait("document.querySelector('#sessions-rows').rows.length === 1")
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.innerText") == "spoken"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter")
    browser.wait("document.querySelector('#inside-note').innerText.startsWith('It is watched')")
    assert browser.evaluate("document.activeElement.innerText") == "spoken"
    speak(spoken, client, "src=x")
    browser.wait("document.querySelector('.readout')?.innerText.startsWith('Step 4 ')")
    for _ in range(8):
        if browser.evaluate("document.activeElement.className") == "map":
            break
        browser.press("Tab")
    before = tell(browser, ".readout")
    browser.press("ArrowLeft")
    assert tell(browser, ".readout").startswith("Step 3 ")
    browser.press("Home")
    assert tell(browser, ".readout").startswith("Step 0 ")
    browser.press("Escape")
    assert tell(browser, ".readout") == before
    browser.press("ArrowDown")
    assert tell(browser, ".readout") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    browser: Browser, url: str, client: Client, spoken: Session, scheme: str
) -> None:
    browser.open(f"{url}#/sessions/spoken", scheme=scheme)
    browser.wait("document.querySelector('#inside-note').innerText.startsWith('It is watched')")
    speak(spoken, client, "src=x")
    browser.wait("document.querySelector('.read')?.innerText === 'src=x'")
    browser.wait("document.querySelector('#gates-rows tr') !== null")
    assert browser.violations() == []
    luminance = browser.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (max(luminance) < 64) is (scheme == "dark")


def test_a_phone_needs_no_sideways_scrolling(
    browser: Browser, url: str, client: Client, learned: str
) -> None:
    with client.session(LONG, session_id=LONG) as session:
        browser.open(f"{url}#/sessions/{LONG}", width=360, height=780)
        browser.wait("document.querySelector('#inside-note').innerText.startsWith('It is watched')")
        for token in [0, 1] * 70:
            session.step(token)
        browser.wait("document.querySelector('.readout')?.innerText.startsWith('Step 139 ')")
        browser.wait("document.querySelector('#gates-rows tr') !== null")
        browser.wait(f"document.querySelector('#job-title').innerText === {learned!r}")
        wide = "document.documentElement.scrollWidth"
        assert browser.evaluate(wide) == 360, browser.evaluate(
            "[...document.querySelectorAll('main *')]"
            ".filter((one) => one.getBoundingClientRect().right > 350)"
            ".map((one) => one.outerHTML.slice(0, 80))"
        )
        # Nothing sticks out of its card either.
        cards = "[...document.querySelectorAll('.card, .tile')]"
        assert browser.evaluate(f"{cards}.every((one) => one.scrollWidth <= one.clientWidth)")


def test_a_session_that_ended_is_said_once_and_asked_for_no_more(
    browser: Browser, url: str, client: Client
) -> None:
    note = "document.querySelector('#inside-note')"
    session = client.session("tiny", session_id=LONG)
    browser.open(f"{url}#/sessions/{LONG}", width=360, height=780)
    browser.wait(f"{note}.innerText.startsWith('It is watched')")
    session.close()
    browser.wait(f"{note}.innerText.includes('ended')")
    assert tell(browser, "#inside-note").startswith(f"session {LONG} has ended")
    card = f"{note}.closest('.card')"
    assert browser.evaluate(f"{card}.scrollWidth <= {card}.clientWidth")
    asked = len(browser.asked())
    until(lambda: sum("status.json" in one for one in browser.asked()[asked:]) >= 2)
    assert [one for one in browser.asked()[asked:] if LONG in one] == []
    [trouble] = browser.troubles()  # the browser itself notes the refusal
    assert "404" in trouble
    with client.session("tiny", session_id=LONG):
        browser.wait(f"{note}.innerText.startsWith('It is watched')")
    browser.open(url)


def test_a_search_counts_the_rows_that_it_shows(browser: Browser, url: str, client: Client) -> None:
    sessions = [client.session("tiny", session_id=f"seek-{i:02}") for i in range(20)]
    other = client.session("tiny", session_id="elsewhere")
    browser.open(url)
    search = "document.querySelector('#search-id')"
    for begins, rows, total in (
        ("seek-", 15, "15 of those found"),
        ("seek-0", 10, "10 found"),
        ("seek-00", 1, "1 found"),
    ):
        browser.evaluate(
            f"({search}.value = {begins!r}, {search}.dispatchEvent(new Event('input')))"
        )
        browser.wait(f"document.querySelector('#sessions-rows').rows.length === {rows}")
        browser.wait(f"document.querySelector('#sessions-total').innerText === {total!r}")
    for session in (*sessions, other):
        session.close()


def test_no_time_at_all_is_no_fraction_of_a_second(browser: Browser, url: str) -> None:
    browser.open(url)
    found = browser.evaluate("import('/page/quantities.js').then((m) => m.span(0))")
    assert found == "0 s"


@pytest.fixture(scope="module")
def learned(site: RunningServer) -> str:
    """A small job that has ended."""
    with Client(site.target) as client:
        data = client.datasets.upload(b"abab baba " * 400, id=LONG, format="text")
        recipe = {
            "task": {"type": "language_model"},
            "network": {"cell": "lstm", "layers": 2, "hidden_size": 8},
            "max_steps": 40,
            "evaluate_every": 2,
            "batch_size": 4,
            "window": 8,
            "validation_share": 0.1,
            "test_share": 0.1,
        }
        job = client.jobs.create(dataset=data.name, recipe=recipe, id=f"job-{LONG}"[:63])
        return client.jobs.wait(job.name).id


def test_a_job_s_charts_end_at_its_last_numbers(
    browser: Browser, url: str, client: Client, learned: str
) -> None:
    browser.open(url)
    browser.wait("document.querySelectorAll('.chart svg path').length > 4")
    labels = browser.evaluate(
        "[...document.querySelectorAll('.chart svg')].map((one) => one.getAttribute('aria-label'))"
    )
    job = client.jobs.get(learned)
    assert job.progress is not None
    assert f"training is {job.progress.loss:.3g} at {job.progress.step}" in labels[0]
    flows = [event.what for event in client.jobs.watch(learned)]
    flow = [one for one in flows if isinstance(one, GradientFlow)][-1]
    norm = flow.layers[1].cell_norms[-1]
    assert f"layer 1 is {norm:.3g} at {len(flow.layers[1].cell_norms) - 1}" in labels[2]
    text = tell(browser, "#jobs-rows")
    assert "succeeded" in text
    assert f"{job.progress.loss:.3g}" in text


def test_no_request_leaves_the_origin(
    browser: Browser, url: str, client: Client, spoken: Session, learned: str
) -> None:
    browser.open(f"{url}#/sessions/spoken")
    browser.wait(f"document.querySelector('#job-title').innerText === {learned!r}")
    browser.wait("document.querySelector('#inside-note').innerText.startsWith('It is watched')")
    asked = browser.asked()
    assert any("/page/sessions/spoken.json" in one for one in asked)
    assert [one for one in asked if not one.startswith(url)] == []


def test_the_page_says_when_the_server_is_gone_and_goes_on_when_it_is_back(
    chromium: Browser, tmp_path: Path, model_store: Path
) -> None:
    browser = chromium
    with running(store=model_store, shipped=False) as first:
        port = first.server.http_port
        browser.open(f"http://localhost:{port}/")
        browser.wait("document.querySelector('#state').innerText === 'all is well'")
        before = tell(browser, "#facts")
    browser.wait("document.querySelector('#state').innerText.includes('does not answer')")
    with running(store=model_store, shipped=False, http_port=port):
        browser.wait("document.querySelector('#state').innerText === 'all is well'")
        until(lambda: tell(browser, "#facts").split("instance")[1] != before.split("instance")[1])


@pytest.mark.parametrize("status", [200, 500, 502])
def test_an_answer_that_is_not_json_is_said_and_the_page_goes_on(
    browser: Browser, url: str, spoken: Session, status: int
) -> None:
    browser.open(f"{url}#/sessions/spoken")
    browser.wait("document.querySelector('#state').innerText === 'all is well'")
    answer = f"new Response('<p>Bad Gateway</p>', {{ status: {status} }})"
    browser.evaluate(f"(window.theirs = fetch, window.fetch = async () => {answer}, 0)")
    browser.wait("document.querySelectorAll('.card.stale').length >= 4")
    browser.wait("document.body.classList.contains('stale')")
    assert f"status {status} and no JSON" in tell(browser, "#state")
    browser.evaluate("(window.fetch = theirs, 0)")
    browser.wait("document.querySelector('#state').innerText.startsWith('all is well')")
    browser.wait("document.querySelectorAll('.stale:not(:has(#models-title))').length === 0")


def test_quantiles_are_those_of_the_command_line(browser: Browser, url: str) -> None:
    browser.open(url)
    buckets = [("0.001", 3), ("0.01", 10), ("0.1", 40), ("+Inf", 41)]
    one = {"labels": {}, "count": 41, "sum": 1.0, "buckets": buckets}
    nothing = {**one, "count": 0, "sum": 0.0, "buckets": [[bound, 0] for bound, _ in buckets]}
    looks = json.dumps(
        [
            {"time": time, "numbers": {"carousel_x": [series]}}
            for time, series in ((0, nothing), (2, one))
        ]
    )
    pairs = [(float(bound), float(number)) for bound, number in buckets]
    for share in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0):
        found = browser.evaluate(
            f"import('/page/rates.js').then((m) => m.quantile({share}, 'x')(...{looks}))"
        )
        assert found == pytest.approx(metric_views.quantile(pairs, share))
