"""The reader: verifies a whole log and finds the states that a replay can begin from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from carousel.server.audit.entry import (
    DIGEST_BYTES,
    END,
    HEAD,
    NOTHING,
    PERIODIC,
    RESTORED,
    STATE,
    STEPS,
    Damage,
    Entry,
    Placed,
    Torn,
    read,
)
from carousel.server.audit.folder import Part
from carousel.server.audit.head import Head
from carousel.server.audit.log import Position

NO_LIMIT = 2**63


@dataclass(slots=True)
class Segment:
    """A state in the log, and the steps that follow it up to the next state.

    The state lies at byte `offset` of a file, after the hash `before`; steps `begin` to `end`
    follow, up to byte `stop`. Those from `limit` on were superseded later. `event` says what set
    the state; `missing` steps right before it are not in the log.
    """

    path: Path
    offset: int
    stop: int
    before: bytes
    head: Head
    event: int
    begin: int
    end: int
    missing: int = 0
    limit: int = NO_LIMIT


@dataclass(slots=True)
class Scan:
    """A verified log: as far as it holds."""

    session_id: str
    segments: list[Segment] = field(default_factory=list)
    entries: int = 0
    hash: bytes = NOTHING
    complete: bool = False
    damage: str = ""  # what is wrong behind what holds
    ended: bool = False

    @property
    def index(self) -> int:
        """The step that would come next in the log."""
        return self.segments[-1].end if self.segments else 0


def scan(session_id: str, parts: Sequence[Part], position: Position | None) -> Scan:
    """Read and verify the parts of one log; `position` is where its writer is, if there is one."""
    found = Scan(session_id)
    try:
        _scan(found, parts, position)
    except Torn:
        pass
    except (Damage, OSError) as error:
        found.damage = str(error)
    found.complete = found.ended or (position is not None and not found.damage)
    limit = NO_LIMIT
    for segment in reversed(found.segments):
        segment.limit = limit
        limit = min(limit, segment.begin)
    return found


def _scan(found: Scan, parts: Sequence[Part], position: Position | None) -> None:
    heads = [_first_head(part, found.session_id) for part in parts]
    if [part.number for part in parts] != list(range(len(parts))):
        raise Damage(f"parts {[part.number for part in parts]} are there")
    begun = [(part, head) for part, head in zip(parts, heads, strict=True) if head is not None]
    for place, (part, _) in enumerate(begun):
        if place + 1 < len(begun):
            continues = begun[place + 1][1].continues
            if continues is None:
                raise Damage(f"part {begun[place + 1][0].number} does not go on from another")
            _scan_part(found, part, *continues)
        elif position is not None:
            if position.path != part.path:
                raise Damage(
                    f"the log is being written to {position.path.name}, which is not there"
                )
            _scan_part(found, part, position.size, position.hash.hex())
        else:
            _scan_part(found, part)


def _first_head(part: Part, session_id: str) -> Head | None:
    """What the first entry says; None when a crash cut it off. Raises Damage."""
    with part.path.open("rb") as file:
        try:
            first = next(read(file), None)
        except Torn:
            first = None
    if first is None:
        return None
    head = Head.from_payload(first.entry.payload) if first.entry.kind == HEAD else None
    if head is None or head.session != session_id or head.part != part.number:
        raise Damage(f"{part.path.name} is not part {part.number} of {session_id}")
    return head


def _scan_part(found: Scan, part: Part, until: int | None = None, own: str = "") -> None:
    head, before, offset = None, NOTHING, 0
    with part.path.open("rb") as file:
        for placed in read(file, until=until):
            entry = placed.entry
            if found.ended:
                raise Damage("something follows the end")
            if entry.kind == HEAD:
                head = Head.from_payload(entry.payload)
            elif head is None:
                raise Damage("there is no head")
            elif entry.kind == STATE:
                _add_state(found, Segment(
                    part.path, offset, placed.end, before, head, entry.cause,
                    begin=entry.step_index, end=entry.step_index,
                ), entry)  # fmt: skip
            elif entry.kind == STEPS:
                _add_steps(found, head, placed)
            elif entry.kind == END:
                found.ended = True
            else:
                raise Damage(f"there is an entry of kind {entry.kind}")
            offset, before = placed.end, placed.hash
            found.entries, found.hash = found.entries + 1, placed.hash
    if until is not None and before.hex() != own:
        raise Damage(f"byte {until} of {part.path.name} has another hash than was written")


def _add_state(found: Scan, segment: Segment, entry: Entry) -> None:
    if len(entry.payload) != 4 * segment.head.width:
        raise Damage(f"a state has {len(entry.payload)} bytes")
    if segment.event == PERIODIC and (not found.segments or found.index != segment.begin):
        raise Damage(f"a state of step {segment.begin} follows step {found.index - 1}")
    if found.segments:
        segment.missing = max(0, segment.begin - found.index)
    elif segment.event == RESTORED:  # it began on another server, which has a log of its own
        segment.missing = segment.begin
    found.segments.append(segment)


def _add_steps(found: Scan, head: Head, placed: Placed) -> None:
    entry = placed.entry
    answer = DIGEST_BYTES if head.bit_exact else 4 * head.outputs
    if len(entry.payload) != entry.steps * (4 * (head.features or 1) + answer):
        raise Damage(f"{entry.steps} steps have {len(entry.payload)} bytes")
    if not found.segments or entry.step_index != found.index:
        raise Damage(f"step {entry.step_index} follows step {found.index - 1}")
    found.segments[-1].end += entry.steps
    found.segments[-1].stop = placed.end


def entries_of(segment: Segment) -> tuple[Entry, list[Entry]]:
    """The state of a segment, and its steps."""
    with segment.path.open("rb") as file:
        placed = read(file, begin=segment.offset, before=segment.before, until=segment.stop)
        state, *steps = [one.entry for one in placed]
    return state, steps
