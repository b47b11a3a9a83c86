"""Request ids: a request that is sent again gets the first one's result, and does nothing more."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from carousel.errors import InvalidField

T = TypeVar("T")

REMEMBERED = 1024
MAX_LENGTH = 128


def check_request_id(text: str, *, field: str = "request_id") -> str:
    """The id as it was given. Raises InvalidField."""
    if len(text) > MAX_LENGTH:
        raise InvalidField(
            f"{field} must have at most {MAX_LENGTH} characters, got {len(text)}", field=field
        )
    return text


class _Entry(Generic[T]):
    __slots__ = ("lock", "request", "result")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.request = b""
        self.result: T | None = None


class RequestIds(Generic[T]):
    """Results of the last `limit` requests that had an id. Failures are forgotten at once."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[str, str], _Entry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def once(
        self,
        request_id: str,
        request: Message,
        work: Callable[[], Awaitable[T]],
        *,
        field: str,
        tenant: str = "",
    ) -> T:
        """The result of `work`, or of the tenant's first call with this id; a call under way is
        waited for.

        Raises InvalidField when the id was used for another request.
        """
        if not request_id:
            return await work()
        check_request_id(request_id, field=field)
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        key = tenant, request_id
        entry = self._entries.setdefault(key, _Entry())
        async with entry.lock:
            if entry.result is None:
                try:
                    entry.result = await work()
                except BaseException:
                    self._entries.pop(key, None)
                    raise
                entry.request = digest
                self._entries[key] = entry
                while len(self._entries) > self._limit:
                    self._entries.popitem(last=False)
        if entry.request != digest:
            raise InvalidField(f"{field} was used for another request: {request_id!r}", field=field)
        return entry.result
