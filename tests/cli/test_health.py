"""`carousel health`, as a container asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.papers import Papers
from tests.ports import free_port

from carousel.exposition import Answer, Certificate, Files, HttpServer

from .conftest import Command


@contextmanager
def answering(code: int, certificate: Certificate | None = None) -> Iterator[int]:
    routes = {"/readyz": lambda request: Answer(b"so it is\n", code=code)}
    server = HttpServer("localhost", 0, routes, certificate=certificate)
    server.start()
    yield server.port
    server.stop()


@pytest.mark.parametrize("mutual", [None, False, True], ids=["http", "https", "mutual TLS"])
def test_it_says_whether_a_server_is_ready_whatever_it_speaks(
    mutual: bool | None, inside: Command, papers: Papers
) -> None:
    ca: Path | None = papers.cert("ca") if mutual else None
    certificate = (
        None
        if mutual is None
        else Certificate(Files(papers.cert("server"), papers.key("server"), ca))
    )
    with answering(200, certificate) as port:
        done = inside("health", "--http-port", port)
        assert (done.code, done.out) == (0, "so it is\n")
        assert inside("health", "--json", CAROUSEL_HTTP_PORT=str(port)).json == {"ready": True}
    with answering(503, certificate) as port:
        assert inside("health", "--http-port", port).code == 1


def test_where_nobody_answers_it_is_exit_code_3(inside: Command) -> None:
    done = inside("health", "--http-port", free_port())
    assert (done.code, done.out) == (3, "")
    assert "nobody answers" in done.err
