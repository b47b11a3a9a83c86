"""The witness: whose calls of the busiest methods are taken back, counted while somebody asks.

To ask gRPC about a connection that resets its calls takes tenths of a second, in which nobody else
is served. To ask each call for its peer would cost those who behave; so it is done in the moments
in which more is taken back than may be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from carousel.server.resets.networks import Network, network_of_peer
from carousel.server.resets.tally import Streams


class Witness:
    """The event loop counts, the guard's thread asks; `watching` says whether it does."""

    def __init__(self) -> None:
        self.watching = False
        self._came: Counter[str] = Counter()  # calls by peer
        self._lost: Counter[str] = Counter()

    def came(self, peer: str) -> Callable[[], None]:
        """A call came; gives what is to be called when it is taken back."""
        lost = self._lost
        self._came[peer] += 1
        return lambda: lost.update((peer,))

    def start(self) -> None:
        self._came, self._lost = Counter(), Counter()
        self.watching = True

    def stop(self) -> dict[int, Streams]:
        """What was seen since the start, nothing if there was none. What has not ended counts as
        answered."""
        if not self.watching:
            return {}
        self.watching = False
        came, lost = self._came.copy(), self._lost.copy()
        self._came, self._lost = Counter(), Counter()
        found = {}
        for number, (peer, count) in enumerate(came.items()):
            with suppress(ValueError):  # of no TCP
                network: Network = network_of_peer(peer)
                found[number] = Streams(network, count - lost[peer], lost[peer])
        return found
