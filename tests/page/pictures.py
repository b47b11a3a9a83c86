"""Pictures for the documents: the page and `carousel top`, of a server at work.

    python -m tests.page.pictures

writes docs/images/page-*.png and docs/images/top.svg. It takes a minute and a half.
"""

from __future__ import annotations

import itertools
import pydoc_data.topics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from carousel.client import Client
from tests.conftest import RunningServer, running
from tests.page.browser import Browser
from tests.processes import until
from tests.terminal import Terminal

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PROMPTS = {
    "alice": "In the beginning God created the heaven and the earth. ",
    "bob": "And Moses said unto Pharaoh, Let my people go, ",
}
OBSERVATORIES = 10
PAUSE = 0.05
WATCHED = 15.0  # seconds, for curves
WIDTH, HEIGHT = 132, 36


def talk(client: Client, name: str, stop: threading.Event) -> None:
    """A session that reads its prompt, and then goes on in its own words."""
    with client.session("king-james", session_id=name) as session:
        prompt = PROMPTS[name]
        for seed in itertools.count(1):
            if stop.wait(2 * PAUSE):
                return
            for _ in session.generate(prompt, max_tokens=2, temperature=0.7, seed=seed):
                prompt = ""


def observe(client: Client, name: str, stop: threading.Event) -> None:
    """A session that forecasts from its own forecasts, and noise."""
    random = np.random.default_rng(len(name))
    with client.session("sunspots", session_id=name) as session:
        number = 50.0
        while not stop.wait(PAUSE):
            number = float(session.step([max(0.0, number + random.normal(0, 8))])[0])


def train(client: Client) -> None:
    text = "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    data = client.datasets.upload(text.encode(), id="python-docs", format="text")
    recipe = {
        "task": {"type": "language_model"},
        "network": {"cell": "lstm", "layers": 2, "hidden_size": 64},
        "max_steps": 4000,
        "max_duration": 120.0,
        "batch_size": 16,
        "window": 48,
        "learning_rate": 0.005,
        "validation_share": 0.05,
        "test_share": 0.05,
    }
    client.jobs.create(dataset=data.name, recipe=recipe, model="python-docs", id="python-docs-1")


@contextmanager
def busy(server: RunningServer) -> Iterator[None]:
    """With sessions that step, and a job that learns."""
    stop = threading.Event()
    works: list[tuple[Callable[..., None], str]] = [(talk, name) for name in PROMPTS]
    works += [(observe, f"observatory-{i:02}") for i in range(OBSERVATORIES)]
    with Client(server.target) as client:
        threads = [threading.Thread(target=work, args=(client, n, stop)) for work, n in works]
        for thread in threads:
            thread.start()
        try:
            train(client)
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def page(browser: Browser, url: str, name: str, **more: object) -> None:
    browser.open(f"{url}#/sessions/alice", **more)
    browser.wait("document.querySelector('.readout')?.innerText.startsWith('Step ')")
    browser.wait("document.querySelectorAll('.chart svg path').length > 5", seconds=60)
    time.sleep(WATCHED)
    browser.picture(IMAGES / name, full=more.get("width") != 360)
    with Image.open(IMAGES / name) as picture:  # a third of the bytes
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(IMAGES / name, optimize=True)


def top(target: str) -> None:
    command = [sys.executable, "-m", "carousel.cli", "top", "--server", target, "-i", "1s"]
    with Terminal(command, width=WIDTH, height=HEIGHT) as terminal:
        until(lambda: "steps/s" in terminal.text() and "gates" in terminal.text())
        time.sleep(WATCHED)
        seen = terminal.text(colours=True)
    out = Console(record=True, width=WIDTH, file=open("/dev/null", "w"))  # noqa: SIM115
    out.print(Text.from_ansi(seen.rstrip()))
    out.save_svg(str(IMAGES / "top.svg"), title="carousel top")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as store, running(store=store) as server:
        url = f"http://localhost:{server.server.http_port}/"
        with busy(server), Browser() as browser:
            page(browser, url, "page-light.png", height=1150)
            page(browser, url, "page-dark.png", height=1150, scheme="dark")
            page(browser, url, "page-phone.png", width=360, height=780, density=2)
            top(server.target)
    for file in sorted(IMAGES.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
