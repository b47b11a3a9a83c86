"""Tasks are checked when made and survive JSON; a corpus comes back as it was written."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carousel.model import ConfigError
from carousel.model.data import (
    ClassifyTask,
    Corpus,
    DataError,
    ForecastTask,
    LanguageModelTask,
    TagTask,
    Task,
    describe,
    guess_format,
    prepare,
    task_from_dict,
    task_to_dict,
)
from carousel.v1 import training_pb2

TASKS: list[tuple[str, Task]] = [
    ("language_model", LanguageModelTask(tokenization="subwords", document_separator="\n\n")),
    ("forecast", ForecastTask(targets=("a", "b"), features=("c",), time_column="t", horizon=3)),
    ("classify", ClassifyTask(label_column="l", sequence_column="s")),
    ("tag", TagTask(label_column="l", features=("x",), time_column="t")),
]


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_tasks_survive_json(name: str, task: Task) -> None:
    given = json.loads(json.dumps(task_to_dict(task)))
    assert given["type"] == name
    assert task_from_dict(given) == task


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_tasks_have_the_fields_of_the_contract(name: str, task: Task) -> None:
    message = training_pb2.Recipe.DESCRIPTOR.fields_by_name[name].message_type
    assert message is not None
    assert [f.name for f in fields(task)] == [f.name for f in message.fields]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "guess"}, "task.type must be one of language_model, forecast, classify, tag"),
        ({"type": "language_model", "words": 1}, "task has no 'words': allowed are tokenization"),
        ({"type": "language_model", "tokenization": "words"}, "must be one of characters, bytes"),
        ({"type": "language_model", "vocabulary": 256}, "between 257 and 1000000, got 256"),
        ({"type": "language_model", "document_separator": 1}, "document_separator must be a str"),
        ({"type": "forecast"}, "targets must be given: task is not complete"),
        ({"type": "forecast", "targets": []}, "targets must name at least one column"),
        ({"type": "forecast", "targets": "load"}, "targets must be a list of column names"),
        (
            {"type": "forecast", "targets": ["a"], "horizon": 0},
            "horizon must be an integer between",
        ),
        ({"type": "forecast", "targets": ["a", "b"], "horizon": 4097}, "between 1 and 4096"),
        ({"type": "forecast", "targets": ["a"], "season": 0}, "season must be an integer"),
        ({"type": "forecast", "targets": ["a"], "features": ["a"]}, "features names 'a' again"),
        ({"type": "tag", "label_column": "y", "time_column": "y"}, "time_column names 'y' again"),
        ({"type": "classify", "label_column": 3}, "a column must be a string, got 3"),
    ],
)
def test_impossible_tasks_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        task_from_dict(given)
    assert message in str(refused.value)


def text_file(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("the cat sat on the mat\n" * 20)
    return path


def test_a_corpus_is_opened_as_it_was_written_and_read_only(tmp_path: Path) -> None:
    task = LanguageModelTask(tokenization="subwords", vocabulary=270)
    written = prepare(text_file(tmp_path), task, tmp_path / "corpus")
    opened = Corpus.open(tmp_path / "corpus")
    for field in fields(Corpus):
        one, two = getattr(written, field.name), getattr(opened, field.name)
        if field.name == "segments":
            assert one.keys() == two.keys()
            assert all(np.array_equal(one[split], two[split]) for split in one)
        elif isinstance(one, np.ndarray):
            assert np.array_equal(one, two)
        else:
            assert one == two
    with pytest.raises(ValueError, match="read-only"):
        opened.steps[0] = 1


def test_a_corpus_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    with pytest.raises(DataError, match="holds no whole corpus"):
        Corpus.open(tmp_path / "corpus")
    prepare(path, LanguageModelTask(), tmp_path / "corpus")
    steps = tmp_path / "corpus" / "steps.bin"
    steps.write_bytes(steps.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"steps\.bin must have 460 bytes, got 459"):
        Corpus.open(tmp_path / "corpus")
    # Made anew in the same place, it is whole again.
    prepare(path, LanguageModelTask(), tmp_path / "corpus")
    assert len(Corpus.open(tmp_path / "corpus").steps) == 460


def test_the_network_s_shape_can_be_given_in_part(tmp_path: Path) -> None:
    corpus = prepare(text_file(tmp_path), LanguageModelTask(), tmp_path / "corpus")
    config = corpus.model_config({"cell": "gru", "hidden_size": 0, "dropout": None})
    assert (config.cell, config.layers, config.hidden_size, config.dropout) == ("gru", 2, 256, 0)
    assert config.tokenizer == corpus.tokenizer
    with pytest.raises(ConfigError, match="layers must be an integer"):
        corpus.model_config({"layers": 65})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 1.0}, "validation_share must be at least 0 and below 1, got 1.0"),
        ({"test_share": -0.1}, "test_share must be at least 0"),
        ({"validation_share": 0.5, "test_share": 0.5}, "at most 0.9 together"),
        ({"format": "csv"}, "a language model learns from text"),
        ({"format": "zip"}, "the format must be one of text, csv, parquet, jsonl, npz, got 'zip'"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, DataError)) as refused:
        prepare(text_file(tmp_path), LanguageModelTask(), tmp_path / "corpus", **options)
    assert message in str(refused.value)


def test_without_shares_everything_is_learned(tmp_path: Path) -> None:
    corpus = prepare(
        text_file(tmp_path),
        LanguageModelTask(),
        tmp_path / "corpus",
        validation_share=0,
        test_share=0,
    )
    assert corpus.segments["train"].tolist() == [[0, 0, 460]]
    assert len(corpus.segments["validation"]) == len(corpus.segments["test"]) == 0


def test_a_format_is_told_by_the_name() -> None:
    names = ["a.txt", "a.CSV", "b.parquet", "c.npz", "d.jsonl"]
    assert [guess_format(name) for name in names] == ["text", "csv", "parquet", "npz", "jsonl"]
    with pytest.raises(DataError, match=r"the format of 'a\.xls' cannot be told"):
        guess_format("a.xls")
    with pytest.raises(DataError, match="the format must be one of"):
        describe("a.xls", "xls")
