"""Whatever is sent is answered, in time and with a reason, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import RunningServer, running, tiny_models
from tests.server.contract import Wire
from tests.server.fuzz import METHODS, Control, Maker, is_wrong, outcome, revive


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("models")
    tiny_models(store)
    return store


@pytest.fixture(scope="module")
def target(store: Path) -> Iterator[RunningServer]:
    with running(store=store, shipped=False, training_jobs_at_once=0, log_level="error") as server:
        yield server


@pytest.fixture(scope="module")
def open_channel(target: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def control(open_channel: grpc.Channel, store: Path) -> Control:
    return Control(open_channel, store)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_answers_whatever_it_is_sent(
    open_channel: grpc.Channel, control: Control, method: MethodDescriptor
) -> None:
    handles = revive(Wire(open_channel))

    @settings(
        max_examples=8,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.integers(0, 2**32 - 1))
    def answers(seed: int) -> None:
        sent = Maker(seed, handles).requests(method)
        assert not is_wrong(method, outcome(open_channel, method, sent))

    answers()
    control.step()
