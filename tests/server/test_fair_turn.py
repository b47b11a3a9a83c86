"""A shared turn: one at a time, tenants in turn, and nothing is lost with a caller that goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from carousel.server.access.caller import peer_now
from carousel.server.fair_turn import FairTurn
from carousel.server.rpc import Context
from carousel.server.services.model_service import Loader, ModelService
from carousel.server.settings import Settings
from carousel.server.store import ModelStore
from carousel.v1 import model_service_pb2 as pb
from tests.processes import PATIENCE

Scene = Callable[[FairTurn, list[str]], Awaitable[None]]


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def played(scene: Scene) -> list[str]:
    """Who had the turn, in order; afterwards nobody has it."""
    seen: list[str] = []

    async def play() -> None:
        turn = FairTurn()
        await scene(turn, seen)
        await settle()
        assert not turn.busy
        async with asyncio.timeout(PATIENCE), turn.of("late"):
            assert turn.busy

    asyncio.run(play())
    return seen


async def call(turn: FairTurn, seen: list[str], tenant: str) -> None:
    async with turn.of(tenant):
        seen.append(tenant)
        await asyncio.sleep(0)  # others come meanwhile, and must not have it
        assert turn.busy


def test_tenants_have_their_turns_one_after_the_other() -> None:
    async def scene(turn: FairTurn, seen: list[str]) -> None:
        calls = [call(turn, seen, tenant) for tenant in "aaaaabbc"]
        await asyncio.gather(*calls)

    assert "".join(played(scene)) == "aabcabaa"


def test_a_tenant_that_always_asks_again_holds_nobody_up() -> None:
    async def scene(turn: FairTurn, seen: list[str]) -> None:
        async def flood() -> None:
            for _ in range(50):
                await call(turn, seen, "a")

        tasks = [asyncio.create_task(flood()) for _ in range(8)]
        await settle()
        before = len(seen)
        await call(turn, seen, "b")
        assert len(seen) - before <= 3
        await asyncio.gather(*tasks)

    assert played(scene).count("a") == 400


def test_only_one_has_the_turn() -> None:
    async def scene(turn: FairTurn, _: list[str]) -> None:
        inside = 0

        async def enter(tenant: str) -> None:
            nonlocal inside
            async with turn.of(tenant):
                inside += 1
                await asyncio.sleep(0)
                assert inside == 1
                inside -= 1

        await asyncio.gather(*(enter(tenant) for tenant in "abcabcaabbcc"))

    played(scene)


def test_a_caller_that_goes_leaves_its_turn_to_the_next_whenever_it_goes() -> None:
    async def scene(turn: FairTurn, seen: list[str]) -> None:
        async with turn.of("first"):
            waiting = [asyncio.create_task(call(turn, seen, tenant)) for tenant in "abc"]
            await settle()
            waiting[0].cancel()
            await settle()
        waiting[1].cancel()  # its turn has come, and it does not know yet
        await waiting[2]

    assert played(scene) == ["c"]


def test_what_fails_in_its_turn_does_not_keep_it() -> None:
    async def scene(turn: FairTurn, seen: list[str]) -> None:
        async def fail() -> None:
            async with turn.of("a"):
                raise OSError

        await asyncio.gather(fail(), call(turn, seen, "b"), return_exceptions=True)

    assert played(scene) == ["b"]


def test_lists_of_models_are_read_for_one_address_after_the_other(model_store: Path) -> None:
    async def play() -> list[str]:
        service = ModelService(
            ModelStore(model_store), cast("Loader", None), Settings.model_construct()
        )
        seen: list[str] = []

        async def listed(address: str) -> None:
            peer_now.set(address)
            models = await service.ListModels(pb.ListModelsRequest(), cast("Context", None))
            assert models.models
            seen.append(address)

        flood = [listed(f"ipv4:10.0.0.1:{port}") for port in range(40)]
        await asyncio.gather(*flood, listed("ipv4:10.0.0.2:5"))
        return seen

    assert asyncio.run(play()).index("ipv4:10.0.0.2:5") <= 2
