"""The histories: whatever several holders do to sessions, every answer is the oracle's.

A life is what the oracle knows of one session: the state after each step of its present past, the
handle, the last reply, and how much of it must survive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf import duration_pb2
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from carousel import tensors
from carousel.v1 import inference_service_pb2 as steps
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.histories.world import World
from tests.oracle import Array, Oracle, State
from tests.processes import PATIENCE
from tests.server.contract import Floats, error_of

MEMORY, ASYNC, SYNC = 1, 2, 3
SHORT, LONG = 50, 5000  # seconds of ttl
DEPTH = 2

_INPUTS = np.random.default_rng(0).standard_normal((4096, 3)).astype(np.float32)


@dataclass
class Life:
    """One session as its holder and the oracle know it."""

    name: str
    handle: int
    server: int
    durability: int
    ttl: int
    depth: int
    past: dict[int, State]  # the state before each step, of the present past
    index: int = 0
    durable: int = 0  # as the holder was told
    stale: list[int] = field(default_factory=list)  # handles of former incarnations
    request: tuple[int, Floats, Array] | None = None  # the last one: index, inputs, outputs
    kept: set[int] = field(default_factory=set)  # step indexes that rewind can reach
    marks: dict[str, tuple[int, State]] = field(default_factory=dict)
    used: float = 0.0
    crashed: bool = False  # its server was lost since it was last attached
    ended: bool = False


class Histories(RuleBasedStateMachine):
    """Rules are what can happen; `world` and `oracle` are set by the test."""

    world: World
    oracle: Oracle

    lives = Bundle("lives")

    def __init__(self) -> None:
        super().__init__()
        self._inputs = iter(_INPUTS)
        self._names = 0

    def fresh(self, count: int) -> Floats:
        return np.stack([next(self._inputs) for _ in range(count)])

    # Making

    @rule(
        target=lives,
        server=st.integers(0, 1),
        durability=st.sampled_from([MEMORY, ASYNC, ASYNC, SYNC]),
        ttl=st.sampled_from([SHORT, LONG]),
        depth=st.sampled_from([0, 0, DEPTH]),
    )
    def create(self, server: int, durability: int, ttl: int, depth: int) -> Life:
        made = self.world.wires[server].create(
            durability=durability, ttl=duration_pb2.Duration(seconds=ttl), rewind_depth=depth
        )
        return self._born(made, server, {0: self.oracle.initial})

    def _born(self, made: session_pb2.Session, server: int, past: dict[int, State]) -> Life:
        return Life(
            name=made.name,
            handle=made.handle,
            server=server,
            durability=made.durability,
            ttl=made.ttl.seconds,
            depth=made.rewind_depth,
            past=past,
            index=made.step_index,
            durable=made.durable_index,
            used=self.world.now(),
        )

    @rule(target=lives, life=lives, count=st.integers(1, 2))
    def fork(self, life: Life, count: int) -> object:
        if not self._goes_on(life):
            return multiple()
        request = pb.ForkSessionRequest(name=life.name, count=count)
        return multiple(*self._copies(life, request))

    @rule(target=lives, life=lives, count=st.integers(1, 2), lost=st.booleans())
    def fork_again(self, life: Life, count: int, lost: bool) -> object:
        """The answer was lost, maybe with the server: the same call gives the same copies."""
        if not self._goes_on(life):
            return multiple()
        self._names += 1
        request = pb.ForkSessionRequest(
            name=life.name, count=count, request_id=f"{life.handle}-{self._names}"
        )
        index = life.index
        first = self._copies(life, request)
        if lost:
            self.crash(life.server)
        if not self._goes_on(life):
            return multiple()
        if life.index < index:  # and its holder has not sent again what was not stored
            assert self._refused(life, "ForkSession", request) == "SESSION_EXISTS"
            for copy in first:  # as many as without the loss: what is drawn must not depend on time
                copy.crashed = True
            return multiple(*first)
        again = self._copies(life, request)
        assert [copy.name for copy in again] == [copy.name for copy in first]
        for copy, former in zip(again, first, strict=True):
            copy.stale.append(former.handle)
        return multiple(*again)

    def _copies(self, life: Life, request: pb.ForkSessionRequest) -> list[Life]:
        made = self.world.wires[life.server].sessions.ForkSession(request).sessions
        copies = []
        for one in made:
            copy = self._born(one, life.server, {life.index: life.past[life.index]})
            copy.request = life.request
            copies.append(copy)
        return copies

    @rule(target=lives, life=lives, server=st.integers(0, 1))
    def move_by_value(self, life: Life, server: int) -> object:
        """Export on one server, import on any."""
        if not self._goes_on(life):
            return multiple()
        request = pb.ExportSessionRequest(name=life.name)
        snapshot = self.world.wires[life.server].sessions.ExportSession(request).snapshot
        made = self.world.wires[server].sessions.ImportSession(
            pb.ImportSessionRequest(snapshot=snapshot)
        )
        copy = self._born(made, server, {life.index: life.past[life.index]})
        copy.request = life.request
        return copy

    # Stepping

    @rule(life=lives, count=st.integers(1, 20))
    def step(self, life: Life, count: int) -> None:
        if not self._goes_on(life):
            return
        xs = self.fresh(count)
        outputs, states = self.oracle.run(xs, life.past[life.index])
        response = self._send(life, life.index, xs)
        assert not response.errors, response.errors
        self._same(response, outputs)
        self._took(life, xs, outputs, states)
        if response.durable_indexes:
            life.durable = response.durable_indexes[0]
        if life.durability == SYNC:
            assert life.durable == life.index

    @rule(server=st.integers(0, 1), count=st.integers(1, 4))
    def step_all(self, server: int, count: int) -> None:
        """One message with all sessions of a server, often more than it has rows for."""
        riders = [one for one in self._all if one.server == server and self._goes_on(one)]
        riders = [one for one in riders if one.server == server]
        if not riders:
            return
        inputs = [self.fresh(count) for _ in riders]
        expected = [
            self.oracle.run(xs, life.past[life.index])
            for life, xs in zip(riders, inputs, strict=True)
        ]
        request = steps.StepRequest(
            handles=[life.handle for life in riders],
            step_indexes=[life.index for life in riders],
            lengths=[count] * len(riders),
            inputs=tensors.encode(np.concatenate(inputs)),
        )
        response = self.world.wires[server].inference.Step(request, timeout=PATIENCE)
        assert not response.errors, response.errors
        self._same(response, np.concatenate([outputs for outputs, _ in expected]))
        for life, xs, (outputs, states) in zip(riders, inputs, expected, strict=True):
            self._took(life, xs, outputs, states)

    def _took(self, life: Life, xs: Floats, outputs: Array, states: list[State]) -> None:
        life.request = (life.index, xs, outputs)
        for state in states:
            life.kept.add(life.index)
            life.index += 1
            life.past[life.index] = state
        life.kept = set(sorted(life.kept)[-life.depth :]) if life.depth else set()
        life.used = self.world.now()

    @rule(life=lives)
    def send_again(self, life: Life) -> None:
        """A duplicate of the last request gets the very same answer, and feeds nothing."""
        if not self._goes_on(life) or life.request is None:
            return
        index, xs, outputs = life.request
        if index + len(xs) != life.index:
            return
        response = self._send(life, index, xs)
        assert not response.errors, response.errors
        self._same(response, outputs)
        assert self._get(life).step_index == life.index

    @rule(life=lives, gap=st.sampled_from([-7, -3, 2, 5]))
    def out_of_order(self, life: Life, gap: int) -> None:
        if not self._goes_on(life):
            return
        index = life.index + gap
        if index < 0 or (life.request is not None and index == life.request[0]):
            return
        [error] = self._send(life, index, self.fresh(1)).errors
        assert error.reason == "STEP_CONFLICT"
        assert int(error.metadata["expected_step"]) == life.index

    @rule(life=lives)
    def late_packet(self, life: Life) -> None:
        """A packet of a former incarnation touches nothing."""
        if not self._goes_on(life) or not life.stale:
            return
        current, life.handle = life.handle, life.stale[-1]
        [error] = self._send(life, life.index, self.fresh(1)).errors
        life.handle = current
        assert error.reason in ("SESSION_FENCED", "SESSION_NOT_FOUND")

    @rule(life=lives, count=st.integers(1, 20))
    def cancel_and_send_again(self, life: Life, count: int) -> None:
        if not self._goes_on(life):
            return
        xs = self.fresh(count)
        flying = self.world.wires[life.server].inference.Step.future(
            self._request(life, life.index, xs)
        )
        flying.cancel()
        outputs, states = self.oracle.run(xs, life.past[life.index])
        response = self._send(life, life.index, xs)
        assert not response.errors, response.errors
        self._same(response, outputs)
        self._took(life, xs, outputs, states)

    # Going back

    @rule(life=lives, steps_back=st.integers(0, DEPTH + 1))
    def rewind(self, life: Life, steps_back: int) -> None:
        if not self._goes_on(life):
            return
        target = life.index - steps_back
        request = pb.RewindSessionRequest(name=life.name, handle=life.handle, steps=steps_back)
        if target != life.index and target not in life.kept:
            assert self._refused(life, "RewindSession", request) == "REWIND_UNAVAILABLE"
            return
        self._renew(life, self.world.wires[life.server].sessions.RewindSession(request))
        assert life.index == target
        life.kept = {index for index in life.kept if index < target}
        if steps_back:
            life.request = None

    @rule(life=lives, name=st.sampled_from(["a", "b"]))
    def bookmark(self, life: Life, name: str) -> None:
        if not self._goes_on(life):
            return
        self.world.wires[life.server].sessions.BookmarkSession(
            pb.BookmarkSessionRequest(name=life.name, handle=life.handle, bookmark=name)
        )
        life.marks[name] = (life.index, life.past[life.index])
        life.used = self.world.now()

    @rule(life=lives, name=st.sampled_from(["a", "b"]))
    def rewind_to_bookmark(self, life: Life, name: str) -> None:
        if not self._goes_on(life):
            return
        request = pb.RewindSessionRequest(name=life.name, handle=life.handle, bookmark=name)
        if name not in life.marks:
            assert self._refused(life, "RewindSession", request) == "REWIND_UNAVAILABLE"
            return
        index, state = life.marks[name]
        self._renew(life, self.world.wires[life.server].sessions.RewindSession(request))
        assert life.index == index
        life.past, life.kept, life.request = {index: state}, set(), None

    @rule(life=lives)
    def reset(self, life: Life) -> None:
        if not self._goes_on(life):
            return
        request = pb.ResetSessionRequest(name=life.name, handle=life.handle)
        self._renew(life, self.world.wires[life.server].sessions.ResetSession(request))
        assert life.index == 0
        life.past, life.kept, life.request = {0: self.oracle.initial}, set(), None

    # Coming and going

    @rule(life=lives, server=st.integers(0, 1))
    def attach(self, life: Life, server: int) -> None:
        """Somebody takes the session over, on either server."""
        if not self._goes_on(life):
            return
        if life.durability == MEMORY:
            server = life.server
        if server != life.server:
            self._stored(life)  # what is not in the store yet, a successor can't know
        life.server = server
        self._renew(life, self._attach(life, handle=0))

    @rule(life=lives)
    def get(self, life: Life) -> None:
        if self._goes_on(life):
            seen = self._get(life)
            assert seen.step_index == life.index
            assert seen.durable_index >= life.durable
            assert {mark.name: mark.step_index for mark in seen.bookmarks} == {
                name: index for name, (index, _) in life.marks.items()
            }

    @rule(server=st.integers(0, 1))
    def crash(self, server: int) -> None:
        self.world.crash(server)
        self._crashes = getattr(self, "_crashes", 0) + 1
        for life in self._all:
            life.crashed |= life.server == server

    @rule(life=consumes(lives))
    def close(self, life: Life) -> None:
        if self._goes_on(life):
            request = pb.DeleteSessionRequest(name=life.name, handle=life.handle)
            self.world.wires[life.server].sessions.DeleteSession(request)
            for server in range(2):
                if life.durability != MEMORY or server == life.server:
                    life.server = server
                    assert self._refused_attach(life) == "SESSION_ENDED"
            life.ended = True

    @rule()
    def an_hour_less_a_bit(self) -> None:
        """More than the short time to live passes, and less than the long one."""
        self.world.ahead += SHORT + 1
        self.world.settle()

    # What the rules share

    @property
    def _all(self) -> list[Life]:
        return [one for one in self.names_to_values.values() if isinstance(one, Life)]

    def _goes_on(self, life: Life) -> bool:
        """Whether there is a session to use; one whose server was lost is attached first."""
        if life.ended:
            return False
        if self.world.now() - life.used >= life.ttl:
            life.ended = True
            expected = {"SESSION_ENDED"}
            if life.durability == MEMORY and life.crashed:
                expected.add("SESSION_NOT_FOUND")  # unless it was parked in the store
            assert self._refused_attach(life) in expected
            return False
        if not life.crashed:
            return True
        life.crashed = False
        [error] = self._send(life, life.index, self.fresh(1)).errors
        assert error.reason == "SESSION_NOT_FOUND"
        if life.durability == MEMORY:
            life.ended = True
            assert self._refused_attach(life) == "SESSION_NOT_FOUND"
            return False
        made = self._attach(life, handle=life.handle)
        # All that was promised is there, and nothing that never was.
        assert life.durable <= made.step_index <= life.index
        if life.durability == SYNC:
            assert made.step_index == life.index
        if life.request is not None and made.step_index <= life.request[0]:
            life.request = None
        elif life.request is not None and made.step_index < life.index:
            index, xs, outputs = life.request
            done = made.step_index - index
            life.request = (index, xs[:done], outputs[:done])
        if made.step_index < life.index:
            life.kept = {
                index
                for index in range(made.step_index - life.depth, made.step_index)
                if index in life.past and life.depth and self._is_kept(life, index)
            }
        self._renew(life, made)
        return True

    def _is_kept(self, life: Life, index: int) -> bool:
        """Kept states of a session that came back are those that it had at that step."""
        return min(life.past) <= index

    def _renew(self, life: Life, made: session_pb2.Session) -> None:
        assert made.handle not in (0, life.handle)
        life.stale.append(life.handle)
        life.handle = made.handle
        life.index = made.step_index
        life.durable = made.durable_index
        life.used = self.world.now()
        life.past = {index: state for index, state in life.past.items() if index <= life.index}

    def _attach(self, life: Life, *, handle: int) -> session_pb2.Session:
        request = pb.AttachSessionRequest(name=life.name, durable_index=life.durable)
        if handle:
            request.handle = handle
        return self.world.wires[life.server].sessions.AttachSession(request)

    def _stored(self, life: Life) -> None:
        while self._get(life).durable_index < life.index:
            pass

    def _get(self, life: Life) -> session_pb2.Session:
        request = pb.GetSessionRequest(name=life.name)
        return self.world.wires[life.server].sessions.GetSession(request)

    def _request(self, life: Life, index: int, xs: Floats) -> steps.StepRequest:
        return steps.StepRequest(
            handles=[life.handle],
            step_indexes=[index],
            lengths=[len(xs)],
            inputs=tensors.encode(xs),
        )

    def _send(self, life: Life, index: int, xs: Floats) -> steps.StepResponse:
        wire = self.world.wires[life.server]
        return wire.inference.Step(self._request(life, index, xs), timeout=PATIENCE)

    def _refused(self, life: Life, method: str, request: object) -> str:
        call: Callable[[object], object] = getattr(self.world.wires[life.server].sessions, method)
        try:
            call(request)
        except grpc.RpcError as failure:
            return error_of(failure).reason
        return "nothing was refused"

    def _refused_attach(self, life: Life) -> str:
        return self._refused(life, "AttachSession", pb.AttachSessionRequest(name=life.name))

    @staticmethod
    def _same(response: steps.StepResponse, outputs: npt.NDArray[np.float64]) -> None:
        got = tensors.decode(response.outputs)
        np.testing.assert_allclose(got, outputs, rtol=1e-4, atol=1e-5)
