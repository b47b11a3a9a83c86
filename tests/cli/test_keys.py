"""`carousel keys`: what it shows, and what it keeps to itself."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from .conftest import InProcess


def test_a_key_is_shown_once_and_alone_on_standard_output(tmp_path: Path) -> None:
    command, file = InProcess("localhost:1"), str(tmp_path / "keys.jsonl")
    made = command("keys", "create", "--scope", "infer", "--name", "web", "--file", file)
    assert (made.code, made.out.count("\n")) == (0, 1)
    secret = made.out.strip()
    assert secret.startswith("carousel_")
    listed = command("keys", "list", "--file", file)
    assert secret.split("_")[1] in listed.out
    assert secret.split("_", 2)[2] not in listed.out + Path(file).read_text()
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600


def test_keys_are_replaced_and_revoked(tmp_path: Path) -> None:
    command, file = InProcess("localhost:1"), str(tmp_path / "keys.jsonl")
    words = ["--scope", "infer", "--scope", "sessions", "--tenant", "shop", "--expires", "90d"]
    old = command("keys", "create", *words, "--file", file, "--json").json
    new = command(
        "keys", "create", "--replaces", old["id"], "--grace", "1h", "--file", file, "--json"
    ).json
    kept, made = command("keys", "list", "--file", file, "--json").json
    assert (kept["id"], made["id"]) == (old["id"], new["id"])
    assert kept["expire_time"] < old["expire_time"] < made["expire_time"]
    assert (made["tenant"], made["scopes"]) == ("shop", ["infer", "sessions"])
    assert command("keys", "revoke", old["id"], "--file", file).out == f"{old['id']} is revoked.\n"
    again = command("keys", "revoke", old["id"], "--file", file)
    assert (again.code, f"no key with the id '{old['id']}'" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "one or more of the scopes admin, infer"),
        (["--scope", "root"], "scopes are admin, infer, metrics, models, sessions, train"),
        (["--scope", "infer", "--tenant", "Shop"], "tenant must be at most 63"),
        (["--replaces", "000000000000"], "no key with the id '000000000000'"),
        (["--replaces", "0", "--scope", "infer"], "with --replaces"),
    ],
)
def test_what_can_not_be_made_is_wrong_usage(tmp_path: Path, words: list[str], told: str) -> None:
    command, file = InProcess("localhost:1"), tmp_path / "keys.jsonl"
    done = command("keys", "create", *words, "--file", file)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert not file.exists()


def test_without_the_file_it_says_so(tmp_path: Path) -> None:
    done = InProcess("localhost:1")("keys", "list", "--file", tmp_path / "none")
    assert (done.code, "can't be read" in done.err) == (1, True)
