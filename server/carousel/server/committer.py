"""The committer: what a turn came to becomes the state of its sessions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from carousel.server import health_events
from carousel.server.audit.recorder import Recorder
from carousel.server.loaded import LoadedVersion
from carousel.server.outbox import Outbox
from carousel.server.repeats import chunk_answer
from carousel.server.ride import Ride, some
from carousel.server.scheduler import Chunk, Plan
from carousel.server.table import SessionTable
from carousel.server.work import Answer, Floats
from carousel.server.write_behind import WriteBehind


class Committer:
    """Only the engine's thread may call it, at the end of a turn."""

    def __init__(
        self,
        table: SessionTable,
        outbox: Outbox,
        *,
        clock: Callable[[], float],
        behind: WriteBehind,
        recorder: Recorder,
    ) -> None:
        self._table = table
        self._outbox = outbox
        self._clock = clock
        self._behind = behind
        self._recorder = recorder

    def commit(self, version: LoadedVersion, plan: Plan, ride: Ride) -> None:
        """The only place where a step changes state."""
        table, slots = self._table, ride.slots
        self._keep_for_rewind(version, ride)
        health_events.tell(table, version, plan, ride)
        if ride.index is None:
            version.arena.write(ride.rows, ride.new)
        else:
            version.arena.scatter(ride.index, torch.as_tensor(ride.new))
        values = ride.outputs
        table.last_use[slots] = self._clock()
        if plan.lengths is None:
            indexes, tickets = plan.indexes, plan.tickets
            if len(slots) < len(plan):
                indexes, tickets = indexes[ride.places], tickets[ride.places]
            table.next_index[slots] = indexes + 1
            table.reply_index[slots] = indexes
            table.serving[slots] = tickets + 1
            version.replies[ride.rows] = values
            if len(table.chunk_replies):
                for slot in slots.tolist():
                    table.chunk_replies.forget(slot)
            self._answer_steps(plan, ride, values)
        else:
            chunks = [plan.chunks[place] for place in ride.places.tolist()]
            lengths = plan.lengths[ride.places].tolist()
            for chunk, length, outputs in zip(chunks, lengths, values, strict=True):
                self._commit_slice(version, chunk, outputs, length)
        if table.durables:
            self._behind.touched(slots)
        if table.audited:
            self._recorder.turn(version, plan, ride)

    def _commit_slice(
        self, version: LoadedVersion, chunk: Chunk, outputs: Floats, length: int
    ) -> None:
        table = self._table
        self._keep_outputs(version, chunk, outputs[:length])
        chunk.done += length
        table.next_index[chunk.slot] += length
        table.reply_index[chunk.slot] = chunk.start
        if chunk.work.memo is not None:
            table.put_memo(chunk.slot, chunk.work.memo)
        if chunk.done == chunk.length:
            table.serving[chunk.slot] += 1
            self._outbox.give(chunk_answer(table, chunk))
        else:
            version.scheduler.chunks.append(chunk)

    def _keep_outputs(self, version: LoadedVersion, chunk: Chunk, outputs: Floats) -> None:
        """For the answer and its retry: of a slice's outputs [T, O] those that are asked for."""
        table = self._table
        if chunk.work.last_only:
            chunk.outputs = outputs[-1:].copy()
            version.replies[table.row[chunk.slot]] = chunk.outputs[0]
            table.chunk_replies.forget(chunk.slot)
            return
        if chunk.outputs is None:
            chunk.outputs = np.empty((chunk.length, outputs.shape[-1]), np.float32)
        end = chunk.done + len(outputs)
        chunk.outputs[chunk.done : end] = outputs
        table.chunk_replies.put(chunk.slot, chunk.outputs[:end])

    def _answer_steps(self, plan: Plan, ride: Ride, outputs: Floats) -> None:
        """One answer for each work that rode."""
        works, bounds, items = plan.works, plan.bounds, plan.items
        if len(ride.places) < len(plan):
            bounds, items = ride.bounds(plan), items[ride.places]
            some = (bounds[1:] > bounds[:-1]).nonzero()[0]  # works of which anything rode
            works = [works[place] for place in some.tolist()]
            bounds = np.append(bounds[some], bounds[-1])
        expire = self._table.expire_time(ride.slots)
        if len(works) < len(expire):
            expire = np.minimum.reduceat(expire, bounds[:-1])
        parts = itertools.pairwise(bounds.tolist())
        for work, (begin, end), until in zip(works, parts, expire.tolist(), strict=True):
            part = slice(begin, end)
            slots = ride.slots[part]
            if work.memo is not None:
                self._table.put_memo(int(slots[0]), work.memo)
            self._outbox.give(Answer(work, items[part], None, outputs[part], (), until, slots))

    def _keep_for_rewind(self, version: LoadedVersion, ride: Ride) -> None:
        """Copy the states that these steps leave behind into the rings that want them."""
        if not self._table.rings:
            return
        places = np.flatnonzero(self._table.rewind_depth[ride.slots] > 0)
        if not len(places):
            return
        targets = np.empty(len(places), np.int64)
        for number, slot in enumerate(ride.slots[places].tolist()):
            targets[number] = self._table.rings[slot].keep(int(self._table.next_index[slot]))
        version.arena.write(targets, some(ride.state, places))
