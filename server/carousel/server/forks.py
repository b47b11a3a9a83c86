"""Forks: copies of a session, made all or none, and once however often they are asked for.

A copy's former handle is the claim of the call that made it. Whoever makes the same call again,
since the answer was lost, has the copies with new handles, as one who attaches; once a copy was
used, the claim is void.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence

import numpy as np

from carousel.errors import InvalidField, SessionExists
from carousel.server.kept import Ring
from carousel.server.made import Made
from carousel.server.moves import Moves
from carousel.server.names import check_id, id_of, key_of, owner_of, session_names
from carousel.server.request_ids import check_request_id
from carousel.server.table import MEMORY
from carousel.v1 import session_service_pb2 as pb

MAX_FORKS = 10_000
NO_CLAIM = 0
ID_CHARACTERS = 32


def asked(session_id: str, request: pb.ForkSessionRequest) -> tuple[list[str], int]:
    """The keys of the copies that a request wants, and its claim. Raises InvalidField."""
    given = len(request.session_ids)
    count = request.count or given or 1
    if count > MAX_FORKS or given > count:
        raise InvalidField(
            f"count must be {max(given, 1)} to {MAX_FORKS} with {given} session_ids, got {count}",
            field="count",
        )
    chosen = [check_id(text, field="session_ids") for text in request.session_ids]
    request_id = check_request_id(request.request_id)
    return keys_of(session_id, chosen, count, request_id), claim_of(session_id, request_id)


def claim_of(session_id: str, request_id: str) -> int:
    """What copies are known again by, when the call that made them had a request id."""
    if not request_id:
        return NO_CLAIM
    said = f"{session_id} {request_id}".encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest()) or 1


def keys_of(session_id: str, chosen: Sequence[str], count: int, request_id: str) -> list[str]:
    """A key for each copy: of the chosen ids, and then of the server's choice, which for the same
    request is the same."""
    size = (count - len(chosen)) * ID_CHARACTERS
    if request_id:
        digits = hashlib.shake_256(f"{session_id} {request_id}".encode()).hexdigest(size // 2)
    else:
        digits = secrets.token_hex(size // 2)
    ids = [*chosen, *[digits[at : at + ID_CHARACTERS] for at in range(0, size, ID_CHARACTERS)]]
    tenant = owner_of(session_id)
    return [key_of(tenant, one) for one in ids] if tenant else ids


class Forks(Moves):
    """Copies sessions. What can be done for all copies at once is: there may be 10,000."""

    def fork(
        self, session_id: str, keys: Sequence[str], claim: int
    ) -> Made[pb.ForkSessionResponse]:
        """Copies with these keys, all of them or none."""
        source = self.at(self.table.find(session_id))
        there = self.table.slots.keys() & keys
        taken = [key for key in there if not self._is_copy(self.table.slots[key], source, claim)]
        if taken or len(set(keys)) < len(keys):
            raise SessionExists(
                "ids of copies must be new and different, got "
                f"{', '.join(map(id_of, taken)) or 'one twice'}",
                field="session_ids",
            )
        self._hand_over(there, claim)
        if missing := [key for key in keys if key not in there] if there else keys:
            self._copy(source, missing, claim)
        return self._made(source, keys)

    def _is_copy(self, slot: int, source: int, claim: int) -> bool:
        """Whether the same call made it, and nobody has used it since."""
        here = self.table.next_index[slot] == self.table.next_index[source]
        return bool(here) and claim != NO_CLAIM and self.table.may_go_on(slot, claim)

    def _copy(self, source: int, keys: Sequence[str], claim: int) -> None:
        table, version, count = self.table, self.version_of(source), len(keys)
        self.check_room(version, count)
        depth = int(table.rewind_depth[source])
        self.check_quotas(owner_of(keys[0]), version, count, count * (1 + depth))
        rows = self.allocate(version, count * (1 + depth), beside=source)
        own, rings = rows[:count], rows[count:].reshape(count, depth)
        slots = table.insert_copies(source, keys, own, self.now())
        table.former_handle[slots], table.attach_index[slots] = claim, table.next_index[source]
        version.arena.copy(int(table.row[source]), own)
        version.replies[own] = version.replies[table.row[source]]
        if depth:
            table.rings.update(zip(slots.tolist(), map(Ring, rings), strict=True))
        if (chunk := table.chunk_replies.get(source)) is not None:
            for slot in slots.tolist():  # shared: its rows never change
                table.chunk_replies.put(slot, chunk)
        table.charge(slots, (1 + depth) * version.arena.row_bytes)
        version.sessions += count
        version.metrics.created.inc(count)
        version.metrics.forks.inc(count)
        self.take_over_ends(keys)
        if source in table.audited:
            self.engine.recorder.begin(slots, version, pb.AUDIT_EVENT_FORKED)

    def _hand_over(self, keys: Iterable[str], claim: int) -> None:
        """Copies that were made before get new handles: those of the lost answer are void."""
        table = self.table
        for slot in [table.slots[key] for key in keys]:
            self._renewed(self.at(slot), None)
            table.former_handle[slot] = claim

    def _made(self, source: int, keys: Sequence[str]) -> Made[pb.ForkSessionResponse]:
        """The answer; copies differ in their names and handles only."""
        table = self.table
        slots = np.array([table.slots[key] for key in keys])
        handles: list[int] = table.handle[slots].tolist()
        # As bytes, an answer with one copy n times is an answer with n copies.
        one = pb.ForkSessionResponse(sessions=[self.describe(int(slots[0]))]).SerializeToString()
        reply = pb.ForkSessionResponse.FromString(one * len(keys))
        told = zip(reply.sessions, session_names(keys), handles, strict=True)
        for session, name, handle in told:
            session.name, session.handle = name, handle
        durable = bool(table.durability[source] != MEMORY)
        return Made(reply, keys, handles, durable=durable, audited=source in table.audited)

    def take_over_ends(self, keys: Sequence[str]) -> None:
        """What the store still has of ended sessions of these ids gives way to the new ones."""
        table = self.table
        for key in self.engine.behind.ending_of(keys):
            slot = table.slots[key]
            table.stored_handle[slot], table.revision[slot] = self.engine.behind.former_of(key)
