"""A caller that goes away in the middle of a stream leaves a line, and a server that lives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from carousel.client import Client
from tests.client.relay import Relay
from tests.processes import PATIENCE, ServerProcess, until


def test_a_connection_that_breaks_in_a_stream_is_a_line_of_the_log(
    model_store: Path, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"

    def ends() -> list[str]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        found = [line for line in lines if line["method"].endswith("/Generate")]
        return [line["status"] for line in found if line["event"] == "close"]

    with ServerProcess(tmp_path, store=model_store, access_log=log) as server:
        for broken in range(1, 5):
            relay = Relay(server.target)
            client = Client(relay.target, timeout=PATIENCE)
            tokens = iter(client.generate("letters", [1], max_tokens=4096))
            next(tokens)
            relay.close()
            until(lambda count=broken: len(ends()) == count)
            client.close()
        assert ends() == ["CANCELLED"] * 4
        with Client(server.target) as client, client.session("tiny") as session:
            assert np.isfinite(session.step(np.zeros(3, np.float32))).all()
        assert server.process is not None
        assert server.process.poll() is None
