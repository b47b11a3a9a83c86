"""Servers that share a store: what one brings in, the others serve, and nobody is turned away."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from carousel.model import Features, Linear, ModelConfig, Network, save
from carousel.server.follower import Follower
from carousel.server.names import ModelRef
from carousel.server.store import ModelStore
from carousel.v1 import model_pb2
from carousel.v1 import model_service_pb2 as pb
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE
from tests.server.contract import Wire

SETTINGS = {"shipped": False, "store_refresh": 0.05}


@dataclass(frozen=True)
class Member:
    """One server of several, with its stubs."""

    server: RunningServer
    wire: Wire

    def promote(self, folder: Path, model: str, alias: str = "") -> str:
        promotion = self.server.server.office.promotion
        made = promotion.add(folder, model, alias, announce=lambda _: None)
        return self.server.run(made).name

    def state(self, name: str) -> model_pb2.VersionState.ValueType:
        return self.wire.models.GetModelVersion(pb.GetModelVersionRequest(name=name)).state

    def until_new_sessions_get(self, model: str, version: str) -> None:
        """Create sessions until they are of this version; none of them may be refused."""
        soon(lambda: self.wire.create(model).model_version == version)


def soon(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    config = ModelConfig(cell="gru", layers=1, hidden_size=4, input=Features(2), head=Linear(1))
    return Network(config)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    save(tmp_path / "made", network(1))
    return tmp_path / "made"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Member, Member]]:
    """Two servers on one store, in which `x` has version 1 and the alias `stable`."""
    root = tmp_path_factory.mktemp("shared")
    for model in ("x", "y"):
        save(root / "store" / model / "1", network(0))
    (root / "store" / "x" / "aliases.json").write_text('{"stable": 1}')
    with (
        running(store=root / "store", data=root / "a", **SETTINGS) as first,
        running(store=root / "store", data=root / "b", **SETTINGS) as second,
        grpc.insecure_channel(first.target) as one,
        grpc.insecure_channel(second.target) as other,
    ):
        yield Member(first, Wire(one)), Member(second, Wire(other))


def test_an_alias_that_moves_is_followed_and_sessions_live_on(
    members: tuple[Member, Member], made: Path
) -> None:
    here, there = members
    old = there.wire.create("models/x")
    version = here.promote(made, "x", "stable")
    there.until_new_sessions_get("models/x", version)
    assert old.model_version == "models/x/versions/1"
    x = np.ones((1, 2), np.float32)
    assert there.wire.outputs([old.handle], [0], x).shape == (1, 1)
    # And back, by the other server.
    there.wire.models.SetModelAlias(
        pb.SetModelAliasRequest(name="models/x", alias="stable", version=1)
    )
    here.until_new_sessions_get("models/x", "models/x/versions/1")


def test_a_health_policy_is_followed(members: tuple[Member, Member]) -> None:
    here, there = members
    rule = model_pb2.HealthRule(
        metric=model_pb2.HEALTH_METRIC_AGE, threshold=1, action=model_pb2.HEALTH_ACTION_ALERT
    )
    x = np.ones((1, 2), np.float32)
    for rules in ([rule], []):
        policy = model_pb2.HealthPolicy(rules=rules)
        request = pb.SetHealthPolicyRequest(name="models/y", policy=policy)
        here.wire.models.SetHealthPolicy(request)

        def is_followed(wanted: int = len(rules)) -> bool:
            handle = there.wire.create("models/y").handle
            return len(there.wire.step([handle], [0], x).notices) == wanted

        soon(is_followed)


def test_what_training_made_without_an_alias_is_followed(
    members: tuple[Member, Member], made: Path
) -> None:
    here, there = members
    assert there.wire.create("models/y").model_version == "models/y/versions/1"
    version = here.promote(made, "y")
    there.until_new_sessions_get("models/y", version)
    new = here.promote(made, "new")  # of a model that was not there at all
    soon(lambda: there.state(new) == model_pb2.VERSION_STATE_READY)


def test_a_version_that_can_t_be_loaded_leaves_the_one_before_in_service(
    members: tuple[Member, Member], made: Path
) -> None:
    here, there = members
    store = here.server.server.hall.store
    good = here.promote(made, "z", "stable")
    soon(lambda: there.state(good) == model_pb2.VERSION_STATE_READY)
    bad = store.add("z", made)
    weights = bad.folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    store.set_alias("z", "stable", bad.number)
    soon(lambda: there.state(bad.name) == model_pb2.VERSION_STATE_FAILED)
    assert there.wire.create("models/z").model_version == good
    repaired = here.promote(made, "z", "stable")
    there.until_new_sessions_get("models/z", repaired)


def test_what_is_only_uploaded_is_not_loaded(members: tuple[Member, Member], made: Path) -> None:
    here, there = members
    uploaded = here.server.server.hall.store.add("y", made)
    version = here.promote(made, "later")
    soon(lambda: there.state(version) == model_pb2.VERSION_STATE_READY)  # it has looked since
    assert there.state(uploaded.name) == model_pb2.VERSION_STATE_UNLOADED


@pytest.fixture
def store(tmp_path: Path, made: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    for model in ("a", "b"):
        store.add(model, made)
        store.set_alias(model, "stable", 1)
    return store


def follower(store: ModelStore, *wanted: str) -> Follower:
    made = Follower(store, wanted)
    made.look()
    return made


def age(folder: Path) -> None:
    """Let a model's folder have changed long ago."""
    for path in (folder / "aliases.json", folder):
        os.utime(path, (1e9, 1e9))


