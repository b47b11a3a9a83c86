"""Moves: sessions go back to an earlier state, to the beginning, or to another model version."""

from __future__ import annotations

import numpy as np
import torch

from carousel.errors import (
    InvalidField,
    ModelNotLoaded,
    ModelNotStepwise,
    RewindUnavailable,
    SessionFenced,
    SnapshotMismatch,
)
from carousel.server.kept import Mark
from carousel.server.loaded import LoadedVersion
from carousel.server.names import owner_of, session_name
from carousel.server.residence import Residence
from carousel.server.session_values import describe
from carousel.server.table import ACTIVE
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb

MAX_BOOKMARKS = 64


class Moves(Residence):
    """What moves a session other than its steps; each gives it a new handle."""

    def find(self, session_id: str, handle: int | None) -> int:
        """The slot of a session, which must have this handle if one is given."""
        slot = self.table.find(session_id)
        if handle is not None and int(self.table.handle[slot]) != handle:
            raise SessionFenced(
                f"{handle:#018x} is not the current handle of {session_name(session_id)}"
            )
        return slot

    def _movable(self, session_id: str, handle: int | None) -> int:
        """As `find`; the former handle will do until the session is used, since its holder may not
        have heard of the move that ended it and makes it again."""
        slot = self.table.find(session_id)
        if handle is not None and not self.table.may_go_on(slot, handle):
            return self.find(session_id, handle)
        return slot

    def describe(self, slot: int, *, with_handle: bool = False) -> session_pb2.Session:
        return describe(self.table, self.version_of(slot), slot, with_handle=with_handle)

    def _used(self, slot: int) -> None:
        self.table.last_use[slot] = self.now()
        self.engine.behind.touched(np.array([slot]))

    def rewind(
        self,
        session_id: str,
        handle: int | None,
        *,
        steps: int | None = None,
        step_index: int | None = None,
        bookmark: str | None = None,
    ) -> session_pb2.Session:
        """Back to a kept state or a bookmark; ends a quarantine; a new incarnation."""
        # What is relative can't be told from its own repetition.
        slot = self.at((self.find if steps else self._movable)(session_id, handle))
        now = int(self.table.next_index[slot])
        if bookmark is not None:
            mark = self.table.marks.get(slot, {}).get(bookmark)
            if mark is None:
                there = ", ".join(sorted(self.table.marks.get(slot, ()))) or "none"
                raise RewindUnavailable(
                    f"{session_name(session_id)} has no bookmark {bookmark!r}; there are {there}",
                    field="bookmark",
                )
            self._write_back(slot, mark.row, mark.step_index)
            if slot in self.table.rings:  # its states may be of another past than the bookmark's
                self.table.rings[slot].indexes[:] = -1
        else:
            target = now - (steps or 0) if step_index is None else step_index
            if target != now:
                given = f"steps {steps}" if step_index is None else f"step_index {step_index}"
                self._write_back(slot, self._kept_row(slot, target, given), target)
        self.table.state[slot] = ACTIVE
        self.engine.recorder.moved(slot, self.version_of(slot), pb.AUDIT_EVENT_REWOUND)
        self.version_of(slot).metrics.rewinds.inc()
        return self._renewed(slot, handle)

    def _write_back(self, slot: int, row: int, step_index: int) -> None:
        arena = self.version_of(slot).arena
        arena.write(self.table.row[slot : slot + 1], arena.read(np.array([row])))
        self._moved(slot, step_index)

    def _moved(self, slot: int, step_index: int) -> None:
        """The session stands elsewhere: no reply is kept, and the store knows nothing of it."""
        table = self.table
        table.next_index[slot] = step_index
        for column in (table.durable_index, table.flushed_index):
            column[slot] = min(int(column[slot]), step_index)
        table.forget_reply(slot)

    def _renewed(self, slot: int, handle: int | None) -> session_pb2.Session:
        """A new handle, but for a move that is made again: that keeps the one it gave."""
        table = self.table
        if handle is None or int(table.handle[slot]) == handle:
            table.renew_handle(slot)
            table.former_handle[slot] = handle or 0
        table.attach_index[slot] = table.next_index[slot]
        self._used(slot)
        return self.describe(slot, with_handle=True)

    def bookmark(
        self, session_id: str, handle: int | None, name: str, *, remove: bool
    ) -> session_pb2.Session:
        """Give the present state a name, or forget one."""
        slot = self.at(self.find(session_id, handle))
        version, marks = self.version_of(slot), self.table.marks.setdefault(slot, {})
        former = marks.pop(name, None)
        if former is not None:
            version.arena.release(np.array([former.row]))
        if not remove:
            if len(marks) >= MAX_BOOKMARKS:
                raise InvalidField(
                    f"a session has at most {MAX_BOOKMARKS} bookmarks", field="bookmark"
                )
            if former is None:
                self.check_quotas(owner_of(session_id), version, 0, 1)
            row = self.allocate(version, 1, beside=slot)
            version.arena.copy(int(self.table.row[slot]), row)
            marks[name] = Mark(int(row[0]), int(self.table.next_index[slot]))
        if not marks:
            del self.table.marks[slot]
        self.charge(slot, version)
        self._used(slot)
        return self.describe(slot)

    def _kept_row(self, slot: int, target: int, given: str) -> int:
        ring = self.table.rings.get(slot)
        now = int(self.table.next_index[slot])
        row = ring.find(target) if ring is not None and 0 <= target < now else None
        if row is None:
            kept = sorted(i for i in ring.indexes.tolist() if 0 <= i < now) if ring else []
            depth = int(self.table.rewind_depth[slot])
            reach = (
                f"can go back by at most {now - kept[0]}, to step {kept[0]}"
                if kept
                else f"keeps no earlier state, with a rewind_depth of {depth}"
            )
            raise RewindUnavailable(
                f"{session_name(self.table.ids[slot])} is at step {now} and {reach}; got {given}",
                metadata={"kept_steps": ",".join(map(str, [*kept, now]))},
                field=given.split()[0],
            )
        return row

    def reset(self, session_id: str, handle: int | None) -> session_pb2.Session:
        """Back to the initial state and step 0; ends a quarantine; a new incarnation."""
        slot = self.at(self._movable(session_id, handle))
        version = self.version_of(slot)
        initial = version.network.initial_rows(1).to(version.arena.device, torch.float32)
        version.arena.write(self.table.row[slot : slot + 1], initial)
        self._moved(slot, 0)
        self.table.state[slot] = ACTIVE
        if slot in self.table.rings:
            self.table.rings[slot].indexes[:] = -1
        self.engine.recorder.moved(slot, version, pb.AUDIT_EVENT_RESET)
        return self._renewed(slot, handle)

    def migrate(
        self, session_id: str, handle: int | None, target: LoadedVersion
    ) -> session_pb2.Session:
        """To another version with the same state schema; a new incarnation."""
        slot = self.at(self._movable(session_id, handle))
        table, source = self.table, self.version_of(slot)
        check_open(target)
        check_alike(source, target)
        ring, marks = table.rings.get(slot), table.marks.get(slot, {})
        old = np.array(self.rows_of(slot))
        new = self.allocate(target, len(old), beside=slot)
        target.arena.write(new, source.arena.read(old).to(target.arena.device))
        target.replies[new[0]] = source.replies[old[0]]
        table.row[slot], table.version[slot] = new[0], target.ordinal
        if ring is not None:
            ring.rows = new[1 : 1 + len(ring.rows)]
        moved = new[len(old) - len(marks) :].tolist()
        for row, name in zip(moved, tuple(marks), strict=True):
            marks[name] = Mark(row, marks[name].step_index)
        source.arena.release(old)
        source.sessions -= 1
        target.sessions += 1
        self.engine.recorder.moved(slot, target, pb.AUDIT_EVENT_MIGRATED)
        return self._renewed(slot, handle)


def check_open(version: LoadedVersion) -> None:
    """Raises ModelNotStepwise or ModelNotLoaded where a version takes no sessions."""
    if not version.stepwise:
        raise ModelNotStepwise(
            f"{version.name} is bidirectional and needs whole sequences: use Predict"
        )
    if version.retired:
        raise ModelNotLoaded(f"{version.name} was taken out of service")


def check_alike(source: LoadedVersion, target: LoadedVersion) -> None:
    """Raises SnapshotMismatch unless a session can go on from one version to the other."""
    for what, one, other in (
        ("states", source.schema, target.schema),
        ("inputs", _inputs(source), _inputs(target)),
        ("outputs", _outputs(source), _outputs(target)),
    ):
        if one != other:
            raise SnapshotMismatch(
                f"a session can only move to a version with the same {what}: {source.name} has "
                f"{one}, {target.name} has {other}",
                field="model",
            )


def _inputs(version: LoadedVersion) -> str:
    if version.vocabulary:
        return f"tokens of {version.vocabulary}"
    return f"{version.config.input_size} number(s) a step"


def _outputs(version: LoadedVersion) -> str:
    return f"{version.config.output_size} number(s) a step"
