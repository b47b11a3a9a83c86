"""`carousel models` from the outside."""

from __future__ import annotations

from pathlib import Path

from .conftest import Command, writer


def test_a_model_comes_in_serves_and_leaves(inside: Command, tmp_path: Path) -> None:
    folder = writer(tmp_path / "folder")
    assert inside("models", "upload", folder, "new", "--validate-only", "--json").json
    assert inside("models", "upload", folder, "new", "--json").json["state"] == "unloaded"
    assert inside("models", "load", "new", "--json").json["state"] == "ready"
    assert inside("models", "alias", "new", "stable", 1, "--json").json["aliases"] == {"stable": 1}
    assert inside("models", "export", "new@stable", tmp_path / "back").code == 0
    weights = "weights.safetensors"
    assert (tmp_path / "back" / weights).read_bytes() == (folder / weights).read_bytes()

    refused = inside("models", "delete", "new/1")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error: ")
    assert refused.err.rstrip().endswith("[MODEL_IN_USE]")

    assert inside("models", "alias", "new", "stable", "--delete").code == 0
    assert inside("models", "unload", "new/1").code == 0
    assert inside("models", "delete", "new/1").code == 0


def test_list_shows_every_version(inside: Command) -> None:
    listed = inside("models", "list", "--json").json
    found = {one["name"]: [v["state"] for v in one["versions"]] for one in listed}
    assert found["models/writer"] == ["ready"]
    table = inside("models", "list").out
    assert "gru 1 x 16" in table
    assert "28 tokens -> softmax 28" in table


def test_show_has_the_state_schema(inside: Command) -> None:
    shown = inside("models", "show", "tiny/1", "--json").json
    assert shown["state_schema"] == {"h": [2, 8], "c": [2, 8]}
    assert "h [2, 8], c [2, 8]" in inside("models", "show", "tiny").out


def test_import_without_an_import_root_is_refused(inside: Command) -> None:
    done = inside("models", "import", "somewhere", "new")
    assert done.code == 1
    assert "[IMPORT_REFUSED]" in done.err


def test_rules_for_states_are_shown_replaced_and_removed(inside: Command) -> None:
    assert inside("models", "policy", "tiny", "--json").json == []
    words = ("--rule", "state_norm:40:clip", "--rule", "age:10000:soft_reset")
    rules = [
        {"metric": "state_norm", "threshold": 40.0, "action": "clip"},
        {"metric": "age", "threshold": 10000.0, "action": "soft_reset"},
    ]
    assert inside("models", "policy", "tiny", *words, "--json").json == rules
    assert inside("models", "policy", "tiny", "--json").json == rules
    assert "state_norm" in inside("models", "policy", "tiny").out
    refused = inside("models", "policy", "tiny", "--rule", "saturation:2:reset")
    assert (refused.code, refused.out) == (1, "")
    assert "0 to 1, got 2" in refused.err
    for wrong in (("--rule", "age:often:reset"), ("--rule", "age:9:reset", "--clear")):
        assert inside("models", "policy", "tiny", *wrong).code == 2
    assert inside("models", "policy", "tiny", "--clear", "--json").json == []
    assert "no rules" in inside("models", "policy", "tiny").out