def test_only_what_changed_is_read_again(store: ModelStore, made: Path) -> None:
    age(store.root / "a")
    eyes = follower(store)
    assert eyes.look() == {}
    store.add("a", made)
    (store.root / "a" / "aliases.json").write_text('{"stable": 2}')
    age(store.root / "a")  # as if nothing had been written
    assert eyes.look() == {}
    store.set_alias("b", "stable", 1)
    assert eyes.look() == {}  # it stands for what it stood for
    store.set_alias("a", "next", 1)
    names = {ModelRef("a"): 2, ModelRef("a", alias="stable"): 2, ModelRef("a", alias="next"): 1}
    assert eyes.look() == names


def test_two_changes_within_one_tick_of_the_clock_are_both_seen(
    store: ModelStore, made: Path
) -> None:
    eyes = follower(store)
    store.add("a", made)
    moments = [
        path.stat().st_mtime_ns for path in (store.root / "a", store.root / "a/aliases.json")
    ]
    assert eyes.look() == {}
    (store.root / "a" / "aliases.json").write_text('{"stable": 2}')
    for path, moment in zip(
        (store.root / "a", store.root / "a/aliases.json"), moments, strict=True
    ):
        os.utime(path, ns=(moment, moment))
    assert eyes.look() == {ModelRef("a"): 2, ModelRef("a", alias="stable"): 2}


def test_an_alias_that_is_seen_before_its_version_is_looked_at_again(
    store: ModelStore, made: Path
) -> None:
    eyes = follower(store)
    (store.root / "a" / "aliases.json").write_text('{"stable": 2}')
    age(store.root / "a")
    assert eyes.look() == {}
    shutil.copytree(made, store.root / "a" / "2")
    age(store.root / "a")
    assert eyes.look() == {ModelRef("a"): 2, ModelRef("a", alias="stable"): 2}


def test_a_server_follows_what_it_was_told_to_load(store: ModelStore, made: Path) -> None:
    wanted = ("models/a/aliases/next", "models/b/versions/1")
    store.set_alias("a", "next", 1)
    eyes = follower(store, *wanted)
    for model in ("a", "b"):
        store.add(model, made)
        store.set_alias(model, "stable", 2)
    assert eyes.look() == {}
    store.set_alias("a", "next", 2)
    assert eyes.look() == {ModelRef("a", alias="next"): 2}
