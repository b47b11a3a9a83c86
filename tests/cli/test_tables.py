"""`carousel predict` reads tables as jobs do, whatever their format, size and gaps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
import torch
from tests.conftest import RunningServer

from carousel.cli import whole_sequences
from carousel.client import Client
from carousel.model import (
    Characters,
    Classifier,
    Features,
    Linear,
    ModelConfig,
    Network,
    Normalization,
    Softmax,
    Subwords,
    Tokens,
    Words,
    load,
    save,
)
from carousel.model.data import ForecastTask, prepare
from carousel.model.tokenizer import BYTE_NAMES

from .conftest import SYMBOLS, Command

Rows = list[dict[str, Any]]

SENTENCE = "the quick brown fox\njumps over the lazy dog\n"
MODELS = {
    "energy": ModelConfig(
        cell="lstm",
        layers=1,
        hidden_size=6,
        input=Features(2, ("load", "wind")),
        head=Linear(2, targets=("load",)),
        normalization=Normalization((3.0, -1.0), (2.0, 0.5)),
    ),
    "subwords": ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=6,
        input=Tokens(len(Subwords.learn([SENTENCE * 9], 280)), 4),
        head=Softmax(len(Subwords.learn([SENTENCE * 9], 280))),
        tokenizer=Subwords.learn([SENTENCE * 9], 280),
    ),
    "words": ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=6,
        input=Tokens(3, 4),
        head=Classifier(("noun", "verb")),
        tokenizer=Words(("dog", "runs")),
    ),
    "letters-of": ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=6,
        input=Tokens(3, 4),
        head=Classifier(("good", "bad")),
        tokenizer=Characters("abc"),
    ),
}


@pytest.fixture(scope="module")
def ask(own_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of the server, which has MODELS."""
    root = tmp_path_factory.mktemp("named")
    with Client(own_server.target) as client:
        for name, config in MODELS.items():
            torch.manual_seed(3)
            save(root / name, Network(config))
            client.upload_model(root / name, model=name)
            client.load_model(name)
        yield client


def write(folder: Path, rows: Rows, kind: str) -> Path:
    """A missing value is an empty cell, a key that is not there, or null."""
    path = folder / f"data.{kind}"
    if kind == "parquet":
        pa_parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        known = [{k: v for k, v in row.items() if v is not None} for row in rows]
        path.write_text("\n".join(map(json.dumps, known)) + "\n")
    else:
        cells = [["" if v is None else str(v) for v in row.values()] for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *map(",".join, cells)]) + "\n")
    return path


