"""The turn of held states: in the engine's thread, beside the sessions' turns."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from carousel.errors import (
    Cancelled,
    CarouselError,
    DeadlineExceeded,
    InternalError,
    ModelNotLoaded,
    NonFiniteResult,
)
from carousel.server.health_events import publish
from carousel.server.held.queue import Group, HeldWork
from carousel.server.loaded import LoadedVersion
from carousel.server.ride import finite_rows
from carousel.server.state_health import Touch
from carousel.server.tracing.trace import Tracer
from carousel.server.work import Floats, Inputs, Ints

log = logging.getLogger("carousel.held")

Mask = npt.NDArray[np.bool_]


def admit(version: LoadedVersion, work: HeldWork) -> None:
    """Queue a work. Raises ModelNotLoaded."""
    if version.retired:
        raise ModelNotLoaded(f"{version.name} was taken out of service")
    version.held.push(work)


def dismiss(version: LoadedVersion) -> None:
    """Answer all that waits for a version that goes out of service."""
    groups = version.held.clear()
    _fail(groups, ModelNotLoaded(f"{version.name} was taken out of service"))
    _tell(groups)


def turn(version: LoadedVersion, tracer: Tracer) -> bool:
    """One turn for those who wait; False when nobody does."""
    if not len(version.held):
        return False
    limit = version.scheduler.limit_beside()
    groups, sliced = version.held.next(in_a_hurry=len(version.scheduler) > 0, limit=limit)
    begin = time.monotonic()
    try:
        riders = [group for group in groups if _may_ride(version, group, begin)]
        going_on = _ride(version, riders, begin, tracer, sliced=sliced) if riders else []
    except Exception:  # a bug must not leave anybody without an answer
        log.exception("a turn of held states of %s failed", version.name)
        _fail(groups, InternalError("the turn failed; nothing came of it"))
    else:
        for group in going_on:
            version.held.put_back(group)
    _tell(groups)
    return True


def _may_ride(version: LoadedVersion, group: Group, now: float) -> bool:
    """Whether anybody still waits for these; those who can't ride are told so."""
    if group.work.cancelled:
        _fail([group], Cancelled("the caller went away"))
    elif group.work.deadline <= now:
        begun = int((group.work.done[group.items] > 0).sum())
        version.metrics.deadline_compute.inc(begun)
        version.metrics.deadline_queue.inc(len(group.items) - begun)
        _fail([group], DeadlineExceeded("the deadline passed before the step's turn came"))
    else:
        return True
    return False


def _ride(
    version: LoadedVersion, riders: Sequence[Group], begin: float, tracer: Tracer, *, sliced: bool
) -> list[Group]:
    """Run the network once for all riders; gives those whose chunk goes on."""
    states = np.concatenate([group.work.rows[group.items] for group in riders])  # [B, width]
    state = states if version.on_cpu else torch.from_numpy(states).to(version.device)
    lengths = _slices(riders, version.held.chunk_slice) if sliced else None
    inputs = _inputs(version, riders, lengths)
    computing = time.monotonic()
    begins = [g.work.indexes[g.items] + g.work.done[g.items] for g in riders]
    places = np.arange(len(state))
    outputs, new, touches = version.run(inputs, lengths, state, np.concatenate(begins), places)
    seconds = time.monotonic() - computing
    finite = finite_rows(outputs, new)
    good = np.ones(len(state), np.bool_) if finite is None else finite
    if touches:
        _tell_health(version, riders, [touch for touch in touches if good[touch.slot]])
    after: Floats = torch.as_tensor(new).cpu().numpy()
    going_on = _commit(riders, outputs, after, good, lengths)
    _measure(version, riders, good, lengths, begin, seconds)
    tracer.turn(
        version.name,
        [group.work for group in riders],
        np.cumsum([0, *(len(group.items) for group in riders)]),
        begin=begin,
        computed=computing + seconds,
        end=time.monotonic(),
    )
    return going_on


def _tell_health(version: LoadedVersion, riders: Sequence[Group], touches: Sequence[Touch]) -> None:
    """Keep for the answers, count and log what the health policy did."""
    items = [(group.work, item) for group in riders for item in group.items.tolist()]
    for touch in touches:
        work, item = items[touch.slot]
        work.notices.put(item, touch.rule, touch.value, touch.step_index)
    publish(version, touches, lambda slot: "a held state")


