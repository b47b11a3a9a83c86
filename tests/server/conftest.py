"""What the tests of the bare contract share: stubs, and callers that keep their states."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest

from tests.conftest import RunningServer
from tests.server.contract import Wire
from tests.server.holder import Holder


@pytest.fixture
def hold(channel: grpc.Channel) -> Holder:
    """A caller of the shared server."""
    return Holder(Wire(channel))


@pytest.fixture
def connect() -> Iterator[Callable[[RunningServer], Holder]]:
    """Callers of servers of one's own."""
    channels: list[grpc.Channel] = []

    def to(server: RunningServer) -> Holder:
        channels.append(grpc.insecure_channel(server.target))
        return Holder(Wire(channels[-1]))

    yield to
    for channel in channels:
        channel.close()
