"""Survival: the server is killed, drained or succeeded, and the caller's loop goes on."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carousel.client import AsyncClient, AsyncSession, Client, Event, Session
from carousel.errors import SessionFenced, SessionNotFound
from tests.client.conftest import Floats, assert_close
from tests.client.relay import Relay
from tests.processes import PATIENCE, ServerProcess

STEPS = 60
KILLED_BEFORE = (20, 41)


@pytest.fixture(scope="module")
def mortal(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that can be killed; its numbers do not depend on who steps beside whom."""
    folder = tmp_path_factory.mktemp("mortal")
    with ServerProcess(folder, store=model_store, bit_exact=True) as process:
        yield process


@pytest.fixture(scope="module")
def xs() -> Floats:
    return np.random.default_rng(11).standard_normal((STEPS, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def undisturbed(mortal: ServerProcess, xs: Floats) -> Floats:
    """What a session answers that nothing ever happened to: [STEPS, 2]."""
    with Client(mortal.target, timeout=PATIENCE) as client, client.session("tiny") as session:
        return np.stack([session.step(x) for x in xs])


def test_kill_9_in_the_middle_of_streams_is_not_noticed(
    mortal: ServerProcess, xs: Floats, undisturbed: Floats
) -> None:
    """Steps, chunks and many at once, written behind and at once: the same bits, none missing."""
    events: list[Event] = []

    async def run(session: AsyncSession, turns: asyncio.Barrier, length: int) -> Floats:
        rows = []
        while (index := session.step_index) < STEPS:
            if index in KILLED_BEFORE and length == 1:
                await turns.wait()
            if length == 1:
                rows.append((await session.step(xs[index]))[None])
            else:
                rows.append(await session.chunk(xs[index : index + length]))
        return np.concatenate(rows)

    async def main() -> None:
        async with AsyncClient(mortal.target, timeout=PATIENCE, on_event=events.append) as client:
            durabilities = ["async"] * 6 + ["sync"] * 2
            stepping = [await client.session("tiny", durability=d) for d in durabilities]
            chunking = [await client.session("tiny", durability=d) for d in ("async", "sync")]
            turns = asyncio.Barrier(len(stepping) + 1)
            tasks = [asyncio.create_task(run(one, turns, 1)) for one in stepping]
            tasks += [asyncio.create_task(run(one, turns, 7)) for one in chunking]
            for _ in KILLED_BEFORE:
                await turns.wait()
                mortal.kill()
                mortal.launch()
            for outputs in await asyncio.gather(*tasks):
                np.testing.assert_array_equal(outputs, undisturbed)
            assert {session.step_index for session in stepping + chunking} == {STEPS}

    asyncio.run(asyncio.wait_for(main(), 120))
    mortal.wait_ready()
    recovered = [event.session for event in events if event.kind == "session_recovered"]
    assert len(set(recovered)) >= 8


def test_kill_9_in_the_middle_of_generations_is_not_noticed(mortal: ServerProcess) -> None:
    """Every token comes once, with both clients; what follows shows that each was fed once."""
    options: dict[str, Any] = {"max_tokens": 200, "seed": 8, "repetition_penalty": 1.1}
    prompts = {"async": [3, 1, 4], "sync": [1, 5, 9], "blocking": [2, 6]}
    events: list[Event] = []

    async def run(
        session: AsyncSession, prompt: list[int], meeting: asyncio.Barrier
    ) -> tuple[list[int | None], Floats]:
        ids = []
        async for token in session.generate(prompt, **options):
            ids.append(token.id)
            if len(ids) == 30:
                await meeting.wait()
        return ids, await session.step(7)

    def run_blocking(
        session: Session, prompt: list[int], meet: Callable[[], object]
    ) -> tuple[list[int | None], Floats]:
        ids = []
        for token in session.generate(prompt, **options):
            ids.append(token.id)
            if len(ids) == 30:
                meet()
        return ids, session.step(7)

    async def main(blocking: Client) -> dict[str, tuple[list[int | None], Floats]]:
        loop, meeting = asyncio.get_running_loop(), asyncio.Barrier(len(prompts) + 1)

        def meet() -> None:
            asyncio.run_coroutine_threadsafe(meeting.wait(), loop).result(PATIENCE)

        async with AsyncClient(mortal.target, timeout=PATIENCE, on_event=events.append) as client:
            runs = {}
            for name in ("async", "sync"):
                session = await client.session("letters", durability=name)
                runs[name] = asyncio.create_task(run(session, prompts[name], meeting))
            alone = blocking.session("letters")
            runs["blocking"] = asyncio.create_task(
                asyncio.to_thread(run_blocking, alone, prompts["blocking"], meet)
            )
            await meeting.wait()
            mortal.kill()
            mortal.launch()
            return {name: await task for name, task in runs.items()}

    with Client(mortal.target, timeout=PATIENCE, on_event=events.append) as client:
        truth = {
            name: run_blocking(client.session("letters"), prompt, lambda: None)
            for name, prompt in prompts.items()
        }
        got = asyncio.run(asyncio.wait_for(main(client), 120))
    mortal.wait_ready()
    for name, (ids, following) in truth.items():
        assert got[name][0] == ids
        assert len(ids) == 200
        np.testing.assert_array_equal(got[name][1], following)
    assert sum(event.kind == "session_recovered" for event in events) == len(prompts)


def test_every_call_about_a_session_finds_it_after_a_kill(
    mortal: ServerProcess, xs: Floats, undisturbed: Floats
) -> None:
    with Client(mortal.target, timeout=PATIENCE) as client:
        names = ("step", "fork", "rewind", "export", "touch", "reset", "mark", "one", "two")
        sessions = {name: client.session("tiny", rewind_depth=4) for name in names}
        volatile = client.session("tiny", durability="memory")
        for session in (*sessions.values(), volatile):
            session.chunk(xs[:10])
        taken = client.session("tiny")
        thief = client.attach(taken.name)
        mortal.restart()
        assert_close(sessions["step"].step(xs[10]), undisturbed[10])
        assert_close(sessions["fork"].fork(1)[0].step(xs[10]), undisturbed[10])
        sessions["rewind"].rewind(steps=2)
        assert_close(sessions["rewind"].step(xs[8]), undisturbed[8])
        copy = client.import_session(sessions["export"].export())
        assert_close(copy.step(xs[10]), undisturbed[10])
        sessions["touch"].touch()
        sessions["reset"].reset()
        assert_close(sessions["reset"].step(xs[0]), undisturbed[0])
        sessions["mark"].bookmark("ten")
        assert_close(sessions["mark"].step(xs[10]), undisturbed[10])
        outputs = client.step_many([sessions["one"], sessions["two"]], xs[[10, 10]])
        assert_close(outputs, undisturbed[[10, 10]])
        # Nothing of MEMORY survives, and nobody takes a session back that another holds.
        with pytest.raises(SessionNotFound):
            volatile.step(xs[10])
        with pytest.raises(SessionFenced):
            taken.step(xs[0])
        assert_close(thief.step(xs[0]), undisturbed[0])


def steps_back(session: Session) -> int:
    session.rewind(steps=3)
    return 8


def to_bookmark(session: Session) -> int:
    session.rewind(bookmark="eight")
    return 8


def reset(session: Session) -> int:
    session.reset()
    return 0


def migrate(session: Session) -> int:
    session.migrate("tiny")
    return 11


def bookmark(session: Session) -> int:
    session.bookmark("eleven")
    assert session.refresh().bookmarks == {"eight": 8, "eleven": 11}
    return 11


def forget(session: Session) -> int:
    session.remove_bookmark("eight")
    assert session.refresh().bookmarks == {}
    return 11


def export(session: Session) -> int:
    assert session.export().step_index == 11
    return 11


def touch(session: Session) -> int:
    assert session.touch(ttl=1234).ttl.total_seconds() == 1234
    return 11


def fork(session: Session) -> list[Session]:
    return session.fork(5)


def fork_by_names(session: Session) -> list[Session]:
    return session.fork(session_ids=["fork-one", "fork-two"])


CALLS: list[Callable[[Session], int | list[Session]]] = [
    *(steps_back, to_bookmark, reset, migrate, bookmark, forget, export, touch),
    *(fork, fork_by_names),
]


def test_calls_whose_answers_died_with_the_server_are_made_once(
    mortal: ServerProcess, xs: Floats, undisturbed: Floats
) -> None:
    """All at one moment: each was carried out, and its answer came no further than the relay."""

    def restart() -> None:
        mortal.kill()
        mortal.launch()

    all_answered = threading.Barrier(len(CALLS) + 1, restart)

    def deaf(relay: Relay) -> None:
        """What is answered next does not come through, and the server dies of it."""

        def die(total: int) -> None:
            relay.on_answer = lambda total: None
            relay.cut_here()
            all_answered.wait(PATIENCE)

        relay.on_answer = die

    def run(call: Callable[[Session], int | list[Session]]) -> set[str]:
        with (
            closing(Relay(mortal.target)) as relay,
            Client(relay.target, timeout=PATIENCE) as client,
        ):
            session = client.session("tiny", rewind_depth=4)
            session.chunk(xs[:8])
            session.bookmark("eight")
            session.chunk(xs[8:11])
            deaf(relay)
            made = call(session)
            begin, copies = (made, []) if isinstance(made, int) else (11, made)
            for one in (session, *copies):
                assert one.step_index == begin
                outputs = one.chunk(xs[begin : begin + 5])
                np.testing.assert_array_equal(outputs, undisturbed[begin : begin + 5])
            return {one.name for one in (session, *copies)}

    async def fork_async() -> set[str]:
        with closing(Relay(mortal.target)) as relay:
            async with AsyncClient(relay.target, timeout=PATIENCE) as client:
                session = await client.session("tiny")
                await session.chunk(xs[:8])
                deaf(relay)
                copies = await session.fork(3)
                for one in (session, *copies):
                    outputs = await one.chunk(xs[8:11])
                    np.testing.assert_array_equal(outputs, undisturbed[8:11])
                return {one.name for one in (session, *copies)}

    with Client(mortal.target, timeout=PATIENCE) as client:
        before = {one.name for one in client.list_sessions()}
        with ThreadPoolExecutor(len(CALLS) + 1) as pool:
            other = pool.submit(asyncio.run, fork_async())
            names = set[str]().union(*pool.map(run, CALLS), other.result())
        mortal.wait_ready()
        # No copy was made twice.
        assert {one.name for one in client.list_sessions()} - before == names
        for name in names:
            client.delete_session(name)


def test_moves_wait_for_a_store_that_fails(
    mortal: ServerProcess, xs: Floats, undisturbed: Floats
) -> None:
    failed = asyncio.Event()
    [path] = mortal.folder.rglob("sessions.db")

    async def main() -> None:
        def notice(event: Event) -> None:
            if event.kind == "retry":
                failed.set()

        async with AsyncClient(mortal.target, timeout=PATIENCE, on_event=notice) as client:
            session = await client.session("tiny", rewind_depth=4)
            await session.chunk(xs[:8])
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                database.execute("ALTER TABLE entries RENAME TO away")
                try:
                    moving = asyncio.create_task(session.rewind(steps=2))
                    await failed.wait()
                finally:
                    database.execute("ALTER TABLE away RENAME TO entries")
            await moving
            outputs = await session.chunk(xs[6:9])
            np.testing.assert_array_equal(outputs, undisturbed[6:9])
            await session.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_drained_server_is_succeeded_at_once_where_it_says(
    mortal: ServerProcess, xs: Floats, undisturbed: Floats, model_store: Path, tmp_path: Path
) -> None:
    """A rolling restart: the successor runs already, and nobody waits for it."""
    events: list[Event] = []
    data = mortal.flags["data"]
    with (
        ServerProcess(tmp_path, store=model_store, data=data, bit_exact=True) as successor,
        Client(mortal.target, timeout=PATIENCE, on_event=events.append) as client,
        Client(mortal.target, timeout=PATIENCE) as admin,
    ):
        session = client.session("tiny")
        outputs = [session.step(x) for x in xs[:20]]
        admin.drain(successor=successor.target)
        outputs += [session.step(x) for x in xs[20:40]]
        assert mortal.process is not None
        assert mortal.process.wait(PATIENCE) == 0
        outputs += [session.step(x) for x in xs[40:]]
        np.testing.assert_array_equal(np.stack(outputs), undisturbed)
        assert any(event.kind == "moved" for event in events)
    mortal.restart()


def test_a_new_process_at_the_same_address_takes_over_after_sigterm(
    mortal: ServerProcess, xs: Floats, undisturbed: Floats
) -> None:
    with Client(mortal.target, timeout=PATIENCE) as client:
        session = client.session("tiny")
        outputs = [session.step(x) for x in xs[:30]]
        assert mortal.terminate() == 0
        mortal.launch()
        outputs += [session.step(x) for x in xs[30:]]
        mortal.wait_ready()
        np.testing.assert_array_equal(np.stack(outputs), undisturbed)
        # Drained, everything was stored: nothing had to be sent again.
        assert session.info.durable_index <= STEPS


def test_a_paused_server_is_waited_for(
    mortal: ServerProcess, xs: Floats, undisturbed: Floats
) -> None:
    with Client(mortal.target, timeout=PATIENCE) as client, client.session("tiny") as session:
        outputs = [session.step(x) for x in xs[:30]]
        mortal.signal(signal.SIGSTOP)
        timer = threading.Timer(0.5, mortal.signal, [signal.SIGCONT])
        timer.start()
        outputs += [session.step(x) for x in xs[30:]]
        timer.join()
        np.testing.assert_array_equal(np.stack(outputs), undisturbed)
