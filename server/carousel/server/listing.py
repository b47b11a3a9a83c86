"""Listing: pages of live sessions, those that are here and those at rest in the store."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from carousel.server import names
from carousel.server.hall import Hall
from carousel.server.session_values import describe_record
from carousel.server.table import FREE
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb


async def page(hall: Hall, request: pb.ListSessionsRequest, tenant: str) -> pb.ListSessionsResponse:
    """In order of their ids. Raises InvalidField."""
    size = names.page_size(request.page_size)
    last = names.page_key(request.page_token) if request.page_token else ""
    last = names.key_of(tenant, last) if last else ""
    refs = []
    if request.model:
        ref = names.ModelRef.parse(request.model, field="model")
        refs = [ref, ref.of(tenant)]  # the operator's model of that name, and the tenant's
    here, total = await hall.engine.call(_here, hall, tenant, refs, last, size)
    ids = hall.engine.table.slots
    resting = await hall.at_rest.page(
        last,
        size + 1,
        prefix=names.key_of(tenant, ""),
        until=names.session_key(here[-1]) if len(here) > size else None,
        wanted=lambda record: record.session_id not in ids and _covered(record.model_version, refs),
    )
    sessions = sorted([*here, *map(describe_record, resting)], key=names.session_key)
    response = pb.ListSessionsResponse(sessions=sessions[:size], total_size=total)
    if len(sessions) > size:
        last = names.session_key(sessions[size - 1])
        response.next_page_token = names.page_token(names.id_of(last) if tenant else last)
    return response


def _here(
    hall: Hall, tenant: str, refs: Sequence[names.ModelRef], last: str, size: int
) -> tuple[list[session_pb2.Session], int]:
    """The first sessions here behind `last`, one more than a page, and how many match."""
    table = hall.engine.table
    wanted = [v.ordinal for v in hall.engine.versions if _covered(v.key, refs)]
    matching = (table.state != FREE) & np.isin(table.version, wanted)
    if tenant:
        matching &= table.tenant == table.owners.number(tenant)
    ids = [table.ids[slot] for slot in np.flatnonzero(matching).tolist()]
    first = heapq.nsmallest(size + 1, (i for i in ids if i > last))
    return [hall.sessions.describe(table.slots[i]) for i in first], len(ids)


def _covered(key: str, refs: Sequence[names.ModelRef]) -> bool:
    """Whether a version, by its key, is one of what is asked for; nothing asks for all."""
    return not refs or any(ref.covers(key) for ref in refs)
