"""`carousel sessions` and `carousel step` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import RunningServer

from carousel.client import Client
from carousel.server.audit.entry import STEPS, encode, read

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

    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = inside("sessions", "import", file)
    assert damaged.code == 1
    assert "[SEAL_BROKEN]" in damaged.err


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


def test_past_steps_are_computed_again(inside: Command, own_server: RunningServer) -> None:
    assert inside("sessions", "create", "tiny", "--id", "audited", "--audit").code == 0
    assert inside("sessions", "show", "audited", "--json").json["audited"] is True
    taken = inside("step", "audited", "1,2,3", "4,5,6", "7,8,9", "--json").json
    replayed = inside("sessions", "replay", "audited", "--json").out
    lines = [json.loads(line) for line in replayed.splitlines()]
    assert [line["output"] for line in lines[:3]] == taken["outputs"][0]
    assert [line["step_index"] for line in lines[:3]] == [0, 1, 2]
    assert lines[3]["steps"] == 3
    assert lines[3]["complete"]
    inside("sessions", "end", "audited")
    shown = inside("sessions", "replay", "audited", "--from", 1, "--to", 2)
    assert shown.code == 0
    assert "4, 5, 6" in shown.out
    assert "1, all match" in shown.out
    verified = inside("sessions", "replay", "audited", "--verify")
    assert "4, 5, 6" not in verified.out
    assert "3, all match" in verified.out
    [file] = (own_server.settings.audit_folder / "audited").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-70] + b"?" + data[-69:])
    damaged = inside("sessions", "replay", "audited")
    assert damaged.code == 1
    assert "[AUDIT_DAMAGED]" in damaged.err
    assert inside("sessions", "replay", "nobody").code == 1


def test_a_step_that_does_not_match_gives_an_exit_code(
    inside: Command, own_server: RunningServer
) -> None:
    inside("sessions", "create", "writer", "--id", "forged", "--audit")
    inside("generate", "writer", "abc", "--session", "forged", "--max-tokens", 2)
    inside("sessions", "end", "forged")
    assert inside("sessions", "replay", "forged").code == 0
    [file] = (own_server.settings.audit_folder / "forged").iterdir()
    with file.open("rb") as opened:
        entries = [placed.entry for placed in read(opened)]
    forged, chain = b"", bytes(32)
    for entry in entries:
        if entry.kind == STEPS:
            entry.payload = entry.payload[:-4] + b"\0\0\0\x40"
        data, chain = encode(entry, chain)
        forged += data
    file.write_bytes(forged)
    seen = inside("sessions", "replay", "forged", "--verify")
    assert seen.code == 1
    assert "no, off by" in seen.out
    assert "do not match" in seen.out
    assert inside("sessions", "replay", "forged", "--json").code == 1
