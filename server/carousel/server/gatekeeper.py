"""The gatekeeper: who may wait, who may ride, and what the others are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from carousel.errors import (
    Cancelled,
    CarouselError,
    DeadlineExceeded,
    MixedModels,
    ModelNotLoaded,
    SessionFenced,
    SessionQuarantined,
    StepConflict,
    StepsLost,
)
from carousel.server.door import SESSION_FULL, SHED
from carousel.server.inputs import Refusals, are_good, bad_inputs
from carousel.server.loaded import LoadedVersion
from carousel.server.names import session_name
from carousel.server.plan import Chunk, Plan
from carousel.server.repeats import chunk_answer, known_output, resume_chunks
from carousel.server.scheduler import SESSION_QUEUE
from carousel.server.step_queue import ranks
from carousel.server.table import QUARANTINED, SessionTable
from carousel.server.work import NEVER, Answer, Handles, Ints, Work

Mask = npt.NDArray[np.bool_]

NOTHING = np.zeros(0, np.int64)
CONFLICTS = (StepConflict, SessionFenced)


def admit_together(table: SessionTable, version: LoadedVersion, works: Sequence[Work]) -> bool:
    """Queue many works of single steps at once. False, and nothing done, if any item is amiss.

    Most works are small and most are good: this is what a message costs the engine.
    """
    if version.retired or any(work.lengths is not None or work.refusals for work in works):
        return False
    handles = _column([work.handles for work in works])
    inputs = np.concatenate([work.inputs for work in works])
    slots, good = table.slots_of(handles, table.owners.numbers_of(works))
    fits = (
        _all(good)
        and _all(table.version[slots] == version.ordinal)
        and _room_in_lines(table, slots)
        and _has_known_steps(table, works, slots)
        and are_good(inputs, version)
    )
    if not fits:
        return False
    counts = np.array([len(work) for work in works])
    if len(works) == 1:
        items = np.arange(len(handles))
    elif len(works) == len(handles):
        items = np.zeros(len(handles), np.int64)
    else:
        items = np.arange(len(handles)) - np.repeat(np.cumsum(counts) - counts, counts)
    indexes = _column([work.step_indexes for work in works])
    version.scheduler.steps.push(
        works,
        counts,
        items=items,
        handles=handles,
        indexes=indexes.view(np.int64),
        slots=slots,
        tickets=_draw_tickets(table, slots),
        inputs=inputs,
    )
    return True


def _column(lists: Sequence[list[int]]) -> Handles:
    """The numbers of all works, one after the other."""
    if len(lists) == 1:
        return np.array(lists[0], np.uint64)
    return np.array([number for numbers in lists for number in numbers], np.uint64)


def _all(mask: Mask) -> bool:
    """As mask.all(), which goes through Python, where a turn feels it."""
    return bool(np.count_nonzero(mask) == len(mask))


def admit(
    table: SessionTable, version: LoadedVersion, work: Work, items: Ints | None = None
) -> list[Answer]:
    """Queue items of a work, all by default; gives an answer for those refused at the door."""
    owner = table.owners.number(work.lane.tenant)
    slots, good = table.slots_of(np.array(work.handles, np.uint64), owner)
    if good.any():
        good &= table.version[slots] == version.ordinal
        good &= table.tail[slots] - table.serving[slots] + ranks(slots) < SESSION_QUEUE
    # One reason for each item: what is wrong with its length comes before its numbers.
    wrong = [
        *_lost_steps(table, work, slots, good),
        *bad_inputs(work.inputs, version, work.lengths),
        *reversed(work.refusals),
    ]
    asked = range(len(work)) if items is None else set(items.tolist())
    refused = [(item, error) for item, error in dict(wrong).items() if item in asked]
    if refused:
        good[[item for item, _ in refused]] = True  # refused already, for what they are
    if not good.all():
        refused += [
            (item, _why_refused(table, version, work, item))
            for item in np.flatnonzero(~good).tolist()
            if item in asked
        ]
    items = np.arange(len(work)) if items is None else items
    if refused:
        items = np.setdiff1d(items, [item for item, _ in refused])
    if version.retired:
        gone = ModelNotLoaded(f"{version.name} was taken out of service")
        refused += [(item, gone) for item in items.tolist()]
    elif len(items):
        _enqueue(table, version, work, items, slots[items])
    return [_refusal(version, work, refused)] if refused else []


def _has_known_steps(table: SessionTable, works: Sequence[Work], slots: Ints) -> bool:
    """Whether every session has the steps that its caller knows to be durable."""
    if not any(work.durables for work in works):
        return True
    known = [index for work in works for index in work.durables or [0] * len(work)]
    return bool((table.next_index[slots].astype(np.uint64) >= np.array(known, np.uint64)).all())


def _lost_steps(table: SessionTable, work: Work, slots: Ints, good: Mask) -> Refusals:
    return [
        (
            item,
            StepsLost(
                f"the caller knows {known} durable steps of "
                f"{session_name(table.ids[slots[item]])}, it has {table.next_index[slots[item]]}",
                metadata={"durable_index": str(table.durable_index[slots[item]])},
                field=f"durable_indexes[{item}]",
            ),
        )
        for item, known in enumerate(work.durables)
        if good[item] and known > table.next_index[slots[item]]
    ]


def _enqueue(
    table: SessionTable, version: LoadedVersion, work: Work, items: Ints, slots: Ints
) -> None:
    tickets = _draw_tickets(table, slots)
    lengths = np.ones(len(items), np.int64) if work.lengths is None else work.lengths[items]
    offsets = items if work.offsets is None else work.offsets[items]
    handles = np.array([work.handles[item] for item in items.tolist()], np.uint64)
    indexes = np.array([work.step_indexes[item] for item in items.tolist()], np.uint64)
    indexes = indexes.view(np.int64)
    single = lengths == 1
    if single.any():
        chosen = items[single]
        version.scheduler.steps.push(
            [work],
            np.array([len(chosen)]),
            items=chosen,
            handles=handles[single],
            indexes=indexes[single],
            slots=slots[single],
            tickets=tickets[single],
            inputs=work.inputs[offsets[single]],
        )
    for place in np.flatnonzero(~single).tolist():
        item, slot = int(items[place]), int(slots[place])
        version.scheduler.chunks.append(
            Chunk(
                work=work,
                item=item,
                handle=work.handles[item],
                slot=slot,
                ticket=int(tickets[place]),
                start=int(indexes[place]),
                length=int(lengths[place]),
                offset=int(offsets[place]),
                slice=1 if table.rewind_depth[slot] else version.scheduler.chunk_slice,
            )
        )


def _draw_tickets(table: SessionTable, slots: Ints) -> Ints:
    """A place in its session's queue for each item, in order."""
    if _all_different(slots):
        tickets = table.tail[slots]
        table.tail[slots] = tickets + 1
        return tickets
    tickets = table.tail[slots] + ranks(slots)
    np.add.at(table.tail, slots, 1)
    return tickets


