"""Commands whose credential is none, wrong or short of a scope: one line, and exit code 1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RunningServer, running, tiny_models
from typer.main import get_command

from carousel.cli.app import app
from carousel.server.access import key_file
from carousel.server.access.caller import SCOPES

from .conftest import Command, InProcess

# Every command that asks a server, and a scope that would let it in; "": any will do.
NEEDS = {
    "generate tiny hello": "infer",
    "predict tiny -": "infer",
    "step one 1,2,3": "sessions",
    "trace tiny --file FILE": "infer",
    "train FILE --target a": "train",
    "info": "",
    "quotas": "",
    "stats": "metrics",
    "drain": "admin",
    "top --once -i 100ms": "",
    "jobs list": "train",
    "jobs show one": "train",
    "jobs watch one": "train",
    "jobs cancel one": "train",
    "jobs resume one": "train",
    "jobs delete one": "train",
    "jobs checkpoints one": "train",
    "jobs promote one": "train",
    "jobs gradients one": "train",
    "jobs plot one": "train",
    "datasets list": "train",
    "datasets show one": "train",
    "datasets upload FILE": "train",
    "datasets delete one": "train",
    "models list": "models",
    "models show tiny": "models",
    "models upload FOLDER one": "models",
    "models import one one": "models",
    "models export tiny NEW": "models",
    "models load tiny": "models",
    "models unload tiny": "models",
    "models delete tiny/1": "models",
    "models alias tiny stable 1": "models",
    "models policy tiny": "models",
    "sessions list": "sessions",
    "sessions show one": "sessions",
    "sessions create tiny": "sessions",
    "sessions end one": "sessions",
    "sessions fork one": "sessions",
    "sessions rewind one --steps 1": "sessions",
    "sessions bookmark one here": "sessions",
    "sessions migrate one tiny": "sessions",
    "sessions reset one": "sessions",
    "sessions export one NEW": "sessions",
    "sessions import KEPT": "sessions",
    "sessions replay one": "sessions",
    "sessions inspect one": "sessions",
    "sessions touch one": "sessions",
}
ELSEWHERE = {"serve", "demo", "exporter", "certs", "health", "experiments", "keys", "bench"}


class Guarded:
    """A server that knows its callers, and commands with their credentials."""

    def __init__(self, server: RunningServer, keys: Path, folder: Path) -> None:
        self.server, self.keys = server, keys
        self.files = {
            "FILE": folder / "data.csv",
            "FOLDER": server.settings.store / "tiny" / "1",
            "NEW": folder / "new",
            "KEPT": folder / "kept",
        }
        self.files["FILE"].write_text("a,b\n1,2\n")
        self._made: dict[tuple[str, ...], str] = {}
        operator = self.key(*sorted(SCOPES))
        for line in ("sessions create tiny --id one", "sessions export one KEPT"):
            assert self.run(line, operator).code == 0

    def key(self, *scopes: str) -> str:
        """One that has these scopes alone."""
        if scopes not in self._made:
            now = datetime.now(UTC)
            _, self._made[scopes] = key_file.create(self.keys, now=now, scopes=list(scopes))
            for verifier, _ in self.server.server.gate._verifiers:  # type: ignore[attr-defined]
                verifier.refresh()  # what the server does every second
        return self._made[scopes]

    def words(self, line: str) -> list[str]:
        return [str(self.files.get(word, word)) for word in line.split()]

    def run(self, line: str, token: str, *more: str) -> Any:
        command = InProcess(self.server.target)
        return command(*self.words(line), *more, stdin="1,2,3\n", CAROUSEL_TOKEN=token)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    tiny_models(folder / "models")
    keys = folder / "keys.jsonl"
    key_file.create(keys, now=datetime.now(UTC), scopes=["infer"])
    with running(store=folder / "models", shipped=False, api_keys=keys) as server:
        yield Guarded(server, keys, folder)


def leaves(command: Any, *before: str) -> Iterator[str]:
    for name, one in command.commands.items():
        if hasattr(one, "commands"):
            yield from leaves(one, *before, name)
        else:
            yield " ".join((*before, name))


def test_these_are_all_commands_that_ask_a_server() -> None:
    known = {one for one in leaves(get_command(app)) if one.split()[0] not in ELSEWHERE}
    asked = {one for one in known if any(f"{line} ".startswith(f"{one} ") for line in NEEDS)}
    assert asked == known


@pytest.mark.parametrize("line", NEEDS)
def test_who_is_not_let_in_is_told_in_one_line(guarded: Guarded, line: str) -> None:
    done = guarded.run(line, "")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done
    assert done.err.startswith("error: the call needs a credential")
    assert done.err.endswith("[UNAUTHENTICATED]\n")


def lacking(scope: str) -> str:
    whose = ", which the operator's alone can have" if scope in ("metrics", "admin") else ""
    return f"the credential has not the scope {scope}{whose}"


@pytest.mark.parametrize(
    "line",
    [
        "generate tiny hello",
        "step one 1,2,3",
        "stats",
        "drain",
        "train FILE --target a",
        "jobs watch one",
        "models upload FOLDER one",
        "sessions import KEPT",
    ],
)
def test_who_lacks_the_scope_is_told_which_in_one_line(guarded: Guarded, line: str) -> None:
    scope = NEEDS[line]
    done = guarded.run(line, guarded.key(*sorted(SCOPES - {scope})))
    assert (done.code, done.out) == (1, ""), done
    assert done.err == f"error: {lacking(scope)} [PERMISSION_DENIED]\n"


def test_the_same_as_json_and_in_a_process_of_its_own(guarded: Guarded) -> None:
    token = guarded.key("infer")
    done = guarded.run("models list", token, "--json")
    assert json.loads(done.err)["error"]["reason"] == "PERMISSION_DENIED"
    assert (done.code, done.out) == (1, "")
    command = Command(guarded.server.target)
    alone = command("models", "list", CAROUSEL_TOKEN=token)
    told = "error: the credential has not the scope models [PERMISSION_DENIED]\n"
    assert (alone.code, alone.out, alone.err) == (1, "", told)


def test_help_needs_neither_a_credential_nor_a_server() -> None:
    done = InProcess("localhost:1")("--help", CAROUSEL_TOKEN="carousel_wrong")
    assert (done.code, "top" in done.out, done.err) == (0, True, "")


def test_top_shows_what_the_credential_allows_and_says_what_it_does_not(guarded: Guarded) -> None:
    scopes = {"metrics": "rates and gates", "sessions": "sessions", "train": "jobs"}
    for allowed, part in scopes.items():
        key = guarded.key(allowed)
        seen = guarded.run("top --once -i 100ms --json", key).json
        denied = {name: lacking(scope) for scope, name in scopes.items()}
        del denied[part]
        assert seen["denied"] == denied
        assert (seen["rates"] is None) == (allowed != "metrics")
        names = [one["session"]["name"] for one in seen["sessions"]]
        assert names == (["sessions/one"] if allowed == "sessions" else [])
        [tiny] = [one for one in seen["models"] if one["name"] == "tiny/1"]
        assert tiny["sessions"] == (1 if allowed == "metrics" else None)
        text = " ".join(guarded.run("top --once -i 100ms", key).out.split())  # lines may be cut
        for name, why in denied.items():
            assert f"no {name}: {why}" in text
        assert f"no {part}:" not in text
        assert "none is open" not in text


def test_top_that_goes_on_ends_when_it_is_not_let_in(guarded: Guarded) -> None:
    done = guarded.run("top -i 100ms", "carousel_wrong")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "[UNAUTHENTICATED]" in done.err
