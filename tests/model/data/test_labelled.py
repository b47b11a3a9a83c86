"""Labelled sequences and steps, of tables and archives; bad ones are refused with their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.model.data.files import write_csv, write_parquet

from carousel.model import Characters, Classifier, ConfigError, Tokens, Words
from carousel.model.data import ClassifyTask, Corpus, DataError, TagTask, prepare
from carousel.model.data import archive as archive_module

CLASSIFY = ClassifyTask(label_column="kind", sequence_column="id", features=("x", "y"))
TAG = TagTask(label_column="kind", sequence_column="id", features=("x", "y"))


def sequences(count: int = 60) -> dict[str, list[Any]]:
    """`count` sequences of 3 to 7 rows, their label told by their number, rows in order."""
    random = np.random.default_rng(0)
    ids = [s for s in range(count) for _ in range(3 + s % 5)]
    return {
        "id": [f"s{s}" for s in ids],
        "t": list(range(len(ids))),
        "x": random.normal(size=len(ids)).round(3).tolist(),
        "y": random.normal(size=len(ids)).round(3).tolist(),
        "kind": [("cat", "dog", "emu")[s % 3] for s in ids],
    }


def splits_of(corpus: Corpus) -> dict[str, list[int]]:
    """The sequences of each split."""
    return {
        split: np.searchsorted(corpus.starts, segments[:, 0]).tolist()
        for split, segments in corpus.segments.items()
    }


def test_a_sequence_has_its_rows_and_its_label(tmp_path: Path) -> None:
    table = sequences()
    corpus = prepare(write_csv(tmp_path, table), CLASSIFY, tmp_path / "corpus")
    assert corpus.labels == ("cat", "dog", "emu")
    assert corpus.targets is not None
    assert corpus.targets.tolist() == [s % 3 for s in range(60)]
    assert np.diff(corpus.starts).tolist() == [3 + s % 5 for s in range(60)]
    assert np.array_equal(corpus.steps, np.array([table["x"], table["y"]], np.float32).T)
    assert corpus.model_config({}).head == Classifier(("cat", "dog", "emu"))


def test_every_split_has_its_share_of_every_label(tmp_path: Path) -> None:
    path = write_csv(tmp_path, sequences())
    corpus = prepare(path, CLASSIFY, tmp_path / "a", seed=1)
    splits = splits_of(corpus)
    assert sorted(s for rows in splits.values() for s in rows) == list(range(60))
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 48,
        "validation": 6,
        "test": 6,
    }
    for rows in splits.values():
        counts = np.bincount([s % 3 for s in rows], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert splits_of(prepare(path, CLASSIFY, tmp_path / "b", seed=1)) == splits
    assert splits_of(prepare(path, CLASSIFY, tmp_path / "c", seed=2)) != splits


def test_a_rare_label_is_learned_before_it_is_asked(tmp_path: Path) -> None:
    table = sequences()
    table["kind"] = [
        "yak" if i == "s5" else k for i, k in zip(table["id"], table["kind"], strict=True)
    ]
    path = write_csv(tmp_path, table)
    for seed in range(5):
        corpus = prepare(path, CLASSIFY, tmp_path / str(seed), seed=seed)
        assert 5 in splits_of(corpus)["train"]


def test_with_a_time_the_latest_sequences_are_held_out(tmp_path: Path) -> None:
    table = sequences()
    order = np.random.default_rng(2).permutation(len(table["id"]))
    mixed = {name: [values[i] for i in order] for name, values in table.items()}
    task = ClassifyTask(
        label_column="kind", sequence_column="id", features=("x", "y"), time_column="t"
    )
    corpus = prepare(write_csv(tmp_path, mixed), task, tmp_path / "corpus")
    values = np.array([table["x"], table["y"]], np.float32).T
    test = [corpus.steps[a:b].tolist() for a, _, b in corpus.segments["test"]]
    ids = np.array(table["id"])
    assert sorted(test) == sorted(values[ids == f"s{s}"].tolist() for s in range(54, 60))


def test_tags_are_a_label_for_every_step(tmp_path: Path) -> None:
    table = sequences()
    table["kind"] = [("up", "down")[x < 0] for x in table["x"]]
    corpus = prepare(write_csv(tmp_path, table), TAG, tmp_path / "corpus")
    assert corpus.labels == ("down", "up")
    assert corpus.targets is not None
    assert corpus.targets.tolist() == [int(x >= 0) for x in table["x"]]
    assert len(corpus.segments["train"]) == 48


def test_one_sequence_is_cut_by_position(tmp_path: Path) -> None:
    table = sequences()
    task = TagTask(label_column="kind", features=("x", "y"))
    corpus = prepare(write_csv(tmp_path, table), task, tmp_path / "corpus")
    count = len(table["x"])
    assert corpus.segments["validation"].tolist() == [[0, round(0.8 * count), round(0.9 * count)]]


def test_a_column_of_letters_is_read_as_tokens(tmp_path: Path) -> None:
    table = sequences()
    letters = [("b", "é", "a")[int(abs(x) * 10) % 3] for x in table["x"]]
    columns = {"id": table["id"], "letter": letters, "kind": table["kind"]}
    task = TagTask(label_column="kind", sequence_column="id")
    corpus = prepare(write_parquet(tmp_path, columns), task, tmp_path / "corpus")
    assert corpus.tokenizer is not None
    assert corpus.tokenizer == Characters("abé")
    assert corpus.tokenizer.decode(corpus.steps.tolist()) == "".join(letters)
    assert corpus.model_config({"embedding_size": 5}).input == Tokens(3, 5)


def test_a_column_of_words_is_read_as_tokens_and_rare_words_are_one(tmp_path: Path) -> None:
    table = sequences()
    words = [("north", "south")[i % 2] for i in range(300)]
    columns = {"id": table["id"], "word": words, "kind": table["kind"]}
    task = TagTask(label_column="kind", sequence_column="id", features=("word",))
    plain = prepare(write_csv(tmp_path, columns), task, tmp_path / "a")
    train, test = plain.segments["train"], plain.segments["test"]
    words[train[0, 0]] = "once"
    words[train[1, 0]] = words[train[2, 0]] = "twice"
    words[test[0, 0]] = words[test[0, 0] + 1] = "later"
    corpus = prepare(write_csv(tmp_path, columns), task, tmp_path / "b")
    assert corpus.tokenizer is not None
    assert corpus.tokenizer == Words(("north", "south", "twice"))
    assert corpus.vocabulary == 4
    assert corpus.steps.tolist() == [
        {"north": 1, "south": 2, "twice": 3}.get(word, 0) for word in words
    ]
    assert corpus.tokenizer.encode("south later  north") == [2, 0, 1]


def test_statistics_know_nothing_of_held_out_sequences(tmp_path: Path) -> None:
    table = sequences()
    corpus = prepare(write_csv(tmp_path, table), CLASSIFY, tmp_path / "a")
    begin = int(corpus.segments["test"][0, 0])
    table["x"][begin] = 1e6
    planted = prepare(write_csv(tmp_path, table), CLASSIFY, tmp_path / "b")
    assert planted.normalization == corpus.normalization
    train = np.concatenate([corpus.steps[a:b] for a, _, b in corpus.segments["train"]])
    assert corpus.normalization is not None
    assert corpus.normalization.std == pytest.approx(train.astype(float).std(axis=0), rel=1e-9)


def test_whole_numbers_are_labels_in_their_order(tmp_path: Path) -> None:
    table = sequences()
    table["kind"] = [{"cat": 10, "dog": 9, "emu": -1}[k] for k in table["kind"]]
    corpus = prepare(write_csv(tmp_path, table), CLASSIFY, tmp_path / "corpus")
    assert corpus.labels == ("-1", "9", "10")


def edited(name: str, row: int, value: object) -> dict[str, list[Any]]:
    table = sequences()
    table[name][row - 1] = value
    return table


WITH_TIME = ClassifyTask(
    label_column="kind", sequence_column="id", features=("x",), time_column="t"
)


@pytest.mark.parametrize(
    ("table", "task", "row", "column", "message"),
    [
        (edited("kind", 5, ""), CLASSIFY, 5, "kind", "a value is missing"),
        (
            edited("kind", 5, "cat"),
            CLASSIFY,
            5,
            "kind",
            "id 's1' has label 'cat' here and 'dog' in row 4",
        ),
        (edited("id", 5, ""), CLASSIFY, 5, "id", "a value is missing"),
        (edited("x", 5, "x5"), CLASSIFY, 5, "x", "'x5' is not a number"),
        (edited("t", 5, 3), WITH_TIME, 5, "t", "the time of row 4 again"),
        (
            {**sequences(), "kind": ["cat"] * 300},
            CLASSIFY,
            None,
            None,
            "2 to 8192 different labels, got 1: cat",
        ),
        (
            {n: v[:7] for n, v in sequences().items()},
            CLASSIFY,
            None,
            None,
            "2 sequences are too few: nothing is left for the",
        ),
        (
            {**sequences(), "kind": ["cat"] * 150 + ["dog"] * 140 + ["emu"] * 10},
            TagTask(label_column="kind", features=("x",)),
            291,
            "kind",
            "label 'emu' is in the test part, but never in the training part",
        ),
        (
            sequences(),
            ClassifyTask(label_column="kind", sequence_column="name"),
            None,
            "name",
            "there is no column 'name'",
        ),
        (
            edited("id", 9, "a b"),
            TagTask(label_column="kind", features=("id",)),
            None,
            "id",
            "a token must have no blanks in it, got 'a b'",
        ),
    ],
)
def test_bad_tables_are_refused_with_row_and_column(
    tmp_path: Path,
    table: dict[str, list[Any]],
    task: ClassifyTask | TagTask,
    row: int | None,
    column: str | None,
    message: str,
) -> None:
    table = {name: values[: len(table["x"])] for name, values in table.items()}
    with pytest.raises(DataError) as refused:
        prepare(write_csv(tmp_path, table), task, tmp_path / "corpus")
    assert message in str(refused.value)
    assert (refused.value.row, refused.value.column) == (row, column)


@pytest.mark.parametrize(
    "task", [ClassifyTask(), ClassifyTask(label_column="kind"), TagTask()], ids=str
)
def test_a_table_needs_names_of_its_columns(tmp_path: Path, task: ClassifyTask | TagTask) -> None:
    with pytest.raises(ConfigError, match="_column must be set"):
        prepare(write_csv(tmp_path, sequences()), task, tmp_path / "corpus")


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


X = np.random.default_rng(4).normal(size=(50, 6, 2))
Y = np.arange(50) % 4


@pytest.mark.parametrize("piece", [64, 1 << 22])
def test_an_archive_of_equal_sequences_is_the_same_as_with_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(archive_module, "PIECE", piece)
    cube = prepare(save(tmp_path, x=X, y=Y), ClassifyTask(), tmp_path / "a")
    starts = np.arange(0, 301, 6)
    flat = prepare(
        save(tmp_path, x=X.reshape(300, 2), y=Y, starts=starts), ClassifyTask(), tmp_path / "b"
    )
    assert cube.digest == flat.digest
    assert np.array_equal(cube.steps, X.reshape(300, 2).astype(np.float32))
    assert cube.targets is not None
    assert np.array_equal(cube.targets, Y)
    assert cube.labels == ("0", "1", "2", "3")


def test_whole_numbers_of_an_archive_are_tokens(tmp_path: Path) -> None:
    x = np.arange(300) % 11
    names = np.array(["no", "yes"])[(x > 4).astype(int)]
    corpus = prepare(save(tmp_path, x=x, y=names), TagTask(), tmp_path / "corpus")
    assert corpus.vocabulary == 11
    assert np.array_equal(corpus.steps, x)
    assert corpus.labels == ("no", "yes")
    assert corpus.normalization is None


def bad(place: tuple[int, ...], value: float) -> Any:
    x = X.copy()
    x[place] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "row", "column", "message"),
    [
        ({"y": Y}, None, None, "must have the array x, got y"),
        ({"x": X}, None, "y", "must have the array y"),
        ({"x": X, "y": Y[:-1]}, None, "y", "50 labels, one for each sequence, got 49"),
        ({"x": bad((7, 2, 1), np.inf), "y": Y}, 45, "x[1]", "must be finite"),
        ({"x": X[:, :, :0], "y": Y}, None, "x", "must not be empty"),
        ({"x": X, "y": Y / 2}, None, "y", "labels must be whole numbers or text"),
        ({"x": X, "y": np.array([None] * 50)}, None, "y", "must have numbers or text"),
        (
            {"x": X.reshape(300, 2), "y": Y, "starts": np.arange(0, 300, 6)},
            None,
            "starts",
            "from 0 to 300",
        ),
        (
            {"x": X.reshape(300, 2), "y": Y[:3], "starts": np.array([0, 9, 9, 300])},
            3,
            "starts",
            "every start must be above the one before it, got 9 after 9",
        ),
        ({"x": np.asfortranarray(X), "y": Y}, None, "x", "must be in C order"),
        (
            {"x": np.array([1, -2, 3]), "y": Y[:2], "starts": np.array([0, 1, 3])},
            2,
            "x",
            "tokens must be 0 to",
        ),
    ],
)
def test_bad_archives_are_refused(
    tmp_path: Path, arrays: dict[str, Any], row: int | None, column: str | None, message: str
) -> None:
    with pytest.raises(DataError) as refused:
        prepare(save(tmp_path, **arrays), ClassifyTask(), tmp_path / "corpus")
    assert message in str(refused.value)
    assert (refused.value.row, refused.value.column) == (row, column)


@pytest.mark.parametrize("damage", ["torn", "foreign", "flipped"])
def test_damaged_archives_are_refused(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    if damage == "torn":
        content = content[:1000]
    elif damage == "foreign":
        content = bytearray(b"x,y\n1,2\n")
    else:
        content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"the file is no NumPy archive"):
        prepare(path, ClassifyTask(), tmp_path / "corpus")