def _room_in_lines(table: SessionTable, slots: Ints) -> bool:
    """Whether every session's line takes its items."""
    waiting = table.tail[slots] - table.serving[slots]
    if not np.count_nonzero(waiting):
        return len(slots) <= SESSION_QUEUE or _all_different(slots)
    longest = int(waiting.max())
    if longest + len(slots) <= SESSION_QUEUE:
        return True
    return longest < SESSION_QUEUE and _all_different(slots)


def _all_different(slots: Ints) -> bool:
    return len(slots) == 1 or len(set(slots.tolist())) == len(slots)


def check_riders(
    table: SessionTable, version: LoadedVersion, plan: Plan, now: float
) -> tuple[Ints, list[Answer]]:
    """The riders whose next step this is, and answers for all others.

    A rider whose step is the last one again is answered from memory; a chunk that was half done
    when its caller went away goes on where it stopped. Generations know by their memos what was
    fed, and never ask for it again.
    """
    if plan.chunks:
        resume_chunks(table, version, plan)
    slots = plan.slots
    good = (
        (table.handle[slots] == plan.handles)
        & (table.next_index[slots] == plan.indexes)
        & (table.state[slots] != QUARANTINED)
    )
    for place, work in enumerate(plan.works):
        if work.cancelled or work.deadline <= now:
            good[plan.bounds[place] : plan.bounds[place + 1]] = False
    if _all(good):
        return np.arange(len(plan)), []
    answers = [
        _turn_away(table, version, plan, place, now) for place in np.flatnonzero(~good).tolist()
    ]
    return np.flatnonzero(good), answers


def refuse_all(
    table: SessionTable, version: LoadedVersion, plan: Plan, error: CarouselError
) -> list[Answer]:
    """Answer every rider of a plan that has no answer yet with an error."""
    left = np.flatnonzero(table.serving[plan.slots] == plan.tickets)
    return [_finish(table, version, plan, place, error) for place in left.tolist()]


def dismiss_fenced(table: SessionTable, version: LoadedVersion) -> list[Answer]:
    """Answers for everything that waits with a handle that is no longer current.

    Its line has ended, so nobody's turn depends on it.
    """
    answers = []
    for plan in version.scheduler.take_fenced(table.handle):
        errors = []
        for place, handle in enumerate(plan.handles.tolist()):
            error = table.why_not(handle)
            _tell_committed(plan, place, error)
            errors.append((int(plan.items[place]), error))
        for number, work in enumerate(plan.works):
            begin, end = plan.bounds[number : number + 2].tolist()
            answers.append(_refusal(version, work, errors[begin:end]))
    return answers


def shed_bulk(table: SessionTable, version: LoadedVersion) -> list[Answer]:
    """Answers for bulk items that have to go because more work waits than may."""
    answers = []
    for plan in version.scheduler.shed(table.tail):
        np.subtract.at(table.tail, plan.slots, 1)  # they were the last in their sessions' lines
        version.metrics.rejected(SHED, len(plan))
        full = version.door.full(f"bulk work for {version.name} made room for interactive work")
        for number, work in enumerate(plan.works):
            begin, end = plan.bounds[number : number + 2].tolist()
            items = plan.items[begin:end].tolist()
            answers.append(_refusal(version, work, [(item, full) for item in items]))
    return answers


