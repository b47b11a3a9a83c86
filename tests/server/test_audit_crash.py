"""Audit logs across a kill of the server: they go on, and show what it undid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carousel.client import AuditEvent, Client
from carousel.server.audit.folder import parts_in
from tests.processes import PATIENCE, ServerProcess


def test_a_log_goes_on_after_a_kill_and_a_torn_tail(model_store: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((60, 3)).astype(np.float32)
    terms = {"store": model_store, "load": "tiny", "audit_state_every": 8}
    with (
        ServerProcess(tmp_path, **terms) as server,  # type: ignore[arg-type]
        Client(server.target, timeout=PATIENCE) as client,
    ):
        sessions = [client.session("tiny", audit=True, durability=one) for one in ("async", "sync")]
        told = [[session.step(one) for one in x[:20]] for session in sessions]
        client.replay(sessions[0], stop=0).close()
        server.kill()
        for session in sessions:
            with parts_in(tmp_path / "data" / "audit" / session.id)[-1].path.open("ab") as file:
                file.write(b"CAL1\x03 half an entry")
        server.start()
        for session, outputs in zip(sessions, told, strict=True):
            outputs += [session.step(one) for one in x[20:30]]
            outputs.extend(session.chunk(x[30:]))
            replay = client.replay(session)
            steps = list(replay)
            assert all(step.matches for step in steps)
            assert replay.summary is not None
            assert replay.summary.good
            assert replay.summary.complete
            [restored] = [step for step in steps if step.event is AuditEvent.RESTORED]
            lasting = [step for step in steps if not step.superseded]
            assert [step.step_index for step in lasting] == list(range(60))
            found = np.stack([step.output for step in lasting if step.output is not None])
            np.testing.assert_allclose(found, np.stack(outputs), rtol=1e-5, atol=1e-6)
            # What the kill undid was taken again, with the same inputs.
            undone = [step for step in steps if step.superseded]
            for step in undone:
                assert step.step_index >= restored.step_index
                np.testing.assert_array_equal(step.input, lasting[step.step_index].input)
            # Of SYNC every answered step was on the disk, in the log and in the store.
            assert session.info.durability != "sync" or not undone
