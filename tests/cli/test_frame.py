"""What holds for all commands: exit codes, colours, JSON, completion, the cost of a start."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.processes import PATIENCE

from .conftest import COMMAND, Command, environment


def test_info_as_json_is_nothing_but_json(carousel: Command) -> None:
    info = carousel("info", "--json").json
    assert info["device"] == "cpu"
    assert "models/tiny/versions/1" in info["ready_versions"]


def test_stats_count_what_was_done(inside: Command) -> None:
    inside("predict", "tiny", "-", stdin="1,2,3\n")
    families = inside("stats", "grpc_server_handled", "--json").json
    methods = {s["labels"]["grpc_method"] for f in families for s in f["samples"]}
    assert "Predict" in methods
    table = inside("stats").out
    assert "carousel_model_ready" in table
    assert "carousel_model_load_seconds" in table


def test_no_server_is_exit_code_3(carousel: Command) -> None:
    done = carousel("info", "--target", "localhost:1", "--json")
    assert (done.code, done.out) == (3, "")
    assert json.loads(done.err)["error"]["reason"] == "SERVER_UNREACHABLE"


def test_a_refusal_is_exit_code_1(carousel: Command) -> None:
    done = carousel("models", "show", "nothing")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: there is no models/nothing [MODEL_NOT_FOUND]\n"


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-command",),
        ("sessions", "create", "tiny", "--ttl", "soon"),
        ("sessions", "rewind", "x"),
        ("models", "alias", "tiny", "stable"),
        ("serve", "--port", "70000"),
    ],
)
def test_wrong_usage_is_exit_code_2(inside: Command, words: tuple[str, ...]) -> None:
    done = inside(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err


def test_no_escape_codes_without_a_terminal(carousel: Command) -> None:
    for words in (("info",), ("models", "list"), ("--help",), ("models", "show", "none")):
        done = carousel(*words)
        assert "\x1b" not in done.out + done.err


def test_colours_on_a_terminal_unless_no_color(carousel: Command) -> None:
    """`script` gives the command a terminal."""
    words = " ".join([*COMMAND, "models", "list", "--target", carousel.target])
    for more, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        done = subprocess.run(
            ["script", "-qec", words, "/dev/null"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment(**more),
        )
        assert "tiny" in done.stdout
        assert ("\x1b[32m" in done.stdout) is coloured


def test_help_names_the_exit_codes(carousel: Command) -> None:
    for words in (("--help",), ("serve", "--help")):
        assert "3 the server can't be reached" in " ".join(carousel(*words).out.split())


def test_completion_knows_commands_and_models(carousel: Command) -> None:
    def complete(line: str) -> list[str]:
        words = len(line.split()) if line.endswith(" ") else len(line.split()) - 1
        request = "complete_bash"
        done = carousel(_CAROUSEL_COMPLETE=request, COMP_WORDS=line, COMP_CWORD=str(words))
        return done.out.split()

    assert complete("carousel sess") == ["sessions"]
    assert complete("carousel models show ti") == ["tiny", "tiny/1"]
    script = carousel(_CAROUSEL_COMPLETE="source_bash").out
    assert "complete" in script
    assert "carousel" in script


def test_help_imports_nothing_heavy() -> None:
    """A command that only explains itself must answer at once."""
    program = (
        "import sys; from carousel.cli import app; sys.argv = ['carousel', '--help']\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('grpc', 'numpy', 'torch', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
