"""`carousel train`, `jobs` and `datasets` from the outside."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.conftest import running
from tests.processes import PATIENCE

from .conftest import COMMAND, Command, InProcess, environment

STEPS = 20
SMALL = ("--layers", 1, "--hidden", 8, "--window", 12, "--batch", 4)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 hours of `load`, after a column of times and one of text."""
    file = tmp_path_factory.mktemp("tables") / "Readings.csv"
    rows = [f"{hour},{'ab'[hour % 2]},{math.sin(hour / 4):.3f},{hour % 5}" for hour in range(400)]
    file.write_text("\n".join(["hour,note,load,wind", *rows]) + "\n")
    return file


@pytest.fixture(scope="module")
def trained(carousel: Command, table: Path) -> str:
    """What `carousel train` wrote for a job with the id `first`."""
    done = carousel(
        "train", table, "--target", "load", "--horizon", 3, "--time", "hour", "--name", "load",
        "--id", "first", "--alias", "stable", "--steps", STEPS, *SMALL, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    return done.out


def test_a_table_becomes_a_served_forecast(carousel: Command, trained: str) -> None:
    for sign in (
        r"the job is preparing",
        rf"step {STEPS} of {STEPS}: loss [\d.]+, gradient norm",
        r"validation: loss [\d.]+, mae",
        r"the job has succeeded",
        r"on test data +model +naive",
        r"mae +[\d.]+ +[\d.]+",
        r"load/1 is made, stable points at it",
    ):
        assert re.search(sign, trained), sign
    assert "\x1b" not in trained
    prompt, *words = shlex.split(trained.splitlines()[-1])
    assert (prompt, words[0]) == ("$", "carousel")
    forecast = carousel(*words[1:], "--csv")
    heading, row = forecast.out.splitlines()
    assert heading == "sequence,step,load+1,load+2,load+3"
    assert row.startswith("0,399,")


def test_a_watch_is_one_object_an_event_and_the_job_at_last(inside: Command, trained: str) -> None:
    *events, job = map(json.loads, inside("jobs", "watch", "first", "--json").out.splitlines())
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["kind"] == "state"
    assert events[-1]["what"] == job["state"] == "succeeded"
    assert job["recipe"]["task"]["type"] == "forecast"
    after = inside("jobs", "watch", "first", "--json", "--after", len(events) - 1).out
    assert [json.loads(line) for line in after.splitlines()] == [events[-1], job]


def test_jobs_are_listed_and_described(inside: Command, trained: str) -> None:
    [job] = inside("jobs", "list", "--state", "succeeded", "--model", "load", "--json").json
    assert job["name"] == "jobs/first"
    assert "first" in inside("jobs", "list").out
    shown = inside("jobs", "show", "first").out
    assert "forecast of load, 3 steps" in shown
    assert "lstm 1 x 8" in shown
    [*_, last] = inside("jobs", "checkpoints", "first", "--json").json
    assert last["step"] == STEPS
    assert "best" in inside("jobs", "checkpoints", "first").out


def test_a_checkpoint_is_promoted(inside: Command, trained: str) -> None:
    done = inside("jobs", "promote", "first", STEPS, "--model", "copy", "--alias", "tried")
    assert done.out == f"copy/1 is made of checkpoint {STEPS} of first\n"
    assert json.loads(inside("models", "show", "copy/1", "--json").json["baseline_json"])
    missing = inside("jobs", "promote", "first", 7)
    assert missing.code == 1
    assert missing.err.rstrip().endswith("[CHECKPOINT_NOT_FOUND]")


def test_a_version_keeps_how_its_gates_behave(
    inside: Command, trained: str, tmp_path: Path
) -> None:
    shown = inside("models", "show", "load/1")
    assert re.search(
        r"on held-out data +layer 0: forget gate 0\.\d\d, state norm [\d.]+", shown.out
    )
    inside("models", "export", "load/1", tmp_path / "out")
    inside("models", "upload", tmp_path / "out", "again")
    texts = [
        inside("models", "show", name, "--json").json["baseline_json"]
        for name in ("load/1", "again/1")
    ]
    assert texts[0] == texts[1] == (tmp_path / "out" / "baseline.json").read_text() != ""


def test_gradients_are_shown_as_bars(inside: Command, trained: str) -> None:
    shown = inside("jobs", "gradients", "first", "--window", 6).out
    assert "dL/dh by lag" in shown
    assert "█" in shown


def test_a_plot_is_drawn(inside: Command, trained: str, tmp_path: Path) -> None:
    files = inside("jobs", "plot", "first", "--out", tmp_path / "first", "--json").json["files"]
    assert [Path(file).suffix for file in files] == [".png", ".svg"]
    assert all(Path(file).stat().st_size > 10_000 for file in files)


def test_a_dataset_stays_and_is_learned_from_again(inside: Command, trained: str) -> None:
    [dataset] = inside("datasets", "list", "--json").json
    assert dataset["name"].startswith("datasets/readings-")
    assert dataset["rows"] == 400
    identity = dataset["name"].removeprefix("datasets/")
    shown = inside("datasets", "show", identity).out
    assert re.search(r"load +double|load +float64", shown)
    checked = inside("train", dataset["name"], "--label", "note", "--validate-only", "--json").json
    assert checked["recipe"]["task"]["type"] == "tag"
    seen = inside("train", dataset["name"], "--label", "note", "--validate-only").out
    assert "no job was made" in seen
    assert "queued" not in seen
    assert [job["name"] for job in inside("jobs", "list", "--json").json] == ["jobs/first"]


def test_a_text_is_described_by_its_characters(inside: Command, tmp_path: Path) -> None:
    file = tmp_path / "counting.txt"
    file.write_text("één\ntwee\n\nvier")
    shown = inside("datasets", "upload", file, "--id", "counting").out
    for sign in (r"characters +14", r"lines +4", r"symbols +9 different ones"):
        assert re.search(sign, shown), sign
    text = inside("datasets", "show", "counting", "--json").json["text"]
    assert text == {"characters": 14, "lines": 4, "symbols": 9}
    assert inside("datasets", "delete", "counting").code == 0


def test_what_the_server_refuses_is_exit_code_1(inside: Command, table: Path) -> None:
    done = inside("train", table, "--target", "lode", "--json")
    assert (done.code, done.out) == (1, "")
    assert "lode" in json.loads(done.err)["error"]["message"]
    done = inside("jobs", "show", "nothing")
    assert (done.code, done.out) == (1, "")
    assert done.err.rstrip().endswith("[JOB_NOT_FOUND]")


def test_a_wrong_cell_is_shown_and_makes_no_job(inside: Command, tmp_path: Path) -> None:
    file = tmp_path / "gaps.csv"
    rows = [f"{hour},{'ab'[hour % 2]}" for hour in range(400)]
    file.write_text("\n".join(["hour,note", *rows[:250], "250,", *rows[251:]]) + "\n")
    before = inside("jobs", "list", "--json").json
    for more in ((), ("--validate-only",)):
        done = inside("train", file, "--label", "note", *more)
        assert (done.code, done.out) == (1, "")
        assert "row 251, column 'note': a value is missing [DATASET_INVALID]" in done.err
    assert inside("jobs", "list", "--json").json == before
    [dataset] = [one for one in inside("datasets", "list", "--json").json if "gaps" in one["name"]]
    assert inside("datasets", "delete", dataset["name"].removeprefix("datasets/")).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("TABLE",),
        ("TABLE", "--target", "load", "--tokens", "bytes"),
        ("TABLE", "--target", "load", "--task", "guess"),
        ("TABLE", "--target", "load", "--steps", "0"),
        ("nothing.csv", "--target", "load"),
    ],
)
def test_wrong_usage_is_exit_code_2(inside: Command, table: Path, words: tuple[str, ...]) -> None:
    done = inside("train", *(table if word == "TABLE" else word for word in words))
    assert (done.code, done.out) == (2, "")
    assert done.err


