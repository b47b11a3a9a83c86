"""The link: what is sent arrives, in order and whole, whatever its size."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Sequence

from carousel.server.frontends.link import RING_BYTES, Link, make_memory
from tests.processes import PATIENCE

SIZES = (0, 1, 3, 100, 4096, RING_BYTES // 3, RING_BYTES - 4, RING_BYTES, 3 * RING_BYTES + 7)


def records(seed: int) -> list[bytes]:
    """Small ones in a crowd, and some that are longer than the ring."""
    chance = random.Random(seed)
    sizes = [*SIZES, *(chance.randrange(300) for _ in range(3000)), *SIZES]
    return [chance.randbytes(size) for size in sizes]


class Ends:
    """Both ends of a link in one event loop, and what came to each."""

    def __init__(self) -> None:
        memory = make_memory()
        self.received: tuple[list[bytes], list[bytes]] = ([], [])
        self.lost = asyncio.Event()
        self.news = asyncio.Event()
        first, second = socket.socketpair()
        self.links = tuple(
            Link(
                memory,
                near,
                is_engine=number == 0,
                receive=lambda got, number=number: self._receive(number, got),  # type: ignore[misc]
                lost=self.lost.set,
            )
            for number, near in enumerate((first, second))
        )
        os.close(memory)

    def _receive(self, number: int, got: Sequence[bytes]) -> None:
        self.received[number].extend(got)
        self.news.set()

    async def until(self, *counts: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while tuple(map(len, self.received)) != counts:
                self.news.clear()
                await self.news.wait()

    def close(self) -> None:
        for link in self.links:
            link.close()


def test_records_of_any_size_arrive_whole_and_in_order_both_ways() -> None:
    async def main() -> None:
        ends = Ends()
        there, back = records(1), records(2)
        for record in there:
            ends.links[0].send(record)
        for record in back:
            ends.links[1].send(record)
        await ends.until(len(back), len(there))
        assert ends.received == (back, there)
        ends.close()

    asyncio.run(main())


def test_a_reader_that_falls_behind_misses_nothing() -> None:
    """More notes than the socket has room for, and more bytes than the ring."""

    async def main() -> None:
        ends = Ends()
        loop = asyncio.get_running_loop()
        reader = ends.links[1]._socket
        loop.remove_reader(reader)  # it is busy with something else
        sent = [bytes([number % 251]) * 3000 for number in range(2000)]
        for record in sent:
            ends.links[0].send(record)
            await asyncio.sleep(0)
        loop.add_reader(reader, ends.links[1]._readable)
        await ends.until(0, len(sent))
        assert ends.received[1] == sent
        ends.close()

    asyncio.run(main())


def test_the_end_of_one_side_is_told_to_the_other_after_all_that_it_said() -> None:
    async def main() -> None:
        ends = Ends()
        ends.links[0].send(b"last words")
        await ends.links[0].sent()
        ends.links[0].close()
        async with asyncio.timeout(PATIENCE):
            await ends.lost.wait()
        assert ends.received[1] == [b"last words"]
        ends.close()

    asyncio.run(main())
