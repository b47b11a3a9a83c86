"""StepStates: a message of held states to a work, and the answer from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import numpy as np

from carousel import tensors
from carousel.errors import (
    CarouselError,
    InvalidField,
    MessageTooLarge,
    QueueFull,
    SealBroken,
    SnapshotMismatch,
)
from carousel.server.hall import Hall
from carousel.server.health_messages import item_notice
from carousel.server.held.queue import HeldWork
from carousel.server.held.sealer import Sealer, sealed_bytes
from carousel.server.inputs import bad_inputs, read_inputs
from carousel.server.item_errors import item_error
from carousel.server.loaded import LoadedVersion
from carousel.server.steps import MAX_ITEMS, bad_lengths
from carousel.server.work import Floats, Ints
from carousel.v1 import inference_service_pb2 as pb

P = ParamSpec("P")
T = TypeVar("T")

ASIDE_BYTES = 2**18  # of states; more are sealed and opened in a thread, so that nobody waits


class HeldSteps:
    """Opens states, runs them through the engine, and seals what they became."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._sealed_by: Sealer | None = None

    async def step(
        self,
        request: pb.StepStatesRequest,
        *,
        tenant: str,
        party: str,
        deadline: float,
        origin: Mapping[str, str] | None = None,
    ) -> pb.StepStatesResponse:
        settings = self._hall.settings
        version = self._hall.registry.resolve(request.model, tenant)
        version.check_stepwise()
        lengths = _lengths(request)
        lane = version.door.lane(tenant, party=party)
        if lane.room() <= 0:
            version.metrics.failed(QueueFull.reason, len(lengths))
            raise version.refuse(lane, len(lengths))
        inputs = read_inputs(request.inputs, version, int(lengths.sum()))
        _check_reply_size(request, version, lengths, settings.max_message_bytes)
        # One reason for each item: its length comes before its numbers, these before its state.
        wrong = [*bad_inputs(inputs, version, lengths), *bad_lengths(lengths, settings.max_chunk)]
        sealer = self._sealer().of(tenant)
        size = max(len(lengths) * sealed_bytes(version), sum(map(len, request.states)))
        indexes, rows, broken = await _aside(size, _open, sealer, request.states, version)
        work = HeldWork(
            rows,
            inputs,
            lengths,
            output_size=version.config.output_size,
            last_only=request.output_mode in (pb.OUTPUT_MODE_LAST, pb.OUTPUT_MODE_NONE),
            deadline=deadline,
            arrived=time.monotonic(),
            indexes=indexes,
            errors=broken | dict(wrong),
            origin=origin,
        )
        await self._hall.run_held(version, work, tenant=tenant, party=party)
        for error in work.errors.values():
            version.metrics.failed(error.reason)
        return await _aside(size, _encode, sealer, version, work, request.output_mode)

    def _sealer(self) -> Sealer:
        """With a key of the server's own, made at first need, where none is given."""
        if self._sealed_by is None:
            self._sealed_by = Sealer(self._hall.keyring.keys)
        return self._sealed_by


def _lengths(request: pb.StepStatesRequest) -> Ints:
    count = len(request.states)
    if not 1 <= count <= MAX_ITEMS:
        raise InvalidField(
            f"states must have 1 to {MAX_ITEMS} entries, got {count}", field="states"
        )
    if len(request.lengths) not in (0, count):
        raise InvalidField(
            f"lengths must have as many entries as states, {count}, got {len(request.lengths)}",
            field="lengths",
        )
    return np.array(request.lengths or [1] * count, np.int64)


def _check_reply_size(
    request: pb.StepStatesRequest, version: LoadedVersion, lengths: Ints, limit: int
) -> None:
    """Refuse, before anything runs, what could never be answered in one message."""
    rows = {
        pb.OUTPUT_MODE_LAST: len(lengths),
        pb.OUTPUT_MODE_NONE: 0,
    }.get(request.output_mode, int(lengths.sum()))
    size = rows * version.config.output_size * 4 + len(lengths) * (sealed_bytes(version) + 64)
    if size > limit:
        raise MessageTooLarge(
            f"the answer to {len(lengths)} states of {version.name} would have about {size} bytes, "
            f"a message has at most {limit}: send less at once, or ask for the last outputs only",
            field="states",
        )


async def _aside(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that works on so many bytes of states."""
    if size < ASIDE_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _open(
    sealer: Sealer, states: Sequence[bytes], version: LoadedVersion
) -> tuple[Ints, Floats, dict[int, CarouselError]]:
    """Step indexes [N], rows [N, width], and items whose state can't be used."""
    indexes: Ints = np.zeros(len(states), np.int64)
    rows: Floats = np.empty((len(states), version.schema.width), np.float32)
    rows[:] = version.network.initial_rows(1)[0].detach().cpu().numpy()
    broken: dict[int, CarouselError] = {}
    for item, state in enumerate(states):
        if not state:
            continue
        try:
            indexes[item], rows[item] = sealer.open(state, version, field=f"states[{item}]")
        except (SealBroken, SnapshotMismatch) as error:
            broken[item] = error
    return indexes, rows, broken


def _encode(
    sealer: Sealer,
    version: LoadedVersion,
    work: HeldWork,
    mode: pb.OutputMode.ValueType,
) -> pb.StepStatesResponse:
    indexes, every = work.indexes, np.arange(len(work.indexes))
    good = np.ones(len(indexes), np.bool_)
    good[list(work.errors)] = False
    if mode == pb.OUTPUT_MODE_NONE:
        lengths, outputs = np.zeros_like(indexes), work.outputs[:0]
    elif mode == pb.OUTPUT_MODE_LAST:
        lengths = good.astype(np.int64)
        outputs = work.outputs[good]
    else:
        lengths = np.where(good, work.lengths, 0)
        outputs = work.outputs[np.repeat(good, work.lengths)]
    after = np.where(good, indexes + work.lengths, 0).tolist()
    return pb.StepStatesResponse(
        lengths=[] if (lengths == 1).all() else lengths.tolist(),
        outputs=tensors.encode(outputs),
        states=[
            sealer.seal(version.digest, index, row) if fine else b""
            for fine, index, row in zip(good.tolist(), after, work.rows, strict=True)
        ],
        errors=[item_error(item, error) for item, error in sorted(work.errors.items())],
        model_version=version.name,
        step_indexes=after,
        notices=[
            item_notice(item, notice)
            for item, notice in work.notices.of(every, every)
            if good[item]
        ],
    )
