"""The engine: one thread that owns the state and turns the carousel for ever."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import torch

from carousel.errors import InternalError
from carousel.server import gatekeeper, lone
from carousel.server.asked import asked
from carousel.server.audit.recorder import Recorder
from carousel.server.audit.writer import Writer
from carousel.server.away import Away
from carousel.server.batch_audit import BatchAudit
from carousel.server.committer import Committer
from carousel.server.company import Company
from carousel.server.gates.sampler import GateSampler
from carousel.server.gates.watch import Watches
from carousel.server.held import turn as held
from carousel.server.loaded import LoadedVersion
from carousel.server.metrics import Metrics
from carousel.server.outbox import Outbox
from carousel.server.parties import GROWS, Parties
from carousel.server.scheduler import SHORT_FOR, Plan
from carousel.server.stores import StateStore
from carousel.server.table import SessionTable
from carousel.server.tracing.trace import NO_TRACER, Tracer
from carousel.server.turns import Turns
from carousel.server.work import Ints, Work
from carousel.server.write_behind import WriteBehind

log = logging.getLogger("carousel.engine")

P = ParamSpec("P")
T = TypeVar("T")

SWEEP_SECONDS = 0.5
STUCK_SECONDS = 10.0  # a round that takes longer hangs: the server is not ready
SHORT_SECONDS = 0.001  # what a turn may take that the event loop waits for


class Engine:
    """Takes works, runs turns, and hands answers to the event loop, once a turn.

    The outside knows three calls: `submit` a work, `call` a function between two turns, `stop`.
    Only who holds the reins changes sessions, arenas and queues: a thread of its own, and for a
    short turn of whoever is alone, or has little, the event loop's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        metrics: Metrics,
        audit: Writer,
        audit_state_every: int,
        store: StateStore | None = None,
        sweep: Callable[[float], None] = lambda now: None,
        lose: Callable[[int], None] = lambda slot: None,
        clock: Callable[[], float] = time.time,
        batch_audit: BatchAudit | None = None,
        gates: GateSampler | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.table = SessionTable()
        self.parties = Parties()
        self.watches = Watches(self.table, clock)
        self.versions: list[LoadedVersion] = []  # those that can be stepped
        self.clock = clock  # seconds since the epoch
        self._round_began: float | None = None  # on the clock of time.monotonic; None: it rests
        self._loop = loop
        self._sweep = sweep
        self._batch_audit = batch_audit
        self._gates = gates
        self._tracer = tracer
        self._arrivals: list[tuple[LoadedVersion, Work]] = []
        self._inbox: deque[tuple[LoadedVersion, Work]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self.away = Away(self.table, self._inbox.extendleft)
        self._fences = 0  # of the table, when the queues were last looked through
        self._wake = threading.Event()
        self._reins = threading.Lock()
        self._rests_until = 0.0  # on the clock of time.monotonic, if nobody wakes it
        self._company = Company(self._wake)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="carousel-engine", daemon=True)
        self._outbox = Outbox(loop, self.table, lambda answer: self.behind.hold_back(answer))
        self.behind = WriteBehind(
            self.table,
            self.versions,
            store,
            post=self.post,
            deliver=self._outbox.release,
            lose=lose,
            metrics=metrics.store,
            before=lambda: self.recorder.secure(),
        )
        self.recorder = Recorder(
            self.table, audit, every=audit_state_every, post=self.post, clock=clock, metrics=metrics
        )
        committer = Committer(
            self.table, self._outbox, clock=clock, behind=self.behind, recorder=self.recorder
        )
        self.turns = Turns(
            self.table,
            self._outbox,
            committer,
            behind=self.behind,
            watches=self.watches,
            batch_audit=batch_audit,
            gates=gates,
            tracer=tracer,
        )

    def start(self) -> None:
        self._thread.start()
        self.behind.start()
        self.recorder.writer.start()

    def stop(self) -> None:
        """Finish the turn that runs, and end."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self.behind.stop()
        if self._batch_audit is not None:
            self._batch_audit.close()
        if self._gates is not None:
            self._gates.close()
        self.recorder.writer.stop()

    def post(self, function: Callable[[], None]) -> None:
        """Run a function in the engine's thread, between two turns; from any thread."""
        self._calls.append(function)
        self._wake.set()

    def submit(self, version: LoadedVersion, work: Work) -> None:
        """Queue a work; its answers come through `work.deliver`. Only for the event loop's thread.

        What arrives in one iteration of the loop is handed over together: a turn for each message
        would cost far more than the loop's next iteration, which comes at once. Whoever is alone,
        or has little, is stepped here and now if the engine rests: to go to the other thread and
        back takes as long as the turn.
        """
        if len(work) == 1:
            here = self._company.is_alone(work.handles[0], work.arrived) or work.lane.is_modest
            if here and version.lone_seconds < SHORT_SECONDS and self._turn_here(version, work):
                return
        if not self._arrivals:
            self._loop.call_soon(self._hand_over)
        self._arrivals.append((version, work))

    def _turn_here(self, version: LoadedVersion, work: Work) -> bool:
        """Run the turn of a single step, if no turn is under way and who waits lets it by; gives
        whether it was.

        Calls are of others, or of a caller that does not wait for their answers: for who has little
        they need not come first.
        """
        if not work.is_single or not self._reins.acquire(blocking=False):
            return False
        try:
            others = self._arrivals or self.waiting
            if self._stopping or version.accelerator is not None or (others and self.away):
                return False
            if (others or self._calls) and not work.lane.is_modest:
                return False
            plan = lone.plan_of(self.table, version, work, time.monotonic())
            if plan is not None:
                self._ride(version, plan, checked=True)
            elif others or self.table.parked:
                return False  # its session may have to be brought back
            else:
                self._admit(version, [work])
                self._safe_turn(version)
            if others:
                self._expect_next(version, work)
            self._company.is_expected(0)
            if self.behind.due_in(now := time.monotonic()) < self._rests_until - now:
                self._wake.set()
            self._outbox.hand_out_here()
        finally:
            self._reins.release()
        return True

    def _hand_over(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        self._inbox.extend(arrivals)
        if len(self._inbox) >= self._company.enough or self._has_modest(arrivals):
            self._wake.set()

    def _has_modest(self, arrivals: list[tuple[LoadedVersion, Work]]) -> bool:
        """Whether any is of who has little and waits for no crowd."""
        return self.parties.are_unlike and any(work.lane.is_modest for _, work in arrivals)

    def call(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Run a function in the engine's thread, between two turns."""
        future, run = asked(self._loop, partial(function, *args, **kwargs))
        self.post(run)
        return future

    def retire(self, version: LoadedVersion) -> None:
        """Answer what still waits for a version, whose sessions have ended, and let go of it."""
        self._outbox.add(gatekeeper.dismiss_fenced(self.table, version))
        held.dismiss(version)
        self.versions.remove(version)
        if self._gates is not None:
            self._gates.forget(version)

    @property
    def turn_age(self) -> float:
        """Seconds since the present round of turns began; 0 while the engine rests."""
        began = self._round_began
        return 0.0 if began is None else max(0.0, time.monotonic() - began)

    @property
    def is_stuck(self) -> bool:
        """Whether a round takes so long that it hangs."""
        return self.turn_age > STUCK_SECONDS

    @property
    def waiting(self) -> int:
        """Items that have not ridden."""
        queued = (len(version.scheduler) + len(version.held) for version in self.versions)
        return len(self._inbox) + len(self.away) + sum(queued)

    def _run(self) -> None:
        torch.set_grad_enabled(False)
        with self._reins:
            self._turn_for_ever()

    def _turn_for_ever(self) -> None:
        swept = time.monotonic()
        while not self._stopping:
            self._wake.clear()
            self._round_began = time.monotonic()
            try:
                self._take_in()
                self._dismiss_fenced()
                for version in self.versions:
                    self._outbox.add(gatekeeper.shed_bulk(self.table, version))
                self._outbox.deliver()  # who was refused at the door must not wait for anything
                turned = [self._safe_turn(version) for version in tuple(self.versions)]
                turned += [held.turn(version, self._tracer) for version in tuple(self.versions)]
                followed = any(turned) and self.waiting
                if self.turns.under_way and not followed:
                    turned.append(self.turns.land())
                turned.append(self.away.make_room())
                if self._inbox:
                    self._let_by()
                beside_modest = self._company.has_modest(time.monotonic())
                self.behind.flush(gently=beside_modest)
                waiting = self.waiting
                if waiting == len(self._inbox) and self._company.is_expected(waiting):
                    self._wake.clear()
                    if not self.turns.land() and not self._calls:
                        self._let_by()
                        self._rest(lambda: self._company.gather(self._inbox))
                elif not (any(turned) and waiting):
                    self._sleep()
                elif beside_modest and not self.turns.under_way:
                    self._make_way()
                full = self.table.chunk_replies.full
                if (now := time.monotonic()) - swept >= SWEEP_SECONDS or full:
                    swept = now
                    self.turns.land()
                    self._sweep(self.clock())
                    self.watches.sweep()
            except Exception:  # without this thread nobody would ever get an answer again
                log.exception("the engine stumbled")
            self._outbox.deliver()
        self.turns.land()
        self._outbox.deliver()

    def _rest(self, wait: Callable[[], object]) -> None:
        """Let go of the reins meanwhile."""
        self._round_began = None
        self._reins.release()
        try:
            wait()
        finally:
            self._reins.acquire()
            self._round_began = time.monotonic()

    def _sleep(self) -> None:
        """Rest until somebody wakes the engine, or something is due.

        Until when is said before the reins are let go of: who takes them compares with it.
        """
        now = time.monotonic()
        self._rests_until = now + min(SWEEP_SECONDS, max(self.behind.due_in(now), 0.0))
        self._rest(lambda: self._wake.wait(self._rests_until - now))

    def _make_way(self) -> None:
        """Between two rounds, while others wait: who has little is stepped in the event loop."""
        self._outbox.deliver()
        took = self.turn_age
        self._rest(lambda: self._company.make_way(took))

    def _take_in(self) -> None:
        """Run the calls and queue the works that came since the last turn."""
        if self._calls or self.table.parked or self.away:
            self.turns.land()  # whatever else changes sessions finds none in the middle of a step
        while self._calls:
            self._calls.popleft()()
        self._let_by()
        while self._inbox:
            version, work = self._inbox.popleft()
            works = [work]
            while self._inbox and self._inbox[0][0] is version:
                works.append(self._inbox.popleft()[1])
            if self.table.parked or self.away:
                # One by one: whoever is let in waits for a turn, and is parked for nobody else.
                for one in works:
                    if len(items := self.away.those_here(version, one)):
                        self._admit(version, [one], items)
            else:
                self._admit(version, works)

    def _let_by(self) -> None:
        """One step of a modest lane rides before all others, alone.

        To be queued with the others' and to ride among them would take several times as long. This
        is asked before each version's turn and where a round ends.
        """
        if not self.parties.are_unlike:
            return
        for place in lone.places_of_modest(self._inbox):
            version, work = self._inbox[place]
            self._expect_next(version, work)
            if self.away or not work.is_single or version.accelerator is not None:
                continue
            try:
                plan = lone.plan_of(self.table, version, work, time.monotonic())
            except Exception:  # a bug: it is queued as any other, and answered there
                log.exception("a step for %s could not be let by", version.name)
                return
            if plan is not None:
                del self._inbox[place]
                self._ride(version, plan, checked=True)
                self._outbox.deliver()
                return

    def _expect_next(self, version: LoadedVersion, work: Work) -> None:
        """Of a modest lane: others' turns are short for a while. Where the event loop can run its
        next step while the engine rests, they rest.

        What has only begun to come may be the first of many steps: that changes little for others.
        """
        may_grow = work.lane.may_grow(now := time.monotonic())
        for one in self.versions:
            one.scheduler.be_short(now, seconds=GROWS if may_grow else SHORT_FOR)
        if not may_grow and work.is_single and version.lone_seconds < SHORT_SECONDS:
            self._company.expect_modest(now)

    def _admit(self, version: LoadedVersion, works: list[Work], items: Ints | None = None) -> None:
        """Queue works whose sessions are in the arena: of one that comes alone, maybe not all."""
        is_part = items is not None and len(items) < len(works[0])
        try:
            if not is_part and gatekeeper.admit_together(self.table, version, works):
                return
            while works:
                self._outbox.add(gatekeeper.admit(self.table, version, works[0], items))
                works.pop(0)
        except Exception:  # a bug must not leave anybody without an answer
            log.exception("works for %s could not be queued", version.name)
            error = InternalError("the steps could not be queued; nothing of them ran")
            self._outbox.add(gatekeeper.fail_work(version, work, items, error) for work in works)

    def _dismiss_fenced(self) -> None:
        """Answer those whose session ended or went to another handle while they waited."""
        if self._fences != self.table.fences:
            self._fences = self.table.fences
            for version in self.versions:
                self._outbox.add(gatekeeper.dismiss_fenced(self.table, version))

    def _safe_turn(self, version: LoadedVersion) -> bool:
        if self._inbox:
            self._let_by()  # who has little waits for the turn of one version, not of all
        plan = version.scheduler.next(self.table.serving)
        if plan is None:
            return False
        self._ride(version, plan)
        self._outbox.deliver()
        return True

    def _ride(self, version: LoadedVersion, plan: Plan, *, checked: bool = False) -> None:
        self.turns.ride(version, plan, checked=checked)
        if plan.lengths is None:
            self._company.ride(len(plan.works), len(self._inbox))
