"""Session: one stream of steps with its own recurrent state."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

from carousel.client import _generation, _session_calls
from carousel.client._cursor import ALL, Item
from carousel.client._events import Event
from carousel.client._generation import Prompt, Sampling
from carousel.client._inference_calls import output_mode
from carousel.client._inputs import Floats, Input, chunk_input, step_input
from carousel.client._inspection import Inspection
from carousel.client._session_values import SessionInfo, Snapshot
from carousel.client._stepping import Stepping
from carousel.client._times import Seconds
from carousel.client._token_stream import TokenStream
from carousel.errors import (
    CarouselError,
    NotFound,
    SessionFenced,
)


class Session(Stepping):
    """One stream of steps with its own recurrent state, pinned to a model version.

    Leaving its `with` block ends the session on the server. Threads may share it: their steps
    are taken one after the other.

    Every step that is sent is fed exactly once, whatever happens to the connection. When the
    answer does not come (DeadlineExceeded, ServerUnreachable, an interrupt), `unsettled` is True:
    `settle` sends the same step under the same index again and gives its output, and so does the
    next use of the session. Calling `step` again instead would feed the input a second time.
    """

    def step(self, x: Input, *, timeout: float | None = None) -> Floats:
        """Take one step: x is [D] features or a token; gives [O] float32.

        For softmax and classifier heads the outputs are unnormalised logits. Raises
        InputMismatch, NonFiniteInput, TokenOutOfRange, SessionEnded, SessionFenced,
        SessionQuarantined, QueueFull, DeadlineExceeded, ServerUnreachable.
        """
        width, data = step_input(x)
        return self._take(Item(width, 1, data, ALL, False), timeout)

    def chunk(
        self,
        xs: Input,
        *,
        outputs: Literal["all", "last", "none"] = "all",
        timeout: float | None = None,
    ) -> Floats:
        """Take several steps at once: xs is [T, D] features or [T] tokens.

        Gives [T, O] for "all", [O] for "last", [0, O] for "none". Raises what `step` raises, and
        ChunkTooLong.
        """
        mode = output_mode(outputs)
        width, steps, data = chunk_input(xs)
        return self._take(Item(width, steps, data, mode, True), timeout)

    def settle(self, *, timeout: float | None = None) -> Floats | None:
        """The output of the step or chunk whose answer never came; None when there is none."""
        with self._lock:
            item = self._cursor.open
            return None if item is None else self._send(item, timeout)

    def generate(
        self,
        prompt: Prompt = "",
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        log_probabilities: int | None = None,
        timeout: float | None = None,
    ) -> TokenStream:
        """Feed a prompt and iterate over the tokens that follow; options as in `Client.generate`.

        Without a prompt the first token is sampled from the session's last output. Every token
        that is made is also fed, exactly once, whatever happens to the connection, and to the
        server of a session that survives it. The next use of the session ends a generation that
        still runs.
        """
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            stop=stop,
            seed=seed,
            log_probabilities=log_probabilities,
        )
        generation = _generation.Generation(_generation.request(prompt, sampling), self._cursor)
        seconds = sampling.deadline(timeout, self._transport.timeout)

        def recover(end: float) -> None:
            with self._lock:
                if self._generation is generation:  # nobody has used the session since
                    self._recover(end)

        with self._lock:
            self._ready(timeout)
            generation.begin()
            self._generation = generation
            return TokenStream(self._transport, generation, seconds, recover)

    def fork(
        self,
        count: int | None = None,
        *,
        session_ids: Sequence[str] = (),
        timeout: float | None = None,
    ) -> list[Session]:
        """Copies that go on from the same state: all are made, or none.

        `count` is 1 to 10,000, by default as many as `session_ids`, or else 1. Raises SessionEnded,
        SessionExists, SessionCapacity.
        """
        call = _session_calls.fork(self.name, count, session_ids)
        with self._lock:
            self._ready(timeout)
            made = self._call(lambda: call, timeout)
        for one in made:
            self._transport.link.tell(Event("session_created", session=one.name))
        return [Session(self._transport, one, self._priority) for one in made]

    def rewind(
        self,
        *,
        steps: int | None = None,
        step_index: int | None = None,
        bookmark: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go back by `steps` (0 only ends a quarantine), to where `step_index` was next, or to a
        bookmark.

        Raises RewindUnavailable, which names the steps that are kept, SessionEnded, SessionFenced.
        """
        _session_calls.check_rewind(steps, step_index, bookmark)
        with self._lock:
            self._ready(timeout)
            self._move(
                lambda: _session_calls.rewind_to(
                    self._cursor, steps=steps, step_index=step_index, bookmark=bookmark
                ),
                timeout,
                back=True,
            )

    def bookmark(self, name: str, *, timeout: float | None = None) -> None:
        """Give the present state a name for `rewind`; a name that is taken moves here."""
        with self._lock:
            self._ready(timeout)
            info = self._call(
                lambda: _session_calls.bookmark(self.name, self.handle, name), timeout
            )
            self._learn(info)

    def remove_bookmark(self, name: str, *, timeout: float | None = None) -> None:
        """Forget a bookmark; nothing happens when there is none."""
        with self._lock:
            info = self._call(
                lambda: _session_calls.bookmark(self.name, self.handle, name, remove=True), timeout
            )
            self._learn(info)

    def migrate(self, model: str, *, timeout: float | None = None) -> None:
        """Go on with another version that has the same state schema; state and index stay.

        Raises SnapshotMismatch, ModelNotFound, ModelNotLoaded, SessionEnded, SessionFenced.
        """
        with self._lock:
            self._ready(timeout)
            self._move(lambda: _session_calls.migrate(self.name, self.handle, model), timeout)

    def reset(self, *, timeout: float | None = None) -> None:
        """Go back to the initial state and step 0; ends a quarantine."""
        with self._lock:
            self._stop_generation()
            self._move(lambda: _session_calls.reset(self.name, self.handle), timeout, back=True)

    def export(self, *, timeout: float | None = None) -> Snapshot:
        """The state as a value, for `Client.import_session`. The session goes on."""
        with self._lock:
            self._ready(timeout)
            return self._call(lambda: _session_calls.export(self.name), timeout)

    def touch(self, *, ttl: Seconds | None = None, timeout: float | None = None) -> SessionInfo:
        """Count as a use; `ttl` in seconds or as a timedelta is the new idle time."""
        with self._lock:
            return self._learn(self._call(lambda: _session_calls.touch(self.name, ttl), timeout))

    def refresh(self, *, timeout: float | None = None) -> SessionInfo:
        """Ask the server for a new description, also after the session's end."""
        return self._learn(self._call(lambda: _session_calls.get(self.name), timeout))

    def inspect(
        self, *, steps: int = 64, units: int = 0, timeout: float | None = None
    ) -> Inspection:
        """Look inside, as `Client.inspect_session` does; the session stays as it is."""
        call = _session_calls.inspect(self.name, steps, units)
        return self._call(lambda: call, timeout)

    def close(self, *, timeout: float | None = None) -> None:
        """End the session. Nothing happens when it has ended, or another holder took it over."""
        with self._lock:
            self._stop_generation()
            try:
                self._transport.call(_session_calls.delete(self.name, self.handle), timeout)
            except (NotFound, SessionFenced):
                return
            self._cursor.end()
        self._transport.link.tell(Event("session_ended", session=self.name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except (CarouselError, RuntimeError):
            if error is None:
                raise
