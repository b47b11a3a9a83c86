"""Prefixes: what sessions are fed before they begin, each computed once and kept as one row."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from carousel.errors import CarouselError, ChunkTooLong, InvalidField
from carousel.server.hall import Hall
from carousel.server.held.queue import HeldWork
from carousel.server.inputs import bad_inputs, read_inputs
from carousel.server.loaded import LoadedVersion
from carousel.server.tenants import party_now
from carousel.server.texts import encode_text
from carousel.server.work import NEVER, Floats, Inputs
from carousel.v1 import session_service_pb2 as pb

OVERHEAD = 512  # bytes of an entry beside its numbers, about


@dataclass(slots=True, frozen=True)
class Prefix:
    """Where a prefix leads to: a value that nobody changes; sessions begin with a copy."""

    steps: int
    row: torch.Tensor  # [width]
    output: Floats  # [1, O], of the last step

    @property
    def bytes(self) -> int:
        return self.row.nbytes + self.output.nbytes + OVERHEAD


@dataclass(slots=True)
class Flight:
    """A prefix that is being computed, and how many wait for it."""

    task: asyncio.Task[Prefix]
    waiting: int = 0


class Prefixes:
    """Rows by content, up to so many bytes; those not used for longest go first."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()
        self._bytes = 0
        self._flights: dict[bytes, Flight] = {}

    async def find(
        self, version: LoadedVersion, request: pb.CreateSessionRequest, tenant: str
    ) -> Prefix:
        """Where the request's prefix leads to, from memory or computed now.

        What another tenant computed is not told by a faster answer: each has entries of its own.
        """
        inputs = _inputs(version, request, self._hall.settings.max_chunk)
        # The health policy has its share in where a prefix leads to.
        rules = hashlib.sha256(repr(version.policy).encode()).digest()
        owner = hashlib.sha256(tenant.encode()).digest()
        key = hashlib.sha256(owner + version.digest + rules + inputs.tobytes()).digest()
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            version.metrics.prefix_hits.inc()
            return kept
        return await self._join(key, version, inputs, tenant)

    async def _join(
        self, key: bytes, version: LoadedVersion, inputs: Inputs, tenant: str
    ) -> Prefix:
        """Wait with all others who want the same; it is given up when nobody waits any more."""
        flight = self._flights.get(key)
        if flight is None:
            version.metrics.prefix_misses.inc()
            task = asyncio.create_task(self._compute(key, version, inputs, tenant))
            flight = self._flights[key] = Flight(task)
        else:
            version.metrics.prefix_hits.inc()
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                del self._flights[key]
                flight.task.cancel()

    async def _compute(
        self, key: bytes, version: LoadedVersion, inputs: Inputs, tenant: str
    ) -> Prefix:
        """Take the steps from the initial state, in turns beside everybody's."""
        initial = version.network.initial_rows(1).detach().cpu().to(torch.float32)
        work = HeldWork(
            initial.numpy().copy(),
            inputs,
            np.array([len(inputs)]),
            output_size=version.config.output_size,
            last_only=True,
            arrived=time.monotonic(),
            deadline=NEVER,
        )
        await self._hall.run_held(version, work, tenant=tenant, party=party_now())
        if work.errors:
            raise work.errors[0]
        prefix = Prefix(len(inputs), torch.from_numpy(work.rows[0]), work.outputs)
        self._keep(key, prefix)
        return prefix

    def _keep(self, key: bytes, prefix: Prefix) -> None:
        limit = self._hall.settings.prefix_cache_bytes
        if prefix.bytes > limit:
            return
        self._kept[key] = prefix
        self._bytes += prefix.bytes
        while self._bytes > limit:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
        self._hall.metrics.prefix_cache_bytes.set(self._bytes)


def _inputs(version: LoadedVersion, request: pb.CreateSessionRequest, max_chunk: int) -> Inputs:
    """Features [T, D] or tokens [T], all good."""
    kind = request.WhichOneof("prefix") or ""
    if request.initial_state:
        raise InvalidField(f"{kind} can't be used together with initial_state", field=kind)
    if kind == "prefix_text":
        inputs: Inputs = encode_text(version.name, version.config, request.prefix_text, field=kind)
    else:
        inputs = _read(version, request)
    if not 1 <= len(inputs) <= max_chunk:
        raise ChunkTooLong(
            f"a prefix must have 1 to {max_chunk} steps, got {len(inputs)}", field=kind
        )
    return inputs


def _read(version: LoadedVersion, request: pb.CreateSessionRequest) -> Inputs:
    tensor = request.prefix_inputs
    try:
        inputs = read_inputs(tensor, version, tensor.shape[0] if tensor.shape else 0)
        if refused := bad_inputs(inputs, version, None):
            raise refused[-1][1]
    except CarouselError as error:
        error.field = f"prefix_{error.field}"
        raise
    return inputs
