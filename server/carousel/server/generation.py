"""Generation: sample a token, feed it, and so on, through the same turns as everybody's steps.

A session remembers its generation (Memo), together with the state that came of it. So the same
request, made again, finds out what was said and fed already, and goes on from there.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np

from carousel.errors import (
    Cancelled,
    InvalidField,
    NotGenerative,
    QueueFull,
    QuotaExceeded,
    StepConflict,
)
from carousel.server.claim import Claim
from carousel.server.groups import Done
from carousel.server.hall import Hall
from carousel.server.health_messages import item_notice
from carousel.server.loaded import LoadedVersion
from carousel.server.memo import Memo
from carousel.server.names import key_of, session_name
from carousel.server.notices import Notice
from carousel.server.repeats import reply_of
from carousel.server.sessions import Terms
from carousel.server.table import MEMORY, SYNC
from carousel.server.token_writer import TokenWriter
from carousel.server.transcript import Transcript, tokens_of
from carousel.server.wanted import Wanted, read
from carousel.server.work import Floats, Ints
from carousel.v1 import inference_service_pb2 as pb


@dataclass(slots=True)
class Source:
    """The session that generates: the caller's, or one that was made for this call.

    `start` is the index of the generation's first step, `index` that of the next one to be fed.
    """

    version: LoadedVersion
    handle: int
    start: int
    claim: Claim
    tenant: str
    bulk: bool
    deadline: float
    index: int = 0
    durable: bool = False
    notices: list[Notice] = field(default_factory=list)  # not told yet

    async def feed(
        self, hall: Hall, tokens: Ints, memo: Memo, *, patiently: bool = False
    ) -> Floats:
        """Step by tokens [T], at least one; gives the last output [V].

        `patiently`: wait while the queue is full, as what has begun should come to its end. Raises
        the item's error, and Cancelled once another call has taken over.
        """
        last = np.zeros(0, np.float32)
        for begin in range(0, len(tokens), hall.settings.max_chunk):
            part = tokens[begin : begin + hall.settings.max_chunk]
            while (outputs := await self._try(hall, part, memo, patiently)) is None:
                pass
            self.index += len(part)
            last = outputs[-1]
        return last

    async def _try(self, hall: Hall, tokens: Ints, memo: Memo, patiently: bool) -> Floats | None:
        """The last output [1, V]; None after a wait, when the queue was full."""
        async with self.claim.lock:
            if self.claim.owner is not self:
                raise Cancelled("another call goes on with this generation")
            try:
                return await hall.run_steps(
                    self.version,
                    self.handle,
                    self.index,
                    tokens,
                    tenant=self.tenant,
                    bulk=self.bulk,
                    deadline=self.deadline,
                    memo=memo,
                    notices=self.notices,
                )
            except (QueueFull, QuotaExceeded) as full:
                seconds = full.retry_after or 0.0
                if not (patiently and seconds) or time.monotonic() + seconds >= self.deadline:
                    raise
        await asyncio.sleep(seconds)
        return None


async def generate(
    hall: Hall, request: pb.GenerateRequest, *, tenant: str, deadline: float
) -> AsyncIterator[pb.GenerateResponse]:
    """The responses to a request, one a token; ends at once when the generator is closed."""
    begin = time.monotonic()
    version = _version(hall, request, tenant)
    wanted = read(request, version, hall.settings)
    own = f"generate-{secrets.token_hex(8)}" if request.WhichOneof("source") == "model" else ""
    try:
        source = await _source(hall, request, version, own, tenant, deadline)
        transcript, logits = await _take_up(hall, source, wanted)
        received, known = len(wanted.received), len(transcript.rows)
        version.metrics.duplicates.inc(known - received)
        version.metrics.stream_resumes.inc(known > 0)
        writer = TokenWriter(
            request,
            version,
            prompt_tokens=len(wanted.prompt),
            limit=wanted.limit,
            seed=transcript.memo.seed,
            first_index=None if own else source.start + len(wanted.prompt),
        )
        for number in range(wanted.limit):
            if number >= known:
                if hall.draining and source.durable:  # it goes on elsewhere
                    raise hall.draining_error()
                token = np.array([transcript.draw(logits)], np.int64)
                logits = await source.feed(hall, token, transcript.memo, patiently=True)
                now = time.monotonic()
                (version.metrics.next_token if number else version.metrics.first_token).observe(
                    now - begin
                )
                begin = now
                version.metrics.generated_tokens.inc()
            response = writer.write(transcript.rows[number])
            if number >= received:
                response.notices.extend(item_notice(0, notice) for notice in source.notices)
                source.notices.clear()
                yield response
            elif response.finish_reason:
                yield writer.end_alone(response)
            if response.finish_reason:
                return
    finally:
        if own:  # known before it is made, so that none is left when the caller goes meanwhile
            hall.engine.call(_end_quietly, hall, key_of(tenant, own))


def _end_quietly(hall: Hall, session_id: str) -> None:
    if session_id in hall.engine.table.slots:
        hall.sessions.delete(session_id)


def _version(hall: Hall, request: pb.GenerateRequest, tenant: str) -> LoadedVersion:
    kind = request.WhichOneof("source")
    if kind is None:
        raise InvalidField("handle or model must be set", field="source")
    hall.refuse_when_draining()
    if kind == "model":
        version = hall.registry.resolve(request.model, tenant)
    else:
        found = hall.version_of([request.handle], tenant)
        if found is None:
            raise hall.engine.table.why_not(request.handle, tenant)
        version = found
    if not version.generative:
        raise NotGenerative(
            f"{version.name} can't generate: it needs tokens in and a softmax over them out"
        )
    return version


async def _source(
    hall: Hall,
    request: pb.GenerateRequest,
    version: LoadedVersion,
    own: str,
    tenant: str,
    deadline: float,
) -> Source:
    bulk = request.priority == pb.PRIORITY_BULK
    if own:
        terms = Terms(session_id=own, tenant=tenant, durability=MEMORY)
        session = await hall.engine.call(hall.sessions.create, version, terms)
        return Source(version, session.handle, 0, Claim(), tenant, bulk, deadline)
    table = hall.engine.table
    slot = table.slot_of(request.handle, tenant)
    if slot is None:
        raise table.why_not(request.handle, tenant)
    start = request.step_index if request.HasField("step_index") else int(table.next_index[slot])
    claim = hall.claims.setdefault(request.handle, Claim())
    return Source(version, request.handle, start, claim, tenant, bulk, deadline)


@dataclass(slots=True)
class _Found:
    """Where a session stands."""

    session_id: str
    step_index: int
    memo: Memo | None
    output: Floats  # the last one [V]; [0] when none is kept
    durable: bool
    owed: bool  # what it answered last may not leave yet


async def _take_up(hall: Hall, source: Source, wanted: Wanted) -> tuple[Transcript, Floats]:
    """Begin a generation, or go on with it: all that is decided of it is fed.

    Gives what was said, and what the next token is sampled from.
    """
    async with source.claim.lock:
        slot = hall.engine.table.slot_of(source.handle)
        if slot is not None:
            await hall.resident(hall.engine.table.ids[slot])
        found = await hall.engine.call(_find, hall, source)
        memo = _decided(found, source, wanted)
        source.claim.owner = source
    transcript = Transcript(memo, wanted.layout, wanted.options, wanted.prompt.tolist())
    # A session that is not there yet may still have steps in the queue before these.
    source.index = max(found.step_index, source.start)
    source.durable = found.durable
    fed = source.index - source.start
    known = np.append(wanted.prompt, np.array(tokens_of(transcript.rows), np.int64))
    if fed < len(known):
        return transcript, await source.feed(hall, known[fed:], memo)
    if not len(found.output):
        raise InvalidField(
            "without an output of a former step to go on from, the prompt must not be empty",
            field="prompt",
        )
    if found.owed and fed:
        await hall.stored(lambda done: secure(hall, source.handle, done))
    return transcript, found.output


def _find(hall: Hall, source: Source) -> _Found:
    table = hall.engine.table
    slot = table.slot_of(source.handle)
    if slot is None:
        raise table.why_not(source.handle)
    step_index = int(table.next_index[slot])
    outputs = reply_of(table, source.version, hall.sessions.at(slot))
    return _Found(
        session_id=table.ids[slot],
        step_index=step_index,
        memo=table.memo_of(slot),
        output=outputs[-1].copy() if len(outputs) else np.zeros(0, np.float32),
        durable=int(table.durability[slot]) != MEMORY,
        owed=int(table.durability[slot]) == SYNC and table.durable_index[slot] < step_index,
    )


def _decided(found: _Found, source: Source, wanted: Wanted) -> Memo:
    """The memo to go on with. Raises StepConflict where the session was fed something else."""
    memo = wanted.goes_on(found.memo, source.start)
    if memo is None and found.step_index <= source.start:
        memo = wanted.memo(source.start)
    if memo is not None:
        known = len(wanted.prompt) + wanted.layout.count(memo.said)
        if found.step_index == source.start or 0 < known >= found.step_index - source.start:
            return memo
    raise StepConflict(
        f"the next step of {session_name(found.session_id)} is {found.step_index}, and no "
        f"generation like this one began at {source.start}",
        metadata={"expected_step": str(found.step_index)},
    )


def secure(hall: Hall, handle: int, done: Done) -> None:
    slot = hall.engine.table.slot_of(handle)
    if slot is None:  # it ended, or went on elsewhere, since it was found
        raise hall.engine.table.why_not(handle)
    hall.engine.behind.secure([slot], done)
