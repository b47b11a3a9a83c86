"""Logs: one line an event, its request's id, no secret, nothing a caller could forge."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from carousel.server import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (logs.ROOT, logs.TRACES)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    token = logs.request_id.set("")
    yield
    logs.request_id.reset(token)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(style: str, message: str, *args: object, stream: io.StringIO, **extra: object) -> str:
    logs.configure(level="info", style=style, stream=stream)
    logging.getLogger("carousel.test").info(message, *args, extra=extra)
    return stream.getvalue()


def test_json_lines_hold_the_event_its_fields_and_its_request() -> None:
    logs.request_id.set("abc")
    line = logged("json", "loaded %s", "tiny", stream=io.StringIO(), sessions=3, loss=float("nan"))
    entry = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "carousel.test",
        "message": "loaded tiny",
        "request_id": "abc",
        "sessions": 3,
        "loss": "nan",
    }


def test_a_field_never_replaces_what_every_line_has() -> None:
    entry = json.loads(logged("json", "x", stream=io.StringIO(), level="fatal", time=0))
    assert entry["level"] == "info"
    assert entry["time"] != 0


def test_text_lines_hold_the_same() -> None:
    logs.request_id.set("abc")
    line = logged("text", "loaded", stream=io.StringIO(), sessions=3)
    assert line.endswith("INFO    loaded sessions=3 request_id=abc\n")


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    assert logged("auto", "x", stream=io.StringIO()).startswith("{")
    assert not logged("auto", "x", stream=Terminal()).startswith("{")


@pytest.mark.parametrize("style", ["json", "text"])
def test_what_a_caller_sent_can_not_forge_a_line(style: str) -> None:
    forged = "x\n2026-01-01 INFO all is well\u2028\x1b[2J"
    line = logged(style, "no model %s", forged, stream=io.StringIO(), name_given=forged)
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("style", ["json", "text"])
def test_fields_with_secret_names_are_covered(style: str) -> None:
    fields = {"authorization": "s3cret", "db_password": "s3cret", "api_key": "s3cret"}
    line = logged(style, "x", stream=io.StringIO(), **fields)
    assert "s3cret" not in line
    assert "[hidden]" in line


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_trace_is_kept(style: str) -> None:
    stream = io.StringIO()
    logs.configure(style=style, stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("carousel.test").exception("failed")
    assert "ValueError: broken" in stream.getvalue()
    assert "Traceback" in stream.getvalue()


def test_the_level_holds_and_a_second_configuration_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure(level="info", style="text", stream=first)
    logs.configure(level="error", style="text", stream=second)
    logging.getLogger("carousel.test").warning("one")
    logging.getLogger("carousel.test").error("two")
    assert first.getvalue() == ""
    assert "one" not in second.getvalue()
    assert "two" in second.getvalue()


def test_a_sane_request_id_of_the_caller_is_taken() -> None:
    assert logs.take_request_id([("x-request-id", "Trace/42")]) == "Trace/42"
    assert logs.take_request_id([("x-request-id", "y" * 64)]) == "y" * 64


@pytest.mark.parametrize("value", ["", "y" * 65, "two words", "new\nline", "ü", b"bytes"])
def test_any_other_request_id_is_replaced(value: str | bytes) -> None:
    made = logs.take_request_id([("x-request-id", value)])
    assert made not in ("", value)
    assert len(made) == 16


def test_request_ids_that_are_made_differ() -> None:
    assert logs.take_request_id(()) != logs.take_request_id(None)
