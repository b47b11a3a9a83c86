"""`carousel exporter` from the outside."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import RunningServer
from tests.exporter.scrape import families, get, samples
from tests.processes import PATIENCE

from .conftest import COMMAND, Command, environment


@contextmanager
def exporter(*words: str, **variables: str) -> Iterator[str]:
    """Where it listens; at the end it is asked to go, and goes."""
    process = subprocess.Popen(
        [*COMMAND, "exporter", "--json", "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield json.loads(process.stdout.readline())["http"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_it_shows_servers_and_its_own_health_until_it_is_ended(own_server: RunningServer) -> None:
    with exporter("--target", own_server.target, "--target", "localhost:1") as url:
        assert url.startswith("http://localhost:")
        assert get(f"{url}/healthz")[0] == "alive\n"
        assert get(f"{url}/readyz")[0] == "ready\n"
        found = samples(families(url))
        up = {
            dict(labels)["target"]: value
            for (name, labels), value in found.items()
            if name == "carousel_exporter_up"
        }
        assert up == {own_server.target: 1, "localhost:1": 0}
        names = {name for name, _ in found}
        assert {"carousel_steps_total", "carousel_exporter_build_info"} <= names


def test_options_can_stand_in_the_environment(own_server: RunningServer) -> None:
    variables = {
        "CAROUSEL_EXPORTER_TARGET": f"{own_server.target}, localhost:1",
        "CAROUSEL_EXPORTER_HOST": "127.0.0.1",
        "CAROUSEL_EXPORTER_TIMEOUT": "2",
    }
    with exporter(**variables) as url:
        assert url.startswith("http://127.0.0.1:")
        names = [name for name, _ in samples(families(url))]
        assert names.count("carousel_exporter_up") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "unless the flag --insecure is given"),
        (["--target", "nowhere"], "a target must be host:port or dns:host:port, got 'nowhere'"),
        (["--port", "70000"], "the port must be 0 to 65535"),
    ],
)
def test_what_can_not_be_meant_is_wrong_usage(
    inside: Command, words: list[str], message: str
) -> None:
    done = inside("exporter", *words)
    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.replace("│", " ").split())


def test_without_its_package_it_says_what_to_install() -> None:
    """None in sys.modules makes an import fail as if the package were not there."""
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "sys.argv = ['carousel', 'exporter']\n"
        "from carousel.cli import main; main()"
    )
    done = subprocess.run(
        [COMMAND[0], "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "pip install 'carousel-rnn[exporter]'" in done.stderr