def _slices(riders: Sequence[Group], longest: int) -> Ints:
    """Steps that each rides in this turn, [B]."""
    left = [group.work.lengths[group.items] - group.work.done[group.items] for group in riders]
    return np.minimum(np.concatenate(left), longest)


def _inputs(version: LoadedVersion, riders: Sequence[Group], lengths: Ints | None) -> Inputs:
    """The next steps' inputs, [B, ...], or of slices [B, T, ...]."""
    begins = [group.work.offsets[group.items] + group.work.done[group.items] for group in riders]
    if lengths is None:
        pairs = zip(riders, begins, strict=True)
        return np.concatenate([group.work.inputs[begin] for group, begin in pairs])
    shape = (len(lengths), int(lengths.max()), *version.input_shape)
    inputs: Inputs = np.zeros(shape, version.input_dtype)
    place = 0
    for group, begin in zip(riders, begins, strict=True):
        for first in begin.tolist():
            length = int(lengths[place])
            inputs[place, :length] = group.work.inputs[first : first + length]
            place += 1
    return inputs


def _commit(
    riders: Sequence[Group], outputs: Floats, new: Floats, good: Mask, lengths: Ints | None
) -> list[Group]:
    """Move each work on by what is finite; gives those whose chunk goes on."""
    going_on = []
    for group, part in _parts(riders):
        work, items, ok = group.work, group.items[good[part]], good[part]
        work.rows[items] = new[part][ok]
        if lengths is None:
            places = items if work.last_only else work.offsets[items]
            work.outputs[places] = outputs[part][ok]
            work.done[items] = 1
        else:
            _put_slices(work, items, outputs[part][ok], lengths[part][ok])
        over = work.done[items] == work.lengths[items]
        work.open[items[over]] = False
        if not over.all():
            going_on.append(Group(work, items[~over]))
        if not ok.all():
            _fail([Group(work, group.items[~ok])], NonFiniteResult("a step gave NaN or infinity"))
    return going_on


def _put_slices(work: HeldWork, items: Ints, outputs: Floats, lengths: Ints) -> None:
    """Outputs [n, T, O] of slices into their places."""
    if work.last_only:
        work.outputs[items] = outputs[np.arange(len(items)), lengths - 1]
    else:
        begins = (work.offsets[items] + work.done[items]).tolist()
        for begin, rows, length in zip(begins, outputs, lengths.tolist(), strict=True):
            work.outputs[begin : begin + length] = rows[:length]
    work.done[items] += lengths


def _parts(riders: Sequence[Group]) -> Iterator[tuple[Group, slice]]:
    """Each group and its places among the riders."""
    edges = itertools.accumulate((len(group.items) for group in riders), initial=0)
    for group, (begin, end) in zip(riders, itertools.pairwise(edges), strict=True):
        yield group, slice(begin, end)


def _measure(
    version: LoadedVersion,
    riders: Sequence[Group],
    good: Mask,
    lengths: Ints | None,
    begin: float,
    seconds: float,
) -> None:
    steps = int(good.sum() if lengths is None else lengths[good].sum())
    version.metrics.nonfinite.inc(len(good) - int(good.sum()))
    works, items = list[HeldWork](), None
    if lengths is None:
        works, items = [group.work for group in riders], [len(group.items) for group in riders]
    version.metrics.turns.tell(
        works, items, len(good), steps, begin=begin, computing=seconds, end=time.monotonic()
    )


def _fail(groups: Iterable[Group], error: CarouselError) -> None:
    for group in groups:
        group.work.fail(group.items, error)


def _tell(groups: Iterable[Group]) -> None:
    """Tell the event loop, once, of the works of which nothing is open any more."""
    over = [group.work for group in groups if not group.work.open.any()]
    if over:
        over[0].finished.get_loop().call_soon_threadsafe(_settle, over)


def _settle(works: Sequence[HeldWork]) -> None:
    for work in works:
        if not work.finished.done():
            work.finished.set_result(None)
