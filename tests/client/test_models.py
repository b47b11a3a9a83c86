"""Models: listed, moved, served and renamed; the same with both clients."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from carousel.client import AsyncClient, Client, VersionState
from carousel.errors import (
    InvalidField,
    ModelInUse,
    ModelNotFound,
    ModelNotLoaded,
    UploadDamaged,
    VersionExists,
    VersionNotFound,
    WeightsInvalid,
)
from tests.client.conftest import Floats, assert_close
from tests.conftest import RunningServer


@pytest.fixture
def folder(client: Client, tmp_path: Path) -> Path:
    return client.export_model("tiny/1", tmp_path / "tiny")


def test_models_are_described(client: Client) -> None:
    models = {model.id: model for model in client.list_models()}
    assert models["tiny"].versions == (1,)
    assert client.get_model("tiny") == models["tiny"]
    version = client.get_version("tiny")
    assert version.name == "models/tiny/versions/1"
    assert (version.model, version.number) == ("tiny", 1)
    assert version.state is VersionState.READY
    assert version.config.input_type == "features"
    assert (version.config.input_size, version.config.output_size) == (3, 2)
    assert version.state_schema == {"h": (2, 8), "c": (2, 8)}
    assert client.get_version("letters").config.input_type == "tokens"
    assert [one.number for one in client.list_versions("tiny")] == [1]
    with pytest.raises(ModelNotFound):
        client.get_model("nowhere")
    with pytest.raises(VersionNotFound):
        client.get_version("tiny/7")
    with pytest.raises(InvalidField):
        client.get_model("tiny/1")


def test_a_model_survives_the_round_trip(
    client: Client, folder: Path, inputs: Floats, truth: Floats
) -> None:
    told: list[tuple[int, int]] = []
    version = client.upload_model(
        folder, model="copied", progress=lambda done, total: told.append((done, total))
    )
    size = (folder / "weights.safetensors").stat().st_size
    assert told[-1] == (size, size)
    assert version.digest == client.get_version("tiny/1").digest
    client.load_model("copied/1")
    client.set_alias("copied", alias="stable", version=1)
    assert_close(client.predict("copied@stable", [inputs])[0], truth)
    with client.session("copied"), pytest.raises(ModelInUse):
        client.unload_model("copied/1")
    with pytest.raises(VersionExists):
        client.upload_model(folder, model="copied", version=1)
    assert client.upload_model(folder, model="copied", request_id="once").number == 2
    assert client.upload_model(folder, model="copied", request_id="once").number == 2
    assert client.delete_alias("copied", alias="stable").aliases == {}
    client.unload_model("copied/1", force=True)
    with pytest.raises(ModelNotLoaded):
        client.session("copied/1")
    for number in (1, 2):
        client.delete_version(f"copied/{number}")


def test_a_bad_upload_leaves_nothing(client: Client, folder: Path) -> None:
    assert client.upload_model(folder, model="unwanted", validate_only=True).model == "unwanted"
    (folder / "weights.safetensors").write_bytes(b"no weights at all")
    with pytest.raises((WeightsInvalid, UploadDamaged)):
        client.upload_model(folder, model="unwanted")
    with pytest.raises(ModelNotFound):
        client.get_model("unwanted")


def test_a_failed_export_leaves_nothing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        client.export_model("nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError):
        client.export_model("tiny", tmp_path / "full")


def test_the_asynchronous_client_moves_models_too(server: RunningServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            assert "tiny" in [model.id async for model in client.list_models()]
            out = await client.export_model("tiny/1", tmp_path / "tiny")
            version = await client.upload_model(out, model="copied-again")
            assert [one.number async for one in client.list_versions("copied-again")] == [1]
            assert version.digest == (await client.get_version("tiny/1")).digest
            await client.load_model(version.name)
            await client.unload_model(version.name)
            await client.delete_version(version.name)

    asyncio.run(main())


def test_traces_look_into_the_gates(client: Client, inputs: Floats, truth: Floats) -> None:
    trace = client.trace("tiny", inputs)
    assert len(trace.layers) == 2
    assert {"input", "forget", "candidate", "output", "cell", "hidden"} == set(trace.layers[0])
    assert trace.layers[0]["forget"].shape == (40, 8)
    assert_close(trace.outputs, truth)
    with client.session("tiny") as session:
        session.chunk(inputs[:30])
        assert_close(client.trace(session, inputs[30:]).outputs, truth[30:])
        assert_close(client.trace(session.name, inputs[30:]).outputs, truth[30:])
        assert session.refresh().step_index == 30


def test_sequences_of_any_lengths_are_predicted(client: Client, inputs: Floats) -> None:
    lengths = [1, 40, 7]
    outputs = client.predict("tiny", [inputs[:length] for length in lengths])
    last = client.predict("tiny", [inputs[:length] for length in lengths], outputs="last")
    assert [len(one) for one in outputs] == lengths
    assert_close(np.stack([one[-1] for one in outputs]), last)
    assert_close(
        client.predict("both-ways", inputs[np.newaxis])[0][-1],
        client.predict("both-ways", [inputs], outputs="last")[0],
    )


def test_texts_become_tokens_with_both_clients(client: Client, server: RunningServer) -> None:
    texts = ["In the beginning", "", "God"]
    tokens = client.tokenize("king-james", texts)
    assert [one.dtype for one in tokens] == [np.int64] * 3
    assert [len(one) for one in tokens] == [16, 0, 3]
    symbols = json.loads(client.get_version("king-james").config.json)["tokenizer"]["symbols"]
    assert ["".join(symbols[token] for token in one) for one in tokens] == texts

    async def ask() -> list[npt.NDArray[np.int64]]:
        async with AsyncClient(server.target) as other:
            return await other.tokenize("king-james", texts)

    for mine, its in zip(tokens, asyncio.run(ask()), strict=True):
        assert np.array_equal(mine, its)
    with pytest.raises(InvalidField, match="a list of texts, got one text"):
        client.tokenize("king-james", "God")
