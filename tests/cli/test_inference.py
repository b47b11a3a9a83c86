"""`carousel generate`, `predict` and `trace` from the outside."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from carousel.client import Client

from .conftest import Command


def test_generate_gives_one_object_a_token(carousel: Command) -> None:
    words = ("generate", "writer", "the sun ", "--max-tokens", 12, "--seed", 7)
    done = carousel(*words, "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert len(lines) == 12
    assert lines[-1]["finish_reason"] == "length"
    assert (lines[-1]["generated_tokens"], lines[-1]["seed"]) == (12, 7)
    assert carousel(*words).out == "".join(line["text"] for line in lines)


def test_a_session_goes_on_from_command_to_command(inside: Command) -> None:
    words = ("--temperature", 0, "--json")
    whole = inside("generate", "writer", "a", "--max-tokens", 8, *words).out
    parts = [
        inside("generate", "writer", prompt, "--session", "goes-on", "--max-tokens", 4, *words).out
        for prompt in ("a", "")
    ]
    ids = [json.loads(line)["id"] for line in whole.splitlines()]
    assert [json.loads(line)["id"] for part in parts for line in part.splitlines()] == ids


def test_a_prompt_from_standard_input(inside: Command) -> None:
    words = ("--max-tokens", 5, "--seed", 1)
    piped = inside("generate", "writer", "-", *words, stdin="abc")
    assert piped.out == inside("generate", "writer", "abc", *words).out


def test_a_model_that_has_no_text_says_so(inside: Command) -> None:
    done = inside("generate", "tiny", "hello", "--json")
    assert (done.code, done.out) == (1, "")
    assert json.loads(done.err)["error"]["reason"] == "NOT_GENERATIVE"


def test_predict_reads_csv_and_numpy_alike(inside: Command, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    rows = [",".join(map(repr, map(float, row))) for row in x]
    (tmp_path / "x.csv").write_text("\n".join(["a,b,c", *rows, "", *rows[:2]]))
    with Client(inside.target) as client:
        wanted = client.predict("tiny", [x, x[:2]])

    done = inside("predict", "tiny", tmp_path / "x.csv", "--json").json
    assert done["outputs"][0] == pytest.approx(wanted[0], rel=1e-5)
    assert done["outputs"][1] == pytest.approx(wanted[1], rel=1e-5)
    table = list(
        csv.reader(io.StringIO(inside("predict", "tiny", tmp_path / "x.npy", "--csv").out))
    )
    assert table[0] == ["sequence", "step", "y0", "y1"]
    assert np.asarray(table[1:], float)[:, 2:] == pytest.approx(wanted[0], rel=1e-5)
    last = inside("predict", "tiny", tmp_path / "x.csv", "--last", "--json").json
    assert last["first_steps"] == [3, 1]


def test_predict_picks_columns_and_sequences_of_a_table(inside: Command, tmp_path: Path) -> None:
    plain, table = tmp_path / "plain.csv", tmp_path / "table.csv"
    plain.write_text("1,2,3\n4,5,6\n\n7,8,9\n")
    table.write_text("who,c,note,a,b\nx,3,n,1,2\ny,9,n,7,8\nx,6,n,4,5\n")
    columns = ("--column", "a", "--column", "b", "--column", "c")
    picked = inside("predict", "tiny", table, *columns, "--sequence", "who", "--csv")
    wanted = inside("predict", "tiny", plain, "--csv").out
    assert picked.out == wanted.replace("\n0,", "\nx,").replace("\n1,", "\ny,")
    assert picked.out.count("\n") == 4
    wrong = inside("predict", "tiny", table, "--column", "d")
    assert wrong.code == 1
    assert "there is no column 'd', there are who, c, note, a, b" in wrong.err


def test_predict_reads_what_jobs_learn_from(inside: Command, tmp_path: Path) -> None:
    x = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.savez(tmp_path / "data.npz", x=x, starts=np.array([0, 2, 3]), y=np.array([0, 1]))
    np.savez(tmp_path / "plain.npz", one=x[:2], two=x[2:])
    answers = [inside("predict", "tiny", tmp_path / f"{n}.npz", "--csv") for n in ("data", "plain")]
    assert answers[0].out == answers[1].out != ""


def test_predict_takes_text_for_tokens(inside: Command) -> None:
    done = inside("predict", "writer", "-", "--json", stdin="abc\n").json
    assert np.shape(done["outputs"][0]) == (3, 28)
    refused = inside("predict", "writer", "-", stdin="A")
    assert refused.code == 1
    assert "character 'A' at position 0 is unknown" in refused.err


def test_predict_says_which_step_is_wrong(inside: Command) -> None:
    done = inside("predict", "tiny", "-", stdin="1,2,3\n1,2\n")
    assert done.code == 1
    assert "got '1,2' in step 2" in done.err


def test_trace_has_every_gate(inside: Command) -> None:
    layers = inside("trace", "writer", "abc", "--json").json["layers"]
    assert set(layers[0]) == {"reset", "update", "candidate", "hidden"}
    assert np.shape(layers[0]["reset"]) == (3, 16)
    assert "update" in inside("trace", "writer", "abc").out
