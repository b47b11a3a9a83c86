"""What an operator does to a session by its id, without taking it over from whoever holds it.

`Client` gives these to the holder of a session only, since `attach` fences the former holder. The
contract needs no handle for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carousel.client import Client, SessionInfo, Snapshot


def fork(
    client: Client, session: str, *, count: int, session_ids: Sequence[str]
) -> list[SessionInfo]:
    from carousel.client import _session_calls as calls
    from carousel.client._names import session_name
    from carousel.client._session_values import session_info

    call = calls.fork(session_name(session), count, session_ids)
    made = client._transport.call(call, None)
    return [session_info(one) for one in made]


def export(client: Client, session: str) -> Snapshot:
    from carousel.client import _session_calls as calls
    from carousel.client._names import session_name

    return client._transport.call(calls.export(session_name(session)), None)


def touch(client: Client, session: str, *, ttl: float | None) -> SessionInfo:
    from carousel.client import _session_calls as calls

    return client._transport.call(calls.touch(session, ttl), None)
