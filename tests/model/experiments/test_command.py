"""The command writes records, tables and plots, and the loop learns."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from carousel.model.experiments import main, report
from carousel.model.experiments.catalogue import EXPERIMENTS, Experiment
from carousel.model.experiments.contestants import CELLS, LEARNERS, make
from carousel.model.experiments.learn import flow, learn
from carousel.model.experiments.run import run_task
from carousel.model.experiments.tasks import Adding


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PNG = b"\x89PNG\r\n"


def small(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shrunk = Experiment(lambda: Adding(6), 200, 1e-2, "nobody", hidden=4)
    monkeypatch.setitem(EXPERIMENTS, name, shrunk)


def test_quick_run_writes_records_tables_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, "adding-50")
    assert main(["adding-50", "gradients", "--quick", "--out", str(tmp_path)]) == 0
    pictures = ["adding-50.png", "adding-50-gradients.png", "gradients.png"]
    records = ["adding-50.json", "gradients.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*pictures, *records, "README.md"])
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in pictures)
    page = (tmp_path / "README.md").read_text()
    assert all(f"]({name})" in page for name in pictures)
    assert "python -m carousel.model.experiments adding-50" in page
    assert "Solved by none of them" in page  # after four updates
    runs = json.loads((tmp_path / "adding-50.json").read_text())["runs"]
    assert [run["network"] for run in runs] == list(LEARNERS)
    for run in runs:
        assert run["points"]["update"] == [0, 4]
        assert len(run["gradients"]["end"]["norms"]) == 6
        assert f"| {run['network']} |" in page
    windows = json.loads((tmp_path / "gradients.json").read_text())["runs"]
    assert {run["network"] for run in windows} == set(CELLS)


def test_same_seed_gives_the_same_record_and_report_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, "adding-50")
    assert main(["adding-50", "--quick", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "README.md").read_bytes()
    report(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == page

    kept = json.loads((tmp_path / "adding-50.json").read_text())
    *_, again = run_task(
        "adding-50", EXPERIMENTS["adding-50"], quick=True, seed=1, say=lambda line: None
    )
    for one, two in zip(kept["runs"], again["runs"], strict=True):
        assert (one["score"], one["gradients"]) == (two["score"], two["gradients"])


def test_unknown_experiment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["subtracting"])
    assert (
        "no experiment 'subtracting': allowed are gradients, adding-50" in capsys.readouterr().err
    )


def test_missing_data_are_told_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("carousel.model.experiments.tasks.digits.find_spec", lambda name: None)
    assert main(["digits", "--out", str(tmp_path)]) == 1
    assert "pip install --no-deps scikit-learn" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["LSTM, chrono", "GRU"])
def test_gated_networks_learn_a_short_task(name: str, one_thread: None) -> None:
    task = Adding(16)
    network = make(name, task, 24, 1)
    before = flow(network, task).layers[0].horizon
    points = list(learn(network, task, updates=800, rate=1e-2, seed=1))
    assert points[0].score > 0.1
    assert points[-1].score < task.solved
    assert points[-1].update < 800  # it stops when there is nothing more to see
    # What was learned needs the gradient of every step; chrono begins with it.
    assert before == (16 if name == "LSTM, chrono" else pytest.approx(9, abs=3))
    assert flow(network, task).layers[0].horizon == 16


def test_contestants_begin_as_they_are_named() -> None:
    biases = {}
    for name in CELLS:
        weights = make(name, Adding(50), 16, 1).weights(0)
        biases[name] = (weights.bias_ih + weights.bias_hh).detach()
    assert torch.equal(biases["LSTM, forget bias 0"][16:32], torch.zeros(16))
    assert torch.equal(biases["LSTM, forget bias 1"][16:32], torch.ones(16))
    assert torch.equal(biases["LSTM, chrono"][:16], -biases["LSTM, chrono"][16:32])
    assert biases["LSTM, chrono"][16:32].exp().max() > 20