def readings(count: int = 40) -> Rows:
    """Two cities in turn, some values missing, and a column that no model reads."""
    random = np.random.default_rng(5)
    return [
        {
            "city": ("Oslo", "Bergen")[i % 2],
            "hour": f"2024-05-{1 + i // 24:02d} {i % 24:02d}:00",
            "wind": None if i % 7 == 3 else round(float(random.normal()), 3),
            "note": "x",
            "load": None if i % 11 == 5 else round(float(random.normal()) + 3, 3),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_is_read_as_in_training(
    inside: Command, ask: Client, tmp_path: Path, kind: str
) -> None:
    """By names, in the order of its times, with gaps filled: what is read is the corpus."""
    rows = readings()
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    file = write(tmp_path, shuffled, kind)
    options = {"features": ("wind",), "time_column": "hour", "group_column": "city"}
    task = ForecastTask(targets=("load",), **options)  # type: ignore[arg-type]
    corpus = prepare(file, task, tmp_path / "corpus", validation_share=0, test_share=0)
    wanted = ask.predict("energy", np.split(corpus.steps, corpus.starts[1:-1]))
    words = ("--sequence", "city", "--time", "hour", "--json")
    done = inside("predict", "energy", file, *words).json
    assert done["sequences"] == list(dict.fromkeys(row["city"] for row in shuffled))
    assert done["names"] == ["load+1", "load+2"]
    for found, outputs in zip(done["outputs"], wanted, strict=True):
        np.testing.assert_allclose(found, outputs, rtol=1e-4, atol=1e-6)


def test_a_gap_at_the_beginning_is_what_the_model_takes_for_the_mean(
    inside: Command, ask: Client, tmp_path: Path
) -> None:
    rows: Rows = [{"load": None, "wind": 1.0}, {"load": 4.0, "wind": None}]
    wanted = ask.predict("energy", [[[3.0, 1.0], [4.0, 1.0]]])[0]
    done = inside("predict", "energy", write(tmp_path, rows, "csv"), "--json").json
    np.testing.assert_allclose(done["outputs"][0], wanted, rtol=1e-4, atol=1e-6)


def test_a_wrong_cell_is_refused_with_row_and_column(
    inside: Command, ask: Client, tmp_path: Path
) -> None:
    rows = readings()
    rows[4]["load"] = "many"
    done = inside("predict", "energy", write(tmp_path, rows, "csv"))
    assert (done.code, "row 5, column 'load': 'many' is not a number" in done.err) == (1, True)
    rows[4] = {**readings()[4], "hour": "soon"}
    done = inside("predict", "energy", write(tmp_path, rows, "jsonl"), "--time", "hour")
    assert (done.code, "row 5, column 'hour': 'soon' is no time" in done.err) == (1, True)
    for row in rows:
        del row["load"]
    done = inside("predict", "energy", write(tmp_path, rows, "jsonl"))
    assert (done.code, "the model reads load, wind, there are" in done.err) == (1, True)


def test_parquet_without_pyarrow_says_what_to_install(
    inside: Command, ask: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, readings(), "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = inside("predict", "energy", file)
    assert (done.code, "pip install pyarrow" in done.err) == (2, True)


def test_a_sequence_of_any_length_is_read(
    inside: Command, ask: Client, own_server: RunningServer, tmp_path: Path
) -> None:
    """Longer than one request may be, and still from the initial state to the end."""
    x = np.random.default_rng(2).normal(size=(20_000, 3)).astype(np.float32)
    assert len(x) > own_server.settings.max_chunk
    np.save(tmp_path / "long.npy", x)
    network = load(own_server.settings.store / "tiny" / "1")
    with torch.no_grad():
        wanted = network.forward_fused(torch.from_numpy(x)[None], network.initial_rows(1))[0][0]
    last = inside("predict", "tiny", tmp_path / "long.npy", "--last", "--json").json
    assert last["first_steps"] == [19_999]
    assert last["outputs"][0][0] == pytest.approx(wanted[-1].tolist(), rel=1e-4)
    every = inside("predict", "tiny", tmp_path / "long.npy", "--json").json["outputs"][0]
    np.testing.assert_allclose(every, wanted.numpy(), rtol=1e-3, atol=1e-5)


def test_text_is_encoded_by_the_server(inside: Command, ask: Client, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(SENTENCE + "\n")
    tokenizer = MODELS["subwords"].tokenizer
    assert isinstance(tokenizer, Subwords)
    tokens = np.array(tokenizer.encode(SENTENCE))
    assert len(tokens) < len(SENTENCE)
    wanted = ask.predict("subwords", [tokens])[0]
    done = inside("predict", "subwords", file, "--json").json
    np.testing.assert_allclose(done["outputs"][0], wanted, rtol=1e-4, atol=1e-6)
    lines = inside("predict", "subwords", file).out.splitlines()
    symbols = [*map(str, BYTE_NAMES), *(m.replace(" ", "") for m in tokenizer.merges)]
    likeliest = symbols[int(np.argmax(wanted[-1]))]
    assert lines[-1].split()[:2] == [str(len(tokens) - 1), likeliest]
    ask.session("subwords", session_id="by-hand")
    stepped = inside("step", "by-hand", SENTENCE, "--json").json
    np.testing.assert_allclose(stepped["outputs"][0], wanted, rtol=1e-4, atol=1e-6)
    traced = inside("trace", "subwords", "--file", file, "--json").json
    np.testing.assert_allclose(traced["outputs"], wanted, rtol=1e-4, atol=1e-6)


def test_a_column_of_tokens_is_read(inside: Command, ask: Client, tmp_path: Path) -> None:
    words = [{"s": s, "word": w} for s, w in (("b", "dog"), ("a", "cat"), ("b", "runs"))]
    options = ("--column", "word", "--sequence", "s", "--json")
    done = inside("predict", "words", write(tmp_path, words, "jsonl"), *options).json
    assert done["sequences"] == ["b", "a"]
    for found, wanted in zip(done["outputs"], ask.predict("words", [[1, 2], [0]]), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)
    letters = [{"s": row["s"], "word": letter} for row, letter in zip(words, "acb", strict=True)]
    done = inside("predict", "letters-of", write(tmp_path, letters, "csv"), *options).json
    answers = ask.predict("letters-of", [[0, 1], [2]])
    for found, wanted in zip(done["outputs"], answers, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("cut", [str, lambda text: text.replace("\n", " ")])
def test_texts_of_any_length_become_tokens(ask: Client, cut: Callable[[str], str]) -> None:
    texts = [cut("the lazy dog\n" * 90_000), "a", cut("b\n" * 3)]
    if "\n" not in texts[0]:
        texts[0] = texts[0][: whole_sequences.TEXT_LENGTH]  # one line may not be longer
    tokens = whole_sequences.tokenize(ask, "writer", texts)
    assert ["".join(SYMBOLS[token] for token in one) for one in tokens] == texts
