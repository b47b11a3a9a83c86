"""The guard: a network that takes back more calls than may be is shut out for a while.

A call costs its caller two small frames, and the server a hundred times as much, even where it is
reset at once. gRPC hands all of them over, in the order in which they came, so others wait
behind them. What it counts of each connection says who does it, under TLS too, and what it has
not yet read of their connections is discarded with them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from carousel.server.resets import own_sockets, packet_filter
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.resets.networks import Network
from carousel.server.resets.packet_filter import MOST_NETWORKS
from carousel.server.resets.tally import NEWEST, Streams, Tally, some_of
from carousel.server.resets.witness import Witness

log = logging.getLogger("carousel.resets")

LOOK_SECONDS = 0.05
FEW_ANSWERED = 4  # calls without an answer for each that has one
# As many as are allowed in a second, between two looks or on connections made since, are clear at
# once; of older connections only two looks tell how many were lately.
CLEAR_SECONDS = 1.0
PAUSE_SECONDS = 2.0  # after somebody was shut out: what they left behind is nobody else's


@dataclass(frozen=True, slots=True)
class ShutOut:
    """`resets` is what the network took back in a second."""

    network: Network
    resets: int
    connections: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of the connections from a moment on; `newest` of all had this number."""

    streams: dict[int, Streams]
    newest: int
    moment: float  # on the clock of time.monotonic


class Guard:
    """Looks at a server's counts in a thread of its own.

    `most` calls a second may be taken back by one network; above it, where hardly any of its calls
    are answered, it is out for `seconds`.
    """

    def __init__(
        self,
        tally: Tally,
        port: int,
        metrics: ResetMetrics,
        lost: Callable[[], int],
        witness: Witness,
        *,
        most: int,
        seconds: float,
        tell: Callable[[ShutOut], None] = lambda event: None,
    ) -> None:
        """`lost` is how many calls were taken back, or never came as a whole, since the start."""
        self._tally, self._port, self._metrics = tally, port, metrics
        self._lost, self._witness = lost, witness
        self._most, self._seconds, self._tell = most, seconds, tell
        self._out: dict[Network, float] = {}  # until when, by time.monotonic
        self._count, self._looked = lost(), time.monotonic()
        self._newest = 0  # gRPC's number of the connection that was made last
        self._new: dict[int, Network] = {}  # made since the look before the witness was asked
        self._before: Sight | None = None
        self._rests_until = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="carousel-resets", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        failing = False  # is told once
        while not self._ending.wait(LOOK_SECONDS):
            try:
                self.look(time.monotonic())
            except Exception:  # whoever is not shut out is at least served
                if not failing:
                    log.exception("callers that take back their calls could not be looked for")
                failing = True
            else:
                failing = False

    def look(self, now: float) -> None:
        """Once; `now` is on the clock of time.monotonic."""
        count, seconds = self._lost(), now - self._looked
        many = count - self._count > self._most * seconds
        self._count, self._looked = count, now
        new = self._tally.connections(self._newest)
        self._newest = max(new, default=self._newest)
        rests = now < self._rests_until
        if self._out:
            self._let_in(now)
            if many or rests:  # more of them may have been on their way
                self._cut()
        if rests or not many:
            self._before = None
            self._witness.stop()
        elif self._before is not None:
            before, self._before = self._before, None
            newer = self._inside(self._tally.connections(before.newest))
            after = self._tally.streams([*before.streams, *newer[-NEWEST:]])
            self._blame(before.streams, after, time.monotonic() - before.moment)
        elif not self._witness.watching:
            self._new = new
            self._witness.start()
        elif not (
            self._blame({}, self._witness.stop(), CLEAR_SECONDS)
            or self._blame({}, self._tally.streams(self._inside(self._new | new)), CLEAR_SECONDS)
        ):
            numbers = self._inside(self._tally.connections())
            moment = time.monotonic()
            self._before = Sight(self._tally.streams(some_of(numbers)), self._newest, moment)

    def _inside(self, connections: dict[int, Network]) -> list[int]:
        """Numbers of those whose network is not out already."""
        return [number for number, network in connections.items() if network not in self._out]

    def _blame(self, before: dict[int, Streams], after: dict[int, Streams], seconds: float) -> bool:
        """Shut out whoever took back too many calls in so many seconds; whether there was one."""
        network, resets = worst(before, after)
        if network is None or resets <= self._most * seconds:
            return False
        now = time.monotonic()
        self._rests_until, self._before = now + PAUSE_SECONDS, None
        if len(self._out) >= MOST_NETWORKS:
            del self._out[min(self._out, key=lambda one: self._out[one])]
        self._out[network] = now + self._seconds
        self._filter()
        event = ShutOut(network, int(resets / seconds), self._cut(), self._seconds)
        self._metrics.shut_out.inc()
        log.warning(
            "%s is shut out for %g s: it took back at least %d calls a second, %d are allowed",
            network, self._seconds, event.resets, self._most,
        )  # fmt: skip
        self._tell(event)
        return True

    def _let_in(self, now: float) -> None:
        over = [network for network, until in self._out.items() if until <= now]
        for network in over:
            del self._out[network]
        if over:
            self._filter()

    def _filter(self) -> None:
        self._metrics.out.set(len(self._out))
        with ExitStack() as stack:
            for listener in own_sockets.listeners(self._port):
                packet_filter.shut_out(stack.enter_context(listener), self._out)

    def _cut(self) -> int:
        count = own_sockets.cut(self._port, self._out.__contains__)
        self._metrics.cut.inc(count)
        return count


def worst(before: dict[int, Streams], after: dict[int, Streams]) -> tuple[Network | None, int]:
    """Who left most calls without an answer between two looks, and let hardly any be answered."""
    answered: Counter[Network] = Counter()
    unanswered: Counter[Network] = Counter()
    for number, now in after.items():
        then = before.get(number)
        answered[now.network] += now.answered - (then.answered if then else 0)
        unanswered[now.network] += now.unanswered - (then.unanswered if then else 0)
    for network, count in unanswered.most_common():
        if count > FEW_ANSWERED * answered[network]:
            return network, count
    return None, 0
