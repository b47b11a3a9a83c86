"""The scheduler: who rides the next turn. It knows queues and order; it computes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from carousel.server.chunk_queue import ChunkQueue, plan_of
from carousel.server.plan import Chunk, Plan
from carousel.server.shares import FirstOfEach, Shares, is_bulk
from carousel.server.step_queue import StepQueue
from carousel.server.work import Handles, Ints

__all__ = ["SESSION_QUEUE", "Chunk", "Plan", "Scheduler"]

SESSION_QUEUE = 1024  # items of one session that may wait
BULK_SHARE = 16  # while bulk work waits, it gets at least one step for so many interactive ones
NO_LIMIT = 2**62
LONG_TURN = 8  # a turn of slices that no single step waits for may be so much longer

# Whoever comes while others always wait, waits for the turn that runs and rides one that is full.
SHARED_SECONDS = 0.001  # so turns beside a lane with little are kept to about this long,
SHARED_STEPS = 32  # but no smaller: a step costs more in a smaller turn
SLICES_AT_LEAST = 16  # that ride a turn, if so many wait
SHORT_FOR = 2.0  # seconds after such a one has come


class Scheduler:
    """The queues of one model version. Single steps and slices of chunks ride in different turns.

    `max_batch` riders a turn; a slice has at most `chunk_slice` steps, so that a chunk of any
    length holds a single step up for no longer than about one more turn. Lanes share the steps
    (see Shares); interactive lanes go first, and bulk lanes get what they leave over, and one step
    for 16 of theirs in any case.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        max_batch: int,
        chunk_slice: int,
        max_queue: int = NO_LIMIT,
        max_tenant_queue: int = NO_LIMIT,
    ) -> None:
        self.max_batch = max_batch
        self.chunk_slice = chunk_slice
        self.max_queue = max_queue
        self.max_tenant_queue = max_tenant_queue
        self.steps = StepQueue(input_shape, dtype)
        self.chunks = ChunkQueue()
        self._shares = Shares()
        self._bulk_owed = 0.0  # steps
        self._rode_slices = True  # in the last turn
        self._is_shared = False  # more than one lane waits
        self._short_until = 0.0  # on the clock of time.monotonic
        self._steps_in_time = [float(max_batch), float(max_batch)]  # of single steps, of slices

    def __len__(self) -> int:
        return len(self.steps) + len(self.chunks)

    def next(self, serving: Ints) -> Plan | None:
        """The riders of the next turn, or None when nobody can ride."""
        self._is_shared = self._several_wait()
        if self._is_shared and self._few_stand_beside_much():
            self.be_short(time.monotonic())
        if self._slices_first():
            return self._slices(serving) or self._singles(serving)
        return self._singles(serving) or self._slices(serving)

    def limit_beside(self) -> int:
        """How many may ride a turn beside those of these queues: few while somebody comes here."""
        if len(self):
            self.be_short(time.monotonic())
        return self._limit(self.max_batch, slices=False)

    def be_short(self, now: float, *, seconds: float = SHORT_FOR) -> None:
        """Who has little beside others has come, and may again at any moment."""
        self._short_until = max(self._short_until, now + seconds)

    def took(self, steps: int, seconds: float) -> None:
        """How long the last turn took."""
        fits = steps * SHARED_SECONDS / seconds
        limit = self._steps_in_time[self._rode_slices]
        if seconds > SHARED_SECONDS:
            limit = max(min(fits, limit), SHARED_STEPS)
        else:
            limit = min(max(fits, limit), self.max_batch)
        self._steps_in_time[self._rode_slices] = limit

    def take_fenced(self, handle: Handles) -> list[Plan]:
        """Take out everything whose handle is not the one that its slot has now."""
        single = self.steps.take_fenced(handle) if len(self.steps) else None
        plans = [] if single is None else [single]
        chunks = [chunk for chunk in self.chunks if int(handle[chunk.slot]) != chunk.handle]
        if chunks:
            self.drop(chunks)
            plans.append(plan_of(chunks))
        return plans

    def drop(self, chunks: Collection[Chunk]) -> None:
        """Take chunks out, wherever they wait."""
        self.chunks.remove(chunks)

    def shed(self, tail: Ints) -> list[Plan]:
        """Take out the newest bulk items where more wait than may, of a tenant or in all."""
        bulk = {lane for lane in self.steps.lanes if lane & 1}
        bulk |= {lane for lane in self.chunks.lanes if lane & 1}
        if not bulk:
            return []
        lanes = Counter(self.steps.lanes)
        lanes.update({lane: len(chunks) for lane, chunks in self.chunks.lanes.items()})
        plans: list[Plan] = []
        for lane in bulk:
            over = lanes[lane] + lanes[lane - 1] - self.max_tenant_queue
            if over > 0:
                plans += self._shed(over, lane, tail)
        over = len(self) - self.max_queue
        if over > 0:
            plans += self._shed(over, None, tail)
        return plans

    def _shed(self, count: int, lane: int | None, tail: Ints) -> Iterable[Plan]:
        single = self.steps.take_newest_bulk(count, lane, tail)
        if single is not None:
            count -= len(single)
            yield single
        chunks = self.chunks.newest_bulk(count, lane, tail) if count and len(self.chunks) else []
        if chunks:
            self.drop(chunks)
            yield plan_of(chunks)

    def _several_wait(self) -> bool:
        """Whether more than one lane does."""
        steps, chunks = self.steps.lanes, self.chunks.lanes
        if len(steps) + len(chunks) < 2:
            return False
        return len(steps) > 1 or len(chunks) > 1 or steps.keys() != chunks.keys()

    def _few_stand_beside_much(self) -> bool:
        """Whether an interactive lane has no more than its share of a full turn: of single steps
        beside chunks or bulk work, of chunks beside bulk work.

        Lanes that all have more want many steps, and get most of them in full turns. What single
        steps of others are beside those of a lane is told from outside: see `be_short`.
        """
        steps, chunks = self.steps.lanes, self.chunks.lanes
        has_bulk = any(lane & 1 for lane in (*steps, *chunks))
        if not (has_bulk or chunks):
            return False
        share = self.max_batch / len(steps.keys() | chunks.keys())
        if any(count <= share for lane, count in steps.items() if not lane & 1):
            return True
        share /= self.chunk_slice
        few = (len(waiting) <= share for lane, waiting in chunks.items() if not lane & 1)
        return has_bulk and any(few)

    def _slices_first(self) -> bool:
        """Single steps and slices take turns, unless others than those are next who rode last."""
        if self._is_shared and len(self.steps) and len(self.chunks):
            singles, slices = self._rank(self.steps.lanes), self._rank(self.chunks.lanes)
            if singles != slices:
                return slices < singles
        return not self._rode_slices

    def _rank(self, lanes: Iterable[int]) -> tuple[bool, int]:
        """Of whoever goes first among lanes: the lowest is next."""
        numbers = np.fromiter(lanes, np.int64)
        bulk_next = self._bulk_owed >= self.max_batch
        first = is_bulk(numbers) == bulk_next
        has_first = bool(first.any())
        lowest = self._shares.rounds(numbers[first] if has_first else numbers).min()
        return not has_first, int(lowest)

    def _singles(self, serving: Ints) -> Plan | None:
        if not len(self.steps):
            return None
        limit = self._limit(self.max_batch, slices=False)
        if not (self._is_shared and len(self.chunks)):  # nobody is owed anything who comes along
            plan = self.steps.take_whole(serving, limit)
            if plan is not None:
                self._rode_slices = False
                if self._is_shared:
                    self._bulk_owed = 0.0
                else:
                    self._ride_alone(len(plan))
                return plan
        ready = self.steps.ready(serving, limit + 1)
        if not len(ready):
            return None
        self._rode_slices = False
        if self._is_shared:
            return self.steps.take(self._share(ready, limit))
        self._ride_alone(min(limit, len(ready)))
        return self.steps.take(ready[:limit])

    def _limit(self, steps: int, *, slices: bool) -> int:
        """How many steps the next turn has at most, where it might have so many."""
        is_short = time.monotonic() < self._short_until
        return min(steps, int(self._steps_in_time[slices])) if is_short else steps

    def _share(self, ready: Ints, limit: int) -> Ints:
        """Those of the ready items that ride, when several lanes wait."""
        if len(ready) <= limit and not len(self.chunks):
            self._bulk_owed = 0.0
            return ready  # all of them, so that nobody is owed anything
        first = FirstOfEach.among(self.steps.lanes_at(ready), limit)
        rounds = self._shares.rounds(first.lanes)[first.group] + first.ranks
        chosen = self._by_priority(is_bulk(first.lanes)[first.group], rounds, limit)
        taken = np.bincount(first.group[chosen], minlength=len(first.lanes))
        # What stayed empty is owed, but not more than one turn of slices pays back.
        unused = min(limit - len(chosen), self._limit(self.max_batch, slices=True))
        self._settle(first.lanes, taken, first.counts - taken, self.chunks.lanes, unused)
        return np.sort(ready[first.places[chosen]])

    def _by_priority(self, bulk: Ints, rounds: Ints, limit: int) -> Ints:
        """Places of the riders among candidates: the lowest rounds of each priority."""
        waiting = int(bulk.sum())
        interactive = len(bulk) - waiting
        left = max(limit - interactive, int(self._bulk_owed))
        bulk_riders = min(left, waiting, limit)
        order = np.lexsort((rounds, bulk))
        first = order[: min(interactive, limit - bulk_riders)]
        return np.concatenate([first, order[interactive : interactive + bulk_riders]])

    def _slices(self, serving: Ints) -> Plan | None:
        """Slices of the chunks in front; those that are not finished go to the back."""
        if not len(self.chunks):
            return None
        # While single steps come, a turn of slices takes no longer than one of single steps.
        is_short = len(self.steps) or not self._rode_slices
        budget = self.max_batch * (1 if is_short else LONG_TURN)
        budget = self._limit(budget, slices=True)
        # Many short slices are done sooner than few long ones of as many steps.
        longest = max(budget // min(len(self.chunks), SLICES_AT_LEAST), 1)
        if self._is_shared:
            riders = self._share_slices(serving, budget, longest)
        else:
            lanes = [(0, lane) for lane in self.chunks.lanes]
            riders = self.chunks.ride(
                serving, lanes, places=self.max_batch, steps=budget, longest=longest
            )
            self._ride_alone(sum(chunk.riding for chunk in riders))
        if not riders:
            return None
        self._rode_slices = True
        return plan_of(riders)

    def _share_slices(self, serving: Ints, budget: int, longest: int) -> list[Chunk]:
        """The riders among chunks of several lanes: interactive, bulk, and who fills the rest."""
        which = np.fromiter(self.chunks.lanes, np.int64)
        rounds = self._shares.rounds(which).tolist()
        lanes: tuple[list[tuple[int, int]], ...] = [], []
        for lane, round_ in zip(which.tolist(), rounds, strict=True):
            lanes[lane & 1].append((round_, lane))
        kept = int(self._bulk_owed) if lanes[1] else 0
        kept_places = -(-kept // self.chunk_slice)
        riders: list[Chunk] = []
        for mine, keep, places in ((0, kept, kept_places), (1, 0, 0), (0, 0, 0)):
            used = sum(chunk.riding for chunk in riders)
            riders += self.chunks.ride(
                serving,
                lanes[mine],
                places=self.max_batch - places - len(riders),
                steps=budget - keep - used,
                longest=longest,
            )
        taken = Counter[int]()
        for chunk in riders:
            taken[chunk.work.lane.number] += chunk.riding
        self._settle(
            which,
            np.array([taken[lane] for lane in which.tolist()]),
            np.array([self.chunks.has_ready(lane, serving) for lane in which.tolist()]),
            self.steps.lanes,
            max(0, budget - taken.total()),
        )
        return riders

    def _ride_alone(self, steps: int) -> None:
        """While no other lane waited: if that was bulk work, it is owed less; if not, none is."""
        self._bulk_owed = max(0.0, self._bulk_owed - steps)

    def _settle(
        self, lanes: Ints, taken: Ints, left: Ints, elsewhere: Collection[int], unused: int
    ) -> None:
        """Account for a turn that had room for `unused` more steps."""
        self._shares.take(lanes, taken, left, elsewhere)
        if not (is_bulk(lanes).any() or any(lane & 1 for lane in elsewhere)):
            self._bulk_owed = 0.0
            return
        bulk = int(taken[is_bulk(lanes) == 1].sum())
        earned = max((int(taken.sum()) - bulk) / BULK_SHARE, unused)
        owed = self._bulk_owed + earned - bulk
        self._bulk_owed = min(max(0.0, owed), 2 * self.max_batch)
