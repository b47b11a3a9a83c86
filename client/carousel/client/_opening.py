"""Opening: a session that is about to be, for `await` and for `async with`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any

from carousel.client._async_session import AsyncSession


class Opening:
    """`session = await opening`, or `async with opening as session`; once."""

    __slots__ = ("_open", "_session")

    def __init__(self, open: Callable[[], Awaitable[AsyncSession]]) -> None:
        self._open = open
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, Any, AsyncSession]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._open()
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.__aexit__(kind, error, trace)
