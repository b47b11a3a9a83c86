"""`carousel sessions` and `carousel step` from the outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from carousel.client import Client

from .conftest import Command


def test_the_life_of_a_session(inside: Command) -> None:
    made = inside(
        "sessions", "create", "tiny", "--id", "life", "--ttl", "5m", "--rewind-depth", 2, "--json"
    ).json
    assert (made["name"], made["ttl"], made["step_index"]) == ("sessions/life", 300.0, 0)
    first = inside("step", "life", "1,2,3", "4,5,6", "--json").json
    assert first["first_steps"] == [0]
    assert len(first["outputs"][0]) == 2
    assert inside("sessions", "rewind", "life", "--steps", 1, "--json").json["step_index"] == 1
    again = inside("step", "life", "4,5,6", "--json").json
    assert again["outputs"][0][0] == pytest.approx(first["outputs"][0][1], rel=1e-5)
    assert inside("sessions", "reset", "life", "--json").json["step_index"] == 0
    assert inside("sessions", "touch", "life", "--ttl", "1h", "--json").json["ttl"] == 3600.0
    assert "life" in inside("sessions", "list").out
    assert inside("sessions", "end", "life").code == 0
    shown = inside("sessions", "show", "life", "--json").json
    assert (shown["state"], shown["end_reason"]) == ("ended", "closed")


def test_a_snapshot_in_a_file_goes_on_where_it_was_taken(inside: Command, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    inside("sessions", "create", "tiny", "--id", "before")
    inside("step", "before", "1,2,3")
    assert inside("sessions", "export", "before", file).code == 0
    made = inside("sessions", "import", file, "--id", "after", "--json").json
    assert made["step_index"] == 1
    steps = [inside("step", name, "4,5,6", "--json").json for name in ("before", "after")]
    assert steps[0]["outputs"][0][0] == pytest.approx(steps[1]["outputs"][0][0], rel=1e-5)

    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    damaged = inside("sessions", "import", file)
    assert damaged.code == 1
    assert "[SNAPSHOT_DAMAGED]" in damaged.err


def test_copies_and_snapshots_leave_the_holder_alone(inside: Command, tmp_path: Path) -> None:
    with Client(inside.target) as client, client.session("tiny", session_id="held") as held:
        held.step([1.0, 2.0, 3.0])
        copies = inside("sessions", "fork", "held", "--count", 3, "--json").json
        assert [copy["step_index"] for copy in copies] == [1, 1, 1]
        assert inside("sessions", "export", "held", tmp_path / "snapshot").code == 0
        assert inside("sessions", "touch", "held").code == 0
        held.step([1.0, 2.0, 3.0])  # would be fenced, had anyone attached


def test_a_session_can_begin_with_a_text(inside: Command) -> None:
    made = inside("sessions", "create", "writer", "--prefix", "in the", "--json").json
    assert made["step_index"] == 6
    refused = inside("sessions", "create", "tiny", "--prefix", "in the")
    assert refused.code == 1
    assert "[NO_TOKENIZER]" in refused.err
