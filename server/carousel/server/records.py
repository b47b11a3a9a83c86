"""Records: a session as bytes for the store, verified when it comes back.

header | rows [n, width] float32 | reply [steps, outputs] float32 | tail | checksum

The first row is the present state; kept states and bookmarks follow. The tail is a line of JSON and
what the memo of a generation says, in bytes. The checksum is XXH3 of 128 bits over everything
before it, seeded with the session's id, so that a torn, altered or misplaced record is refused; it
guards against accidents, not against somebody who may write to the store. Little-endian throughout.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from carousel.errors import SnapshotDamaged
from carousel.server.departed import Ended
from carousel.server.loaded import LoadedVersion
from carousel.server.memo import Memo
from carousel.server.names import session_name
from carousel.server.table import NO_REPLY
from carousel.server.work import Floats, Ints

LIVE, OVER = b"CRS2", b"CRX2"
CHECKSUM_BYTES = 16
# What a record ends with whose checksum holds and which says what none says.
NONSENSE = (
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
    TypeError,
    ValueError,
)

HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("tail", "<u4"),  # bytes
        ("digest", "V32"),  # of the model version
        ("durability", "u1"),
        ("state", "u1"),
        ("rewind_depth", "<u2"),
        ("rows", "<u4"),
        ("width", "<u4"),
        ("reply_steps", "<u4"),
        ("outputs", "<u4"),
        ("step_index", "<i8"),
        ("reply_index", "<i8"),
        ("ttl", "<f8"),
        ("lifetime_end", "<f8"),
        ("create_time", "<f8"),
        ("last_use", "<f8"),
        ("former_handle", "<u8"),
        ("attach_index", "<i8"),
    ]
)


@dataclass(slots=True)
class Record:
    """One live session as a value; `session_id` and `model_version` are keys.

    `rows` [n, width]: the present state, then those of `kept` and of `marks`, by the places that
    they give. `kept` maps step indexes and `marks` names to places in `rows`.
    """

    session_id: str
    model_version: str
    digest: bytes
    durability: int
    state: int
    rewind_depth: int
    step_index: int
    reply_index: int
    reply: Floats  # [steps, outputs]
    rows: Floats  # [n, width]
    ttl: float
    lifetime_end: float
    create_time: float
    last_use: float
    former_handle: int
    attach_index: int
    kept: dict[int, int] = field(default_factory=dict)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)  # step index, place
    memo: Memo | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def may_go_on(self, handle: int, current: int) -> bool:
        """As SessionTable.may_go_on."""
        unused = self.step_index == self.attach_index
        return handle == current or (unused and handle == self.former_handle)

    @property
    def expire_time(self) -> float:
        return min(self.last_use + self.ttl, self.lifetime_end)


@dataclass(slots=True)
class Details:
    """What a record holds in place of one row, one output and its version's own tail."""

    rows: Floats  # [k, width]
    reply: Floats  # [steps, outputs]
    tail: bytes


@dataclass(slots=True)
class Columns:
    """Sessions of one model version at one moment, as the engine copies them between two turns."""

    version: LoadedVersion
    ids: list[str]
    header: npt.NDArray[np.void]  # [n] of HEADER, but for magic, tail, rows and reply_steps
    rows: Floats  # [n, width]
    outputs: Floats  # [n, outputs]: the latest
    tail: bytes
    details: dict[int, Details]  # by place, of those that are not so plain
    births: Ints
    slots: Ints
    formers: list[int]
    handles: list[int]
    revisions: list[int]
    expire_times: list[float]

    def __len__(self) -> int:
        return len(self.ids)


def encode(columns: Columns) -> list[bytes]:
    """One record for each session."""
    header = columns.header
    header["magic"] = LIVE
    header["tail"], header["rows"] = len(columns.tail), 1
    header["reply_steps"] = has_reply = header["reply_index"] != NO_REPLY
    encoded = _encode_plain(columns, has_reply)
    for place, details in columns.details.items():
        head = header[place : place + 1]
        head["tail"] = len(details.tail)
        head["rows"], head["reply_steps"] = len(details.rows), len(details.reply)
        parts = (head.tobytes(), details.rows.tobytes(), details.reply.tobytes(), details.tail)
        encoded[place] = _sealed(columns.ids[place], b"".join(parts))
    return encoded


def _encode_plain(columns: Columns, has_reply: npt.NDArray[np.bool_]) -> list[bytes]:
    """All records as if there were no details: those with a reply, and those without."""
    bodies = [b""] * len(columns)
    for chosen, outputs in ((has_reply, columns.outputs), (~has_reply, columns.outputs[:, :0])):
        places = slice(None) if chosen.all() else np.flatnonzero(chosen)
        parts = columns.header[places], columns.rows[places], outputs[places]
        if len(parts[0]):
            numbers = np.arange(len(columns))[places].tolist()
            for place, body in zip(numbers, _bodies(*parts, columns.tail), strict=True):
                bodies[place] = body
    return [_sealed(*one) for one in zip(columns.ids, bodies, strict=True)]


