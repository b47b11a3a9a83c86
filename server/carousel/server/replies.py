"""The replies of more than one step that are kept for a retry, by slot of the session table."""

from __future__ import annotations

from collections.abc import KeysView

from carousel.server.work import Floats

MOST_BYTES = 2**30


class ChunkReplies:
    """Outputs [steps, O] of each session's last request, where that was a chunk.

    `bytes` is what they hold in memory; after a turn that made it more than MOST_BYTES, the oldest
    are let go of.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Floats] = {}  # oldest first
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes > MOST_BYTES

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def slots(self) -> KeysView[int]:
        return self._kept.keys()

    def get(self, slot: int) -> Floats | None:
        return self._kept.get(slot)

    def put(self, slot: int, reply: Floats) -> None:
        self.forget(slot)
        self._kept[slot] = reply
        self.bytes += _held(reply)

    def forget(self, slot: int) -> None:
        reply = self._kept.pop(slot, None)
        if reply is not None:
            self.bytes -= _held(reply)

    def oldest(self) -> tuple[int, Floats]:
        """The slot and the reply that were put first."""
        return next(iter(self._kept.items()))


def _held(reply: Floats) -> int:
    """Bytes that stay in memory for a reply: of a part of an array, all of it."""
    return reply.nbytes if reply.base is None else reply.base.nbytes
