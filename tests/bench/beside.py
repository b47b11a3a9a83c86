"""A modest client beside a greedy one: what counts is the latency of the modest one's steps.

Each is a process of its own. In one process the greedy client's answers, which come many at a time,
would be taken in before the modest one's, and the client's own queue be taken for the server's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import grpc

from carousel.v1 import admin_service_pb2, admin_service_pb2_grpc
from tests.bench.bench import Arm
from tests.bench.child import Child, ChildFailed
from tests.bench.sample import Sample

WARM_UP = 0.5  # seconds that the greedy client has to fill the queue
LONGER = 0.5  # seconds that it goes on, so that the modest one is not alone at the end
PATIENCE = 60.0  # seconds until the store has all


@dataclass(slots=True)
class Beside(Arm):
    """A modest arm that is measured while a greedy one goes on."""

    greedy: Arm = field(kw_only=True)

    def block(self, seconds: float) -> Sample:
        assert self.server is not None
        settle(self.server)
        greedily = WARM_UP + seconds + LONGER
        finish = self.greedy.client.begin("run", self.greedy.key, greedily)
        try:
            time.sleep(WARM_UP)
            sample = Arm.block(self, seconds)
        finally:
            greedy: Sample = finish()
        sample.extra["greedy_steps_per_second"] = greedy.rate  # before and after too
        return sample

    def close(self) -> None:
        Arm.close(self)
        self.greedy.close()


def settle(server: Child) -> None:
    """Until the store has all that was left behind for it. Raises ChildFailed."""
    end = time.monotonic() + PATIENCE
    with grpc.insecure_channel(f"127.0.0.1:{server.greeting}") as channel:
        service = admin_service_pb2_grpc.AdminServiceStub(channel)
        while service.GetServerInfo(admin_service_pb2.GetServerInfoRequest()).store.lag_steps:
            if time.monotonic() > end:
                raise ChildFailed("the store does not take what is written")
            time.sleep(0.05)
