"""Logs: one line an event, as JSON or as text, with the ids of the request that it belongs to."""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO, TypeGuard

from carousel.server.tracing import trace

REQUEST_ID_KEY = "x-request-id"
ROOT = "carousel"
TRACES = "opentelemetry"  # what exports traces speaks under its own name

# Set at the beginning of each request by the wrapper around the handlers.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_SANE = re.compile(r"[\x21-\x7e]{1,64}")
_SECRET = re.compile(
    r"authorization|password|passwd|secret|token$|api_?key|cookie|credential", re.I
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def take_request_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The caller's `x-request-id` when it is 1 to 64 printable characters, or else a new one."""
    for key, value in metadata or ():
        if key.lower() == REQUEST_ID_KEY and is_request_id(value):
            return value
    return secrets.token_hex(8)


def is_request_id(value: str | bytes) -> TypeGuard[str]:
    return isinstance(value, str) and _SANE.fullmatch(value) is not None


def configure(
    *, level: str = "info", style: str = "auto", stream: TextIO | None = None
) -> logging.Handler:
    """Send all that Carousel and OpenTelemetry log to `stream` (standard error): `json` or `text`.

    `auto` is text on a terminal and JSON elsewhere. Calling it again replaces the former choice.
    """
    out = sys.stderr if stream is None else stream
    as_json = style == "json" or (style == "auto" and not out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    for name in (ROOT, TRACES):
        logger = logging.getLogger(name)
        for former in logger.handlers[:]:
            logger.removeHandler(former)
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        logger.propagate = False  # an application around the server has its own root
    return handler


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the request's ids, the extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= _request()
        for name, value in _extra(record).items():
            # JSON has no NaN and no infinity, and a loss may well be one.
            finite = not isinstance(value, float) or math.isfinite(value)
            entry.setdefault(name, value if finite else str(value))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message, then `name=value` of each extra field; a trace follows below."""

    def format(self, record: logging.LogRecord) -> str:
        # What a caller sent may not begin a new line or move the cursor.
        parts = [_time(record), f"{record.levelname:<7}", _plain(record.getMessage())]
        fields = _extra(record) | _request()
        parts += [f"{name}={_plain(str(value))}" for name, value in fields.items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _request() -> dict[str, str]:
    """The ids of the request that is being handled: its own, and those of its trace."""
    own = request_id.get()
    return ({"request_id": own} if own else {}) | dict(trace.current.get().ids())


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`, secrets covered by their names."""
    return {
        name: "[hidden]" if _SECRET.search(name) else value
        for name, value in vars(record).items()
        if name not in _STANDARD
    }


def _plain(text: str) -> str:
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