def test_ctrl_c_leaves_the_job_running(inside: Command, table: Path) -> None:
    """On a terminal, where the picture moves."""
    words = ["train", table, "--target", "load", "--name", "left", "--id", "left"]
    words += ["--steps", 1_000_000, "--evaluate-every", 20, *SMALL]
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        ["setsid", "--ctty", *COMMAND, *map(str, words)],  # Ctrl-C on the terminal is for it
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(CAROUSEL_TARGET=inside.target, COLUMNS="100", LINES="40"),
    )
    os.close(theirs)
    try:
        seen = _read_until(ours, "gradient of layer 0")
        for sign in ("left", "running", "training loss", "1,000,000 updates", "Ctrl-C leaves"):
            assert sign in seen, sign
        os.write(ours, b"\x03")
        assert "left goes on without this command" in _read_until(ours, "stops it")
        assert command.wait(PATIENCE) == 130
        assert inside("jobs", "show", "left", "--json").json["state"] == "running"
    finally:
        command.kill()
        command.wait()
        os.close(ours)
        inside("jobs", "cancel", "left")
    ended = inside("jobs", "watch", "left")
    assert ended.code == 1
    assert ended.err.rstrip().endswith("[JOB_FAILED]")
    assert "carousel jobs resume left" in ended.out
    assert inside("jobs", "delete", "left").code == 0


def _read_until(terminal: int, sign: str) -> str:
    """What the terminal shows until this has come, without its escape codes."""
    seen = ""
    while sign not in seen:
        try:
            seen += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the command has ended
            break
        seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    assert sign in seen, seen[-3000:]
    return seen


def test_the_operator_names_a_tenant_s_things_as_its_lists_show_them(
    table: Path, tmp_path: Path
) -> None:
    with running(store=tmp_path, training_jobs_at_once=0) as server:
        own = InProcess(server.target)
        made = own(
            "train", table, "--target", "load", "--time", "hour", "--name", "load", "--id", "mine",
            "--detach", *SMALL, CAROUSEL_TENANT="acme",
        )  # fmt: skip
        assert made.code == 0, made.err
        assert (
            own("sessions", "create", "king-james", "--id", "mine", CAROUSEL_TENANT="acme").code
            == 0
        )
        [dataset] = own("datasets", "list", "--json").json
        identity = dataset["name"].removeprefix("datasets/")
        for kind, name in (("jobs", "mine"), ("sessions", "mine"), ("datasets", identity)):
            assert f"acme/{name}" in own(kind, "list").out
            assert f"acme/{name}" in own(kind, "show", f"acme/{name}").out
            shown = own(kind, "show", f"acme/{name}", "--json").json
            assert (shown["tenant"], shown["name"]) == ("acme", f"{kind}/{name}")
            assert (
                own(kind, "show", f"{kind}/{name}", "--json", CAROUSEL_TENANT="acme").json == shown
            )
            for unknown in (name, f"other/{name}"):
                assert "no " in own(kind, "show", unknown).err
        assert own("jobs", "cancel", "acme/mine", "--json").json["state"] == "cancelled"
        assert own("jobs", "delete", "acme/mine").code == 0