def _bodies(
    header: npt.NDArray[np.void], rows: Floats, outputs: Floats, tail: bytes
) -> list[bytes]:
    """Records of one size, so that arrays can make them: [n], [n, width] and [n, outputs]."""
    ends = np.cumsum(
        [
            HEADER.itemsize,
            rows.itemsize * rows.shape[1],
            outputs.itemsize * outputs.shape[1],
            len(tail),
        ]
    ).tolist()
    size = ends[-1]
    bodies = np.empty((len(header), size), np.uint8)
    bodies[:, : ends[0]] = header.view(np.uint8).reshape(len(header), -1)
    bodies[:, ends[0] : ends[1]] = rows.view(np.uint8)
    if outputs.shape[1]:
        bodies[:, ends[1] : ends[2]] = outputs.view(np.uint8)
    bodies[:, ends[2] :] = np.frombuffer(tail, np.uint8)
    whole = bodies.tobytes()
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def encode_ended(ended: Ended) -> bytes:
    """What is remembered of a session that is over."""
    return _sealed(ended.session_id, OVER + json.dumps(asdict(ended)).encode())


def decode(session_id: str, data: bytes) -> Record | Ended:
    """What a record says. Raises SnapshotDamaged for anything that `encode` did not write."""
    body = _opened(session_id, data)
    try:
        if body[:4] == OVER:
            return _checked_ended(Ended(**json.loads(body[4:])))
        return _checked(_read(session_id, body))
    except NONSENSE as error:
        raise SnapshotDamaged(
            f"the record of {session_name(session_id)} can't be read: {error}"
        ) from error


def tail(version: str, *, memo: Memo | None = None, **more: object) -> bytes:
    """The tail of a record; what is empty is left out."""
    line = {"model": version, **{k: v for k, v in more.items() if v}}
    if memo is None:
        return json.dumps(line).encode()
    line["memo"] = [memo.start, memo.digest.hex(), memo.seed]
    return json.dumps(line).encode() + b"\n" + memo.said


def _read(session_id: str, body: bytes) -> Record:
    head = np.frombuffer(body, HEADER, 1)[0]
    if head["magic"] != LIVE:
        raise ValueError(f"it begins with {bytes(body[:4])!r}")
    width, outputs = int(head["width"]), int(head["outputs"])
    at = HEADER.itemsize
    rows = np.frombuffer(body, "<f4", int(head["rows"]) * width, at).reshape(-1, width)
    at += rows.nbytes
    reply = np.frombuffer(body, "<f4", int(head["reply_steps"]) * outputs, at)
    at += reply.nbytes
    line, _, tokens = body[at : at + int(head["tail"])].partition(b"\n")
    said = json.loads(line)
    return Record(
        session_id=session_id,
        model_version=said.pop("model"),
        digest=head["digest"].tobytes(),
        durability=int(head["durability"]),
        state=int(head["state"]),
        rewind_depth=int(head["rewind_depth"]),
        step_index=int(head["step_index"]),
        reply_index=int(head["reply_index"]),
        reply=reply.reshape(-1, outputs),
        rows=rows,
        ttl=float(head["ttl"]),
        lifetime_end=float(head["lifetime_end"]),
        create_time=float(head["create_time"]),
        last_use=float(head["last_use"]),
        former_handle=int(head["former_handle"]),
        attach_index=int(head["attach_index"]),
        kept={int(index): place for index, place in said.pop("kept", {}).items()},
        marks={name: tuple(mark) for name, mark in said.pop("marks", {}).items()},
        memo=_memo(tokens, *said.pop("memo")) if "memo" in said else None,
        more=said,
    )


def _checked(record: Record) -> Record:
    """The same; ValueError where rows would be looked for that it does not have."""
    places = [0, *record.kept.values(), *(place for _, place in record.marks.values())]
    if not all(type(place) is int and 0 <= place < len(record.rows) for place in places):
        raise ValueError(f"it has {len(record.rows)} rows and speaks of others")
    if record.step_index < 0 or math.isnan(record.expire_time):
        raise ValueError(f"step {record.step_index}, which expires at {record.expire_time}")
    return record


def _checked_ended(ended: Ended) -> Ended:
    texts = (ended.session_id, ended.version_name, ended.reason_name)
    numbers = (ended.reason, ended.step_index, ended.create_time, ended.end_time, ended.durability)
    if not all(isinstance(text, str) for text in texts) or not all(map(math.isfinite, numbers)):
        raise ValueError("its end is told in other types")
    return ended


def _memo(said: bytes, start: int, digest: str, seed: int) -> Memo:
    return Memo(start, bytes.fromhex(digest), seed, said)


def _checksum(session_id: str, body: bytes) -> bytes:
    seed = xxhash.xxh3_64_intdigest(session_id.encode())
    return xxhash.xxh3_128_digest(body, seed)


def _sealed(session_id: str, body: bytes) -> bytes:
    return body + _checksum(session_id, body)


def _opened(session_id: str, data: bytes) -> bytes:
    body = data[:-CHECKSUM_BYTES]
    if len(data) < 4 + CHECKSUM_BYTES or _checksum(session_id, body) != data[-CHECKSUM_BYTES:]:
        raise SnapshotDamaged(
            f"the record of {session_name(session_id)} does not hold its checksum; it is torn, "
            "altered or another session's"
        )
    return body
