"""Records: what the engine's process and a front end say to each other over their link.

A request travels as the columns that its caller sent, which to read costs next to nothing; an
answer as the engine's columns, of which the front end makes the message.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.rpc import status_pb2

from carousel.errors import CarouselError, flat_metadata, from_parts, from_status, to_status
from carousel.server.health_policy import HealthRule
from carousel.server.notices import Notice
from carousel.server.work import Answer, Work

# From a front end to the engine
READY, STEP, GONE, OPEN, CLOSE, COUNTS, LOG = range(1, 8)
# From the engine to a front end
BEGIN, ANSWER, RESPONSE, REFUSED, OPENED, DRAIN, STOP = range(11, 18)

_NAMED = struct.Struct("<BQ")  # kind; number of a call or a stream
# kind, call, its stream (0: none), deadline on the clock of time.monotonic, which all share,
# lengths of the tenant's name, of the party's where there is no tenant, and of the request's id
_STEP = struct.Struct("<BQQdBBB")
# kind, call, time of expiry, items, rows, width, whether there are lengths, and durable indexes
_ANSWER = struct.Struct("<BQdIII??")
_SECONDS = struct.Struct("<Bd")


def kind_of(record: bytes) -> int:
    return record[0]


def named(kind: int, number: int, body: bytes = b"") -> bytes:
    """A record about one call or stream."""
    return _NAMED.pack(kind, number) + body


def read_named(record: bytes) -> tuple[int, bytes]:
    return _NAMED.unpack_from(record)[1], record[_NAMED.size :]


def plain(kind: int, value: Any) -> bytes:
    """A record of what is seldom said."""
    return bytes((kind,)) + json.dumps(value).encode()


def read_plain(record: bytes) -> Any:
    return json.loads(record[1:])


def stop(grace: float) -> bytes:
    return _SECONDS.pack(STOP, grace)


def read_stop(record: bytes) -> float:
    return float(_SECONDS.unpack(record)[1])


def step(
    call: int,
    message: bytes,
    *,
    stream: int,
    deadline: float,
    tenant: str,
    party: str,
    request_id: str,
) -> bytes:
    """A request for steps."""
    who, which = tenant.encode(), request_id.encode()
    whose = b"" if tenant else party.encode()[:255]
    head = _STEP.pack(STEP, call, stream, deadline, len(who), len(whose), len(which))
    return b"".join((head, who, whose, which, message))


def read_step(record: bytes) -> tuple[int, int, float, str, str, str, bytes]:
    """The call, its stream, deadline, tenant, party, request's id and message."""
    _, call, stream, deadline, *lengths = _STEP.unpack_from(record)
    ends = list(itertools.accumulate(lengths, initial=_STEP.size))
    who, whose, which = (record[a:b].decode() for a, b in itertools.pairwise(ends))
    return call, stream, deadline, who, who or whose, which, record[ends[-1] :]


def answer(call: int, given: Answer) -> bytes:
    """What a turn finished of a call."""
    rows, width = given.outputs.shape
    lengths, durable = given.lengths, given.durable
    head = _ANSWER.pack(
        ANSWER,
        call,
        given.expire_time,
        len(given.items),
        rows,
        width,
        lengths is not None,
        durable is not None,
    )
    parts = [head, given.items.astype("<u4").tobytes()]
    if lengths is not None:
        parts.append(lengths.astype("<u4").tobytes())
    if durable is not None:
        parts.append(durable.astype("<i8").tobytes())
    parts.append(given.outputs.tobytes())
    if given.errors or given.notices:
        parts.append(json.dumps(_rarities(given)).encode())
    return b"".join(parts)


def call_of(record: bytes) -> int:
    """Of an answer, a response or a refusal."""
    return int(_NAMED.unpack_from(record)[1])


def read_answer(record: bytes, work: Work) -> Answer:
    """The answer, of this work."""
    _, _, expiry, items, rows, width, has_lengths, has_durable = _ANSWER.unpack_from(record)
    place = _ANSWER.size

    def column(dtype: str, count: int) -> Any:
        nonlocal place
        found = np.frombuffer(record, dtype, count, place)
        place += found.nbytes
        return found

    return Answer(
        work,
        column("<u4", items),
        column("<u4", items) if has_lengths else None,
        durable=column("<i8", items) if has_durable else None,
        outputs=column("<f4", rows * width).reshape(rows, width),
        expire_time=expiry,
        **({} if place == len(record) else _read_rarities(json.loads(record[place:]))),
    )


def _rarities(given: Answer) -> dict[str, Any]:
    """Errors, each with the items that share it, and notices."""
    shared: dict[int, tuple[CarouselError, list[int]]] = {}
    for item, error in given.errors:
        shared.setdefault(id(error), (error, []))[1].append(item)
    errors = [
        [items, error.code.value[0], error.reason, error.message, dict(flat_metadata(error))]
        for error, items in shared.values()
    ]
    notices = [
        [item, rule.metric, rule.threshold, rule.action, one.value, one.step_index, one.count]
        for item, one in given.notices
        for rule in (one.rule,)
    ]
    return {"errors": errors, "notices": notices}


def _read_rarities(read: Mapping[str, Any]) -> dict[str, Any]:
    errors = []
    for items, *parts in read["errors"]:
        error = from_parts(*parts)
        errors += [(item, error) for item in items]
    notices = [
        (item, Notice(HealthRule(metric, threshold, action), *numbers))
        for item, metric, threshold, action, *numbers in read["notices"]
    ]
    return {"errors": tuple(errors), "notices": tuple(notices)}


def refusal(kind: int, number: int, error: CarouselError) -> bytes:
    """That a call, or a stream, is refused as a whole."""
    return named(kind, number, to_status(error).SerializeToString())


def read_refusal(body: bytes) -> CarouselError:
    return from_status(status_pb2.Status.FromString(body))