def fail_work(
    version: LoadedVersion, work: Work, items: Ints | None, error: CarouselError
) -> Answer:
    """The answer to items of a work, by default all, none of which was queued."""
    failed = range(len(work)) if items is None else items.tolist()
    return _refusal(version, work, [(item, error) for item in failed])


def refuse_quarantined(
    table: SessionTable, version: LoadedVersion, plan: Plan, places: Ints
) -> list[Answer]:
    return [
        _finish(table, version, plan, place, _quarantined(table, int(plan.slots[place])))
        for place in places.tolist()
    ]


def _turn_away(
    table: SessionTable, version: LoadedVersion, plan: Plan, place: int, now: float
) -> Answer:
    """The answer for a rider who can't ride: its reply from memory, or why not."""
    slot, index = int(plan.slots[place]), int(plan.indexes[place])
    work = plan.works[int(np.searchsorted(plan.bounds, place, "right")) - 1]
    if plan.chunks and plan.chunks[place].done == plan.chunks[place].length:
        table.serving[slot] += 1
        return chunk_answer(table, plan.chunks[place])
    handle = int(plan.handles[place])
    if int(table.handle[slot]) != handle:
        return _finish(table, version, plan, place, table.why_not(handle))
    if work.cancelled:
        return _finish(table, version, plan, place, Cancelled("the caller went away"))
    reply = None
    if not plan.chunks and work.memo is None:
        reply = known_output(table, version, slot, index)
    if reply is not None:
        table.serving[slot] += 1
        version.metrics.duplicates.inc()
        slots = np.array([slot])
        expire = float(table.expire_time(slots)[0])
        return Answer(work, plan.items[place : place + 1], None, reply, (), expire, slots)
    if int(table.state[slot]) == QUARANTINED:
        return _finish(table, version, plan, place, _quarantined(table, slot))
    if work.deadline <= now:
        begun = bool(plan.chunks) and plan.chunks[place].done > 0
        metrics = version.metrics
        (metrics.deadline_compute if begun else metrics.deadline_queue).inc()
        late = DeadlineExceeded("the deadline passed before the step's turn came")
        return _finish(table, version, plan, place, late)
    return _finish(table, version, plan, place, _conflict(table, slot, index))


def _finish(
    table: SessionTable, version: LoadedVersion, plan: Plan, place: int, error: CarouselError
) -> Answer:
    """End an item with an error and let the session's next one come."""
    slot = int(plan.slots[place])
    table.serving[slot] += 1
    work = plan.works[int(np.searchsorted(plan.bounds, place, "right")) - 1]
    _tell_committed(plan, place, error)
    answer = _refusal(version, work, [(int(plan.items[place]), error)])
    if plan.chunks and plan.chunks[place].done and table.handle[slot] == plan.handles[place]:
        one = slice(place, place + 1)
        answer.notices = table.notices.of(plan.items[one], plan.slots[one])
    return answer


def _tell_committed(plan: Plan, place: int, error: CarouselError) -> None:
    if plan.chunks and plan.chunks[place].done:
        error.metadata["committed_steps"] = str(plan.chunks[place].done)


def _refusal(
    version: LoadedVersion, work: Work, errors: Iterable[tuple[int, CarouselError]]
) -> Answer:
    numbered = tuple((int(item), error) for item, error in errors)
    for kind, count in Counter(type(error) for _, error in numbered).items():
        version.metrics.failed(kind.reason, count)
        if issubclass(kind, CONFLICTS):
            version.metrics.conflicts.inc(count)
    nothing = np.zeros((0, version.config.output_size), np.float32)
    return Answer(work, NOTHING, None, nothing, numbered, NEVER)


def _why_refused(
    table: SessionTable, version: LoadedVersion, work: Work, item: int
) -> CarouselError:
    handle, tenant = work.handles[item], work.lane.tenant
    slot = table.slot_of(handle, tenant)
    if slot is None:
        return table.why_not(handle, tenant)
    if int(table.version[slot]) != version.ordinal:
        return MixedModels(
            "all sessions of one message must be of one model version; "
            f"the first is of {version.name}, {session_name(table.ids[slot])} is of another",
            field=f"handles[{item}]",
        )
    version.metrics.rejected(SESSION_FULL)
    return version.door.full(f"at most {SESSION_QUEUE} items of one session may wait")


def _quarantined(table: SessionTable, slot: int) -> SessionQuarantined:
    index = int(table.next_index[slot])
    return SessionQuarantined(
        f"step {index} of {session_name(table.ids[slot])} gave NaN or infinity and was not "
        "committed; reset, rewind or export the session",
        metadata={"step_index": str(index)},
    )


def _conflict(table: SessionTable, slot: int, index: int) -> StepConflict:
    expected = int(table.next_index[slot])
    return StepConflict(
        f"the next step of {session_name(table.ids[slot])} is {expected}, got {index % 2**64}",
        metadata={"expected_step": str(expected)},
    )
