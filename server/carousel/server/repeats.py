"""Repeats: what memory answers of a request that was committed before, whole or in part."""

from __future__ import annotations

import numpy as np

from carousel.server.loaded import LoadedVersion
from carousel.server.plan import Chunk, Plan
from carousel.server.table import NO_REPLY, SessionTable
from carousel.server.work import Answer, Floats


def resume_chunks(table: SessionTable, version: LoadedVersion, plan: Plan) -> None:
    """Take what memory has of the chunks that begin where the last request began."""
    for place, chunk in enumerate(plan.chunks):
        slot = chunk.slot
        ahead = int(table.next_index[slot]) - chunk.start
        known = (
            chunk.done == 0
            and ahead > 0
            and chunk.work.memo is None
            and chunk.handle == int(table.handle[slot])
            and int(table.reply_index[slot]) == chunk.start
        )
        if not known:
            continue
        reply = reply_of(table, version, slot)
        if len(reply) == ahead:
            reply = reply[: chunk.length]
        elif not chunk.work.last_only or chunk.length < ahead:
            continue  # only the last output was asked for at first, and this is another
        chunk.done = min(chunk.length, ahead)
        chunk.outputs = _outputs_of(chunk, reply)
        version.metrics.duplicates.inc(chunk.done)
        if chunk.done < chunk.length:
            _reslice(plan, place, chunk)


def _outputs_of(chunk: Chunk, reply: Floats) -> Floats:
    """A chunk's outputs, as far as memory has them."""
    if chunk.work.last_only:
        return reply[-1:].copy()
    outputs = np.empty((chunk.length, reply.shape[1]), np.float32)
    outputs[: len(reply)] = reply
    return outputs


def _reslice(plan: Plan, place: int, chunk: Chunk) -> None:
    """Let the chunk ride from where memory ends."""
    assert plan.lengths is not None
    length = min(int(plan.lengths[place]), chunk.length - chunk.done)
    begin = chunk.offset + chunk.done
    plan.inputs[place] = 0
    plan.inputs[place, :length] = chunk.work.inputs[begin : begin + length]
    plan.lengths[place] = length
    plan.indexes[place] = chunk.start + chunk.done


def reply_of(table: SessionTable, version: LoadedVersion, slot: int) -> Floats:
    """The outputs of the session's last request, [steps, O]; none when there was none.

    Where a chunk asked for its last output only, that is all there is: [1, O].
    """
    if table.reply_index[slot] == NO_REPLY:
        return np.zeros((0, version.config.output_size), np.float32)
    chunk = table.chunk_replies.get(slot)
    return version.replies[table.row[slot]][None] if chunk is None else chunk


def known_output(
    table: SessionTable, version: LoadedVersion, slot: int, index: int
) -> Floats | None:
    """The output [1, O] of the last request's first step, if that is the step and memory has it."""
    ahead = int(table.next_index[slot]) - index
    if index < 0 or ahead <= 0 or table.reply_index[slot] != index:
        return None
    reply = reply_of(table, version, slot)
    return reply[:1].copy() if len(reply) == ahead else None


def chunk_answer(table: SessionTable, chunk: Chunk) -> Answer:
    assert chunk.outputs is not None
    items = np.array([chunk.item])
    slots = np.array([chunk.slot])
    expire = float(table.expire_time(slots)[0])
    lengths = np.array([len(chunk.outputs)])
    return Answer(chunk.work, items, lengths, chunk.outputs, (), expire, slots)
