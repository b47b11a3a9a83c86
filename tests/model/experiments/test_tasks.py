"""The tasks are those of the literature, and what needs no memory scores what the baseline says."""

import gzip
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from carousel.model.experiments.tasks import Adding, Copying, Digits, DigitsError, Order, Task

MANY = 20_000


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(steps=st.integers(2, 60), seed=st.integers(0, 99))
def test_adding_marks_one_number_in_each_half_and_asks_for_their_sum(steps: int, seed: int) -> None:
    x, target = Adding(steps).batch(40, generator(seed))
    assert x.shape == (40, steps, 2)
    values, marks = x.unbind(2)
    assert ((marks == 0) | (marks == 1)).all()
    assert torch.equal(marks[:, : steps // 2].sum(1), torch.ones(40))
    assert torch.equal(marks[:, steps // 2 :].sum(1), torch.ones(40))
    assert ((values >= 0) & (values < 1)).all()
    by_hand = torch.stack([row[mark == 1].sum() for row, mark in zip(values, marks, strict=True)])
    torch.testing.assert_close(target, by_hand)


def test_adding_marks_every_place() -> None:
    x, _ = Adding(6).batch(2000, generator())
    assert (x[:, :, 1].sum(0) > 500).all()  # 2000 / 3 each


def test_adding_without_memory_scores_a_sixth() -> None:
    task = Adding(20)
    _, target = task.batch(MANY, generator())
    answer = torch.zeros(MANY, 20, 1)
    answer[:, -1] = 1.0
    assert task.score(answer, target) == pytest.approx(task.baseline, rel=0.03)
    assert task.baseline == pytest.approx(0.16667, abs=1e-5)


def test_only_the_last_answer_counts_in_adding() -> None:
    task = Adding(5)
    _, target = task.batch(4, generator())
    answer = torch.randn(4, 5, 1)
    answer[:, -1, 0] = target
    assert task.score(answer, target) == 0


@given(blanks=st.integers(1, 40), seed=st.integers(0, 99))
def test_copying_asks_for_ten_symbols_after_a_delimiter(blanks: int, seed: int) -> None:
    task = Copying(blanks)
    x, target = task.batch(5, generator(seed))
    assert x.shape == target.shape == (5, blanks + 20)
    assert ((x[:, :10] >= 1) & (x[:, :10] <= 8)).all()
    assert (x[:, 10 : 10 + blanks - 1] == 0).all()
    assert (x[:, 10 + blanks - 1] == 9).all()
    assert (x[:, -10:] == 0).all()
    assert (target[:, :-10] == 0).all()
    assert torch.equal(target[:, -10:], x[:, :10])


def test_copying_without_memory_scores_the_baseline() -> None:
    task = Copying(30)
    _, target = task.batch(2000, generator())
    answer = torch.full((2000, 50, 10), -1e9)
    answer[:, :40, 0] = 0.0  # a blank, surely
    answer[:, 40:, 1:9] = 0.0  # each of the eight symbols alike
    assert float(task.loss(answer, target)) == pytest.approx(10 * math.log(8) / 50, rel=1e-5)
    assert task.baseline_loss == pytest.approx(10 * math.log(8) / 50)
    assert task.score(answer, target) == pytest.approx(task.baseline, abs=0.01)


@pytest.mark.parametrize(
    ("task", "lengths", "first", "second"),
    [(Order(), (100, 110), (10, 20), (50, 60)), (Order.short(), (30, 33), (3, 6), (15, 18))],
)
def test_order_has_two_marks_and_their_class(
    task: Order, lengths: tuple[int, int], first: tuple[int, int], second: tuple[int, int]
) -> None:
    seen_lengths, seen_classes = set(), set()
    for seed in range(60):
        x, target = task.batch(30, generator(seed))
        seen_lengths.add(x.shape[1])
        for row, label in zip(x.tolist(), target.tolist(), strict=True):
            assert (row[0], row[-1]) == (6, 7)
            places = [t for t, symbol in enumerate(row) if symbol in (4, 5)]
            assert len(places) == 2
            assert first[0] <= places[0] <= first[1]
            assert second[0] <= places[1] <= second[1]
            names = "".join("XY"[row[t] - 4] for t in places)
            assert task.head.labels[label] == names
            seen_classes.add(names)
            others = [s for t, s in enumerate(row) if t not in (0, len(row) - 1, *places)]
            assert set(others) <= {0, 1, 2, 3}
    assert seen_lengths == set(range(lengths[0], lengths[1] + 1))
    assert seen_classes == {"XX", "XY", "YX", "YY"}


def test_order_without_memory_scores_a_quarter() -> None:
    task = Order.short()
    x, target = task.batch(MANY, generator())
    answer = torch.zeros(MANY, x.shape[1], 4)
    assert float(task.loss(answer, target)) == pytest.approx(math.log(4))
    assert task.score(answer, target) == pytest.approx(task.baseline, abs=0.01)


@pytest.mark.parametrize("task", [Adding(9), Copying(3), Order.short()], ids=lambda t: t.title)
def test_the_exam_is_always_the_same_and_never_a_batch(task: Task) -> None:
    x, target = task.exam()
    again, _ = task.exam()
    assert torch.equal(x, again)
    learned, _ = task.batch(len(target), generator(1))
    assert learned.shape != x.shape or not torch.equal(learned, x)


def digits_file(folder: Path, images: Tensor, labels: Tensor) -> Path:
    path = folder / "digits.csv.gz"
    with gzip.open(path, "wt") as file:
        for image, label in zip(images.flatten(1).tolist(), labels.tolist(), strict=True):
            file.write(",".join(str(v) for v in [*image, label]) + "\n")
    return path


def test_digits_are_read_row_by_row_and_the_last_are_held_out(tmp_path: Path) -> None:
    images = torch.randint(17, (400, 8, 8), generator=generator())
    labels = torch.randint(10, (400,), generator=generator())
    task = Digits.read(digits_file(tmp_path, images, labels))
    x, target = task.exam()
    torch.testing.assert_close(x, images[40:] / 16)
    assert torch.equal(target, labels[40:])
    held_out = {tuple(image.flatten().tolist()) for image in x}
    learned, _ = task.batch(500, generator())
    assert not held_out & {tuple(image.flatten().tolist()) for image in learned}


def test_digits_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carousel.model.experiments.tasks.digits.find_spec", lambda name: None)
    with pytest.raises(DigitsError, match="pip install --no-deps scikit-learn"):
        Digits.read()
    wrong = tmp_path / "digits.csv.gz"
    wrong.write_bytes(gzip.compress(b"1,2,3\n"))
    with pytest.raises(DigitsError, match="must have 65 numbers, got 3"):
        Digits.read(wrong)
