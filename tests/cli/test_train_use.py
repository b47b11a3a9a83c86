"""What `carousel train` prints at its end works as it is printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.test_job_views import JOB
from tests.conftest import RunningServer

from carousel.cli import connection, run, train_use
from carousel.client import (
    Client,
    Dataset,
    Forecast,
    Job,
    JobState,
    LanguageModel,
    Promotion,
    Recipe,
)
from carousel.model import Characters, Features, Linear, ModelConfig, Network, Softmax, Tokens, save

from .conftest import Command

ROWS = "hour,load\n" + "".join(f"{hour},{hour % 3}\n" for hour in range(9))


def forecaster(names: tuple[str, ...] = ("load",)) -> ModelConfig:
    return ModelConfig(
        cell="gru", layers=1, hidden_size=4, input=Features(1, names), head=Linear(1, targets=names)
    )


def writer(symbols: str) -> ModelConfig:
    size = len(symbols)
    return ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=4,
        input=Tokens(size, 4),
        head=Softmax(size),
        tokenizer=Characters(symbols),
    )


@pytest.fixture(scope="module")
def client(own_server: RunningServer) -> Iterator[Client]:
    with Client(own_server.target) as client:
        yield client


@pytest.fixture(scope="module")
def dataset(client: Client) -> Iterator[Dataset]:
    yield client.datasets.upload(ROWS.encode(), id="nine-hours", format="csv")
    client.datasets.delete("nine-hours")


def bring_in(client: Client, folder: Path, config: ModelConfig, model: str) -> str:
    torch.manual_seed(1)
    save(folder / "model", Network(config))
    return client.upload_model(folder / "model", model=model).name


def ended(version: str, task: Any) -> Job:
    """A job that made this version."""
    return replace(
        JOB,
        state=JobState.SUCCEEDED,
        recipe=Recipe(task=task),
        promotion=Promotion(model=version.split("/")[1]),
        version=version,
    )


def all_work(inside: Command, typed: list[str]) -> None:
    for one in typed:
        carousel, *words = shlex.split(one)
        assert carousel == "carousel"
        done = inside(*words)
        assert (done.code, done.err) == (0, ""), one


def test_a_forecast_is_asked_for_in_the_order_of_its_times(
    inside: Command, client: Client, dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "nine hours.csv"
    file.write_text(ROWS)
    version = bring_in(client, tmp_path, forecaster(), "nine")
    client.load_model(version)
    job = ended(version, Forecast("load", time_column="hour"))
    typed = train_use.commands(client, job, dataset, file)
    assert typed == [f"carousel predict nine '{file}' --time hour --last"]
    all_work(inside, typed)


def test_a_version_beside_the_one_in_service_is_loaded_first(
    inside: Command, client: Client, dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "data.csv"
    file.write_text(ROWS)
    first = bring_in(client, tmp_path, forecaster(), "two")
    client.load_model(first)
    client.set_alias("two", alias="stable", version=1)
    second = bring_in(client, tmp_path, forecaster(), "two")
    job = ended(second, Forecast("load"))
    typed = train_use.commands(client, job, dataset, file)
    assert typed == ["carousel models load two/2", f"carousel predict two/2 {file} --last"]
    all_work(inside, typed)


def test_a_dataset_whose_file_is_not_here_is_not_asked_for(
    inside: Command, client: Client, dataset: Dataset, tmp_path: Path
) -> None:
    version = bring_in(client, tmp_path, forecaster(), "far")
    client.load_model(version)
    job = ended(version, Forecast("load"))
    typed = train_use.commands(client, job, dataset, Path(dataset.name))
    assert typed == ["carousel models show far"]
    all_work(inside, typed)


@pytest.mark.parametrize(
    ("symbols", "prompt"), [("Teh x", "'The '"), ("\nacgt", "a"), ("\n ", "' '")]
)
def test_a_prompt_has_only_what_the_model_knows(
    inside: Command, client: Client, dataset: Dataset, tmp_path: Path, symbols: str, prompt: str
) -> None:
    version = bring_in(client, tmp_path, writer(symbols), f"writes-{len(symbols)}")
    client.load_model(version)
    typed = train_use.commands(client, ended(version, LanguageModel()), dataset, tmp_path)
    assert typed == [f"carousel generate writes-{len(symbols)} {prompt}"]
    all_work(inside, typed)


def test_a_server_that_was_named_is_named_again(
    client: Client, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(JOB, state=JobState.FAILED, checkpoint_step=20)
    with connection.connect(target=client.target):
        assert run.outcome(job).endswith(f"resume abc --server {client.target} lets it go on")
        assert f"jobs cancel abc --server {client.target} stops it" in run.detached(job)
    monkeypatch.setenv("CAROUSEL_TARGET", client.target)
    with connection.connect(target=client.target):
        assert run.outcome(job).endswith("carousel jobs resume abc lets it go on")
    assert connection.command("jobs", "list") == "carousel jobs list"


def test_the_command_is_named_as_it_was_called_where_it_is_not_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", [".venv/bin/carousel", "train", "x.csv"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert connection.command("jobs", "list") == ".venv/bin/carousel jobs list"
    (tmp_path / "carousel").touch(mode=0o755)
    assert connection.command("jobs", "list") == "carousel jobs list"


def test_a_job_that_did_not_pass_its_gate_can_be_promoted_as_printed() -> None:
    job = replace(JOB, state=JobState.SUCCEEDED, state_message="not promoted: ...")
    assert "carousel jobs promote abc makes one all the same" in run.outcome(job)
