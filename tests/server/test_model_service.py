"""ModelService over the wire: what goes in comes out bit for bit, and nothing else goes in."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from carousel import errors
from carousel.model import Classifier, Features, ModelConfig, Network, digest, save
from carousel.model.baseline import measure
from carousel.server.request_ids import RequestIds
from carousel.v1 import model_pb2, session_pb2, session_service_pb2, session_service_pb2_grpc
from carousel.v1 import model_service_pb2 as pb
from carousel.v1 import model_service_pb2_grpc as rpc
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE
from tests.server.contract import error_of

CONFIG = ModelConfig(
    cell="lstm", layers=2, hidden_size=6, input=Features(3), head=Classifier(("no", "yes"))
)

Upload = Iterator[pb.UploadModelVersionRequest]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `store` and `imports`."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def mine(home: Path) -> Iterator[RunningServer]:
    """A server with a store of its own."""
    with running(store=home / "store", import_root=home / "imports", shipped=False) as server:
        yield server


@pytest.fixture
def folder(home: Path) -> Path:
    """A model's folder below `imports`."""
    torch.manual_seed(1)
    folder = home / "imports" / "good"
    network = Network(CONFIG)
    save(folder, network, card="# Grüße\n")
    (folder / "baseline.json").write_text(measure(network, torch.randn(9, 3)).to_json())
    return folder


@pytest.fixture
def models(mine: RunningServer, home: Path) -> Iterator[rpc.ModelServiceStub]:
    """The service, with an empty store."""
    with grpc.insecure_channel(mine.target) as channel:
        models = rpc.ModelServiceStub(channel)
        yield models
        for model in models.ListModels(pb.ListModelsRequest()).models:
            for number in model.versions:
                name = f"{model.name}/versions/{number}"
                models.UnloadModelVersion(pb.UnloadModelVersionRequest(name=name, force=True))
    shutil.rmtree(home / "store", ignore_errors=True)


def header(folder: Path, model: str = "x", **changes: Any) -> pb.UploadHeader:
    weights = (folder / "weights.safetensors").read_bytes()
    fields = {
        "parent": f"models/{model}",
        "config_json": (folder / "config.json").read_text(),
        "card": (folder / "README.md").read_text(encoding="utf-8"),
        "baseline_json": (folder / "baseline.json").read_text(),
        "weights_bytes": len(weights),
        "weights_sha256": hashlib.sha256(weights).digest(),
    }
    return pb.UploadHeader(**{**fields, **changes})


def upload(folder: Path, model: str = "x", **changes: Any) -> Upload:
    """The messages that upload a folder, in pieces of 1,000 bytes."""
    yield pb.UploadModelVersionRequest(header=header(folder, model, **changes))
    weights = (folder / "weights.safetensors").read_bytes()
    for begin in range(0, len(weights), 1000):
        yield pb.UploadModelVersionRequest(data=weights[begin : begin + 1000])


def refused(call: Callable[[], object]) -> errors.CarouselError:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return error_of(failure.value)


def leftovers(home: Path) -> list[str]:
    # os.walk, since a folder may go while it is being looked at.
    return [name for _, folders, files in os.walk(home / "store") for name in folders + files]


def soon(condition: Callable[[], bool]) -> None:
    """Wait for what the server does after it has answered."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_upload_comes_out_bit_for_bit(models: rpc.ModelServiceStub, folder: Path) -> None:
    made = models.UploadModelVersion(upload(folder))
    first, *pieces = models.ExportModelVersion(pb.ExportModelVersionRequest(name=made.name))
    assert first.header == header(folder, version=1)
    assert b"".join(p.data for p in pieces) == (folder / "weights.safetensors").read_bytes()


def test_an_export_goes_on_while_its_version_is_deleted(
    models: rpc.ModelServiceStub, folder: Path
) -> None:
    name = models.UploadModelVersion(upload(folder)).name
    export = models.ExportModelVersion(pb.ExportModelVersionRequest(name=name))
    first = next(export)
    models.DeleteModelVersion(pb.DeleteModelVersionRequest(name=name))
    data = b"".join(part.data for part in export)
    assert hashlib.sha256(data).digest() == first.header.weights_sha256


def test_an_export_can_be_uploaded_as_it_is(models: rpc.ModelServiceStub, folder: Path) -> None:
    made = models.UploadModelVersion(upload(folder))
    exported = list(models.ExportModelVersion(pb.ExportModelVersionRequest(name="models/x")))
    exported[0].header.parent = "models/y"
    again = models.UploadModelVersion(
        pb.UploadModelVersionRequest.FromString(part.SerializeToString()) for part in exported
    )
    assert again.name == "models/y/versions/1"
    assert again.digest == made.digest


def test_a_version_is_described(models: rpc.ModelServiceStub, folder: Path) -> None:
    models.UploadModelVersion(upload(folder))
    version = models.GetModelVersion(pb.GetModelVersionRequest(name="models/x/versions/1"))
    assert version.name == "models/x/versions/1"
    assert version.state == model_pb2.VERSION_STATE_UNLOADED
    assert version.digest.hex() == digest(folder)
    assert version.parameters == sum(p.numel() for p in Network(CONFIG).parameters())
    assert version.weights_bytes == (folder / "weights.safetensors").stat().st_size
    assert [(t.name, list(t.shape)) for t in version.state_schema] == [("h", [2, 6]), ("c", [2, 6])]
    assert version.card == "# Grüße\n"
    assert version.baseline_json == (folder / "baseline.json").read_text()
    [listed] = models.ListModelVersions(pb.ListModelVersionsRequest(parent="models/x")).versions
    assert (listed.card, listed.baseline_json) == ("", "")
    assert abs(version.create_time.ToSeconds() - time.time()) < 60
    assert json.loads(version.config.json) == CONFIG.to_dict()
    config = version.config
    assert (config.cell, config.layers, config.hidden_size) == ("lstm", 2, 6)
    assert (config.input_size, config.output_size, config.head) == (3, 2, "classifier")
    assert list(config.labels) == ["no", "yes"]


def test_token_and_two_way_models_are_described_as_what_they_are(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        models = rpc.ModelServiceStub(channel)
        letters = models.GetModelVersion(pb.GetModelVersionRequest(name="models/letters"))
        assert letters.config.input_size == 11  # the vocabulary, not the embedding
        assert letters.state == model_pb2.VERSION_STATE_READY
        both = models.GetModelVersion(pb.GetModelVersionRequest(name="models/both-ways"))
        assert both.config.bidirectional
        assert not both.state_schema


def test_validation_checks_everything_and_keeps_nothing(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    good = models.UploadModelVersion(upload(folder, validate_only=True, request_id="v"))
    assert good.name == "models/x/versions/1"
    assert good.digest.hex() == digest(folder)
    bad = upload(folder, validate_only=True, weights_sha256=b"\0" * 32)
    assert isinstance(refused(lambda: models.UploadModelVersion(bad)), errors.UploadDamaged)
    assert leftovers(home) == []
    assert models.UploadModelVersion(upload(folder, request_id="v")).name == good.name


def pieces_of(folder: Path, *, drop: int = 0, add: bytes = b"", **changes: Any) -> Upload:
    data = (folder / "weights.safetensors").read_bytes()
    yield pb.UploadModelVersionRequest(header=header(folder, **changes))
    yield pb.UploadModelVersionRequest(data=data[: len(data) - drop] + add)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"drop": 1}, errors.UploadDamaged),
        ({"add": b"!"}, errors.UploadDamaged),
        ({"weights_sha256": b"\1" * 32}, errors.UploadDamaged),
        ({"weights_sha256": b"\1" * 31}, errors.InvalidField),
        ({"weights_bytes": 0}, errors.InvalidField),
        ({"weights_bytes": 2**63}, errors.InvalidField),
        ({"parent": "models/../../etc"}, errors.InvalidField),
        ({"parent": "x"}, errors.InvalidField),
        ({"config_json": ""}, errors.InvalidField),
        ({"config_json": "no json"}, errors.WeightsInvalid),
        ({"config_json": '{"cell": "lstm"}'}, errors.WeightsInvalid),
        ({"config_json": "[" * 100_000}, errors.WeightsInvalid),
        ({"card": "x" * 1024**2 + "x"}, errors.InvalidField),
        ({"baseline_json": "x" * 512 * 1024 + "x"}, errors.InvalidField),
        ({"baseline_json": "{}"}, errors.WeightsInvalid),
    ],
)
def test_an_upload_that_is_not_what_was_announced_leaves_nothing(
    models: rpc.ModelServiceStub,
    folder: Path,
    home: Path,
    changes: dict[str, Any],
    kind: type[errors.CarouselError],
) -> None:
    upload = pieces_of(folder, **changes)
    error = refused(lambda: models.UploadModelVersion(upload))
    assert isinstance(error, kind)
    assert ("bytes were announced" in error.message) == bool({"drop", "add"} & set(changes))
    assert leftovers(home) == []


def test_what_comes_beyond_the_announced_bytes_is_not_waited_for(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    def endless() -> Upload:
        yield from upload(folder)
        while True:
            yield pb.UploadModelVersionRequest(data=b"x" * 1000)

    error = refused(lambda: models.UploadModelVersion(endless()))
    assert isinstance(error, errors.UploadDamaged)
    assert "more arrived" in error.message
    assert leftovers(home) == []


def test_an_early_answer_reaches_a_client_that_is_still_sending(
    models: rpc.ModelServiceStub, mine: RunningServer, folder: Path
) -> None:
    async def many(**changes: Any) -> AsyncIterator[pb.UploadModelVersionRequest]:
        yield pb.UploadModelVersionRequest(header=header(folder, **changes))
        for _ in range(12):
            yield pb.UploadModelVersionRequest(data=b"x" * 1024**2)

    async def ask() -> None:
        async with grpc.aio.insecure_channel(mine.target) as channel:
            stub = rpc.ModelServiceStub(channel)
            for _ in range(10):
                with pytest.raises(grpc.RpcError) as failure:
                    await stub.UploadModelVersion(many())
                assert failure.value.code() == grpc.StatusCode.DATA_LOSS
                assert await stub.UploadModelVersion(many(request_id="e")) == made

    made = models.UploadModelVersion(upload(folder, request_id="e"))
    asyncio.run(ask())


@pytest.mark.parametrize(
    "config", [{**CONFIG.to_dict(), "hidden_size": 7}, {**CONFIG.to_dict(), "cell": "gru"}]
)
def test_weights_of_another_config_are_refused(
    models: rpc.ModelServiceStub, folder: Path, home: Path, config: dict[str, object]
) -> None:
    text = json.dumps(config)
    error = refused(lambda: models.UploadModelVersion(upload(folder, config_json=text)))
    assert isinstance(error, errors.WeightsInvalid)
    assert str(home) not in error.message
    assert leftovers(home) == []


def test_corrupt_weights_with_a_right_checksum_are_refused(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    weights = folder / "weights.safetensors"
    good = weights.read_bytes()
    for bad in (good[:-1], b"\xff" * 8 + good[8:], good[:20], b"PK\3\4 is a pickle", good + b"!"):
        weights.write_bytes(bad)
        error = refused(lambda: models.UploadModelVersion(upload(folder)))
        assert isinstance(error, errors.WeightsInvalid), bad[:20]
    assert leftovers(home) == []


def test_the_header_comes_first_and_once(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    first, *rest = upload(folder)
    empty = pb.UploadModelVersionRequest()
    for messages in ([], [empty], rest, [rest[0], first], [first, first], [first, empty]):
        error = refused(partial(models.UploadModelVersion, iter(messages)))
        assert isinstance(error, errors.InvalidField)
    assert leftovers(home) == []


def test_a_cancelled_upload_leaves_nothing(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    def endless() -> Upload:
        messages = upload(folder)
        yield next(messages)
        yield next(messages)
        soon(lambda: "weights.safetensors" in leftovers(home))
        call.cancel()

    call = models.UploadModelVersion.future(endless())
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    soon(lambda: leftovers(home) == [])


def test_a_client_that_stops_sending_ends_with_its_deadline(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    def stalled() -> Upload:
        messages = upload(folder)
        yield next(messages)
        soon(lambda: call.done())

    call = models.UploadModelVersion.future(stalled(), timeout=0.3)
    assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    soon(lambda: leftovers(home) == [])


def test_the_same_request_id_gives_the_first_result(
    models: rpc.ModelServiceStub, folder: Path
) -> None:
    first = models.UploadModelVersion(upload(folder, request_id="a"))
    assert models.UploadModelVersion(upload(folder, request_id="a")) == first
    only_header = iter([pb.UploadModelVersionRequest(header=header(folder, request_id="a"))])
    assert models.UploadModelVersion(only_header) == first
    assert models.UploadModelVersion(upload(folder, request_id="b")).name == "models/x/versions/2"
    error = refused(lambda: models.UploadModelVersion(upload(folder, "y", request_id="a")))
    assert error.field == "header.request_id"


def test_two_calls_at_once_with_one_request_id_do_one_thing(
    models: rpc.ModelServiceStub, folder: Path
) -> None:
    calls = [models.UploadModelVersion.future(upload(folder, request_id="c")) for _ in range(8)]
    assert {call.result().name for call in calls} == {"models/x/versions/1"}


def test_a_failure_is_not_remembered(models: rpc.ModelServiceStub, folder: Path) -> None:
    torn = pieces_of(folder, drop=1, request_id="d")
    assert isinstance(refused(lambda: models.UploadModelVersion(torn)), errors.UploadDamaged)
    assert models.UploadModelVersion(upload(folder, request_id="d")).name == "models/x/versions/1"


def test_request_ids_are_remembered_for_so_many_requests_only() -> None:
    async def fail() -> str:
        raise errors.UploadDamaged("torn")

    async def succeed() -> str:
        return "made"

    async def ask() -> int:
        ids: RequestIds[str] = RequestIds(limit=3)
        request = pb.UploadHeader()
        for n in range(50):
            with pytest.raises(errors.UploadDamaged):
                await ids.once(f"bad-{n}", request, fail, field="request_id")
        assert len(ids) == 0
        for n in range(50):
            await ids.once(f"good-{n}", request, succeed, field="request_id")
        assert await ids.once("good-49", request, fail, field="request_id") == "made"
        with pytest.raises(errors.InvalidField, match="at most 128 characters"):
            await ids.once("x" * 129, request, succeed, field="request_id")
        return len(ids)

    assert asyncio.run(ask()) == 3


def test_versions_that_come_at_once_get_different_numbers(
    models: rpc.ModelServiceStub, folder: Path
) -> None:
    calls = [models.UploadModelVersion.future(upload(folder)) for _ in range(8)]
    names = {call.result().name for call in calls}
    assert names == {f"models/x/versions/{n}" for n in range(1, 9)}


def test_a_version_is_never_replaced(models: rpc.ModelServiceStub, folder: Path) -> None:
    models.UploadModelVersion(upload(folder, version=3))
    error = refused(lambda: models.UploadModelVersion(upload(folder, version=3)))
    assert isinstance(error, errors.VersionExists)
    assert models.UploadModelVersion(upload(folder)).name == "models/x/versions/4"


def test_a_folder_below_the_import_root_can_be_imported(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    request = pb.ImportModelVersionRequest(parent="models/x", path="good", validate_only=True)
    assert models.ImportModelVersion(request).digest.hex() == digest(folder)
    assert leftovers(home) == []
    request.validate_only = False
    request.request_id = "once"
    made = models.ImportModelVersion(request)
    assert models.ImportModelVersion(request) == made
    copy = home / "store" / "x" / "1"
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    for path in ("..", "/etc", "../imports/good", "none", ""):
        request = pb.ImportModelVersionRequest(parent="models/x", path=path)
        error = refused(partial(models.ImportModelVersion, request))
        assert isinstance(error, errors.ImportRefused)


def test_an_import_of_more_than_its_config_can_need_is_refused_and_leaves_nothing(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    large = home / "imports" / "large"
    for name, more in (("weights.safetensors", 2**40), ("config.json", 2**30)):
        shutil.rmtree(large, ignore_errors=True)
        shutil.copytree(folder, large)
        os.truncate(large / name, more)  # a hole: it takes no room
        error = refused(
            lambda: models.ImportModelVersion(
                pb.ImportModelVersionRequest(parent="models/x", path="large")
            )
        )
        assert isinstance(error, errors.WeightsInvalid)
        assert error.message.startswith(f"{name} must have at most ")
        assert f"got {more:,}" in error.message
        assert leftovers(home) == []


def test_models_are_paged_in_order(models: rpc.ModelServiceStub, folder: Path) -> None:
    for model in ("c", "a", "b", "a-1", "10"):
        models.UploadModelVersion(upload(folder, model))
    pages, token = [], ""
    while True:
        page = models.ListModels(pb.ListModelsRequest(page_size=2, page_token=token))
        pages.append([model.name.removeprefix("models/") for model in page.models])
        token = page.next_page_token
        if not token:
            break
    assert pages == [["10", "a"], ["a-1", "b"], ["c"]]
    for bad in ("%%%", "Li4vLi4v"):
        request = pb.ListModelsRequest(page_token=bad)
        error = refused(partial(models.ListModels, request))
        assert (type(error), error.field) == (errors.InvalidField, "page_token")


def test_versions_are_paged_by_number(models: rpc.ModelServiceStub, folder: Path) -> None:
    for number in (2, 10, 1):
        models.UploadModelVersion(upload(folder, version=number))
    request = pb.ListModelVersionsRequest(parent="models/x", page_size=2)
    first = models.ListModelVersions(request)
    assert [v.name[-2:] for v in first.versions] == ["/1", "/2"]
    assert [v.card for v in first.versions] == ["", ""]
    request.page_token = first.next_page_token
    second = models.ListModelVersions(request)
    assert [v.name[-2:] for v in second.versions] == ["10"]
    assert not second.next_page_token
    assert list(models.GetModel(pb.GetModelRequest(name="models/x")).versions) == [1, 2, 10]


def test_a_page_of_large_configs_ends_early_and_none_is_lost(
    models: rpc.ModelServiceStub, folder: Path
) -> None:
    large = (folder / "config.json").read_text() + " " * 600_000
    for _ in range(5):
        models.UploadModelVersion(upload(folder, config_json=large))
    seen, request = [], pb.ListModelVersionsRequest(parent="models/x")
    while True:
        page = models.ListModelVersions(request)
        assert len(page.versions) <= 2
        seen += [v.name[-1] for v in page.versions]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert seen == ["1", "2", "3", "4", "5"]


def test_aliases_come_and_go(models: rpc.ModelServiceStub, folder: Path) -> None:
    for _ in range(2):
        models.UploadModelVersion(upload(folder))
    alias = pb.SetModelAliasRequest(name="models/x", alias="stable", version=1)
    assert dict(models.SetModelAlias(alias).aliases) == {"stable": 1}
    get = pb.GetModelVersionRequest(name="models/x")
    assert models.GetModelVersion(get).name == "models/x/versions/1"
    delete = pb.DeleteModelVersionRequest(name="models/x/versions/1")
    error = refused(lambda: models.DeleteModelVersion(delete))
    assert isinstance(error, errors.ModelInUse)
    removal = pb.DeleteModelAliasRequest(name="models/x", alias="stable")
    assert dict(models.DeleteModelAlias(removal).aliases) == {}
    assert isinstance(refused(lambda: models.DeleteModelAlias(removal)), errors.AliasNotFound)
    assert models.GetModelVersion(get).name == "models/x/versions/2"
    alias.version = 9
    assert isinstance(refused(lambda: models.SetModelAlias(alias)), errors.VersionNotFound)
    alias.alias = "1"
    assert isinstance(refused(lambda: models.SetModelAlias(alias)), errors.InvalidField)


def test_a_version_that_serves_is_not_deleted(
    models: rpc.ModelServiceStub, mine: RunningServer, folder: Path
) -> None:
    name = models.UploadModelVersion(upload(folder)).name
    load = pb.LoadModelVersionRequest(name="models/x")
    for _ in range(2):  # loading what is loaded changes nothing
        assert models.LoadModelVersion(load).state == model_pb2.VERSION_STATE_READY
    delete = pb.DeleteModelVersionRequest(name=name)
    assert isinstance(refused(lambda: models.DeleteModelVersion(delete)), errors.ModelInUse)
    with grpc.insecure_channel(mine.target) as channel:
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        session = sessions.CreateSession(session_service_pb2.CreateSessionRequest(model=name))
        assert models.GetModelVersion(pb.GetModelVersionRequest(name=name)).sessions == 1
        unload = pb.UnloadModelVersionRequest(name=name)
        assert isinstance(refused(lambda: models.UnloadModelVersion(unload)), errors.ModelInUse)
        unload.force = True
        assert models.UnloadModelVersion(unload).state == model_pb2.VERSION_STATE_UNLOADED
        get = session_service_pb2.GetSessionRequest(name=session.name)
        assert sessions.GetSession(get).end_reason == session_pb2.END_REASON_DRAINED
    models.DeleteModelVersion(delete)
    assert isinstance(refused(lambda: models.DeleteModelVersion(delete)), errors.ModelNotFound)


def test_a_bare_name_means_what_serves_unless_an_alias_says_otherwise(
    models: rpc.ModelServiceStub, folder: Path
) -> None:
    for _ in range(3):
        models.UploadModelVersion(upload(folder))
    models.LoadModelVersion(pb.LoadModelVersionRequest(name="models/x/versions/2"))
    get = pb.GetModelVersionRequest(name="models/x")
    assert models.GetModelVersion(get).name == "models/x/versions/2"
    models.SetModelAlias(pb.SetModelAliasRequest(name="models/x", alias="stable", version=1))
    assert models.GetModelVersion(get).name == "models/x/versions/1"


def test_what_there_is_not_is_not_found(models: rpc.ModelServiceStub, folder: Path) -> None:
    models.UploadModelVersion(upload(folder))
    asks = {
        errors.ModelNotFound: "models/y/versions/1",
        errors.VersionNotFound: "models/x/versions/2",
        errors.AliasNotFound: "models/x/aliases/next",
        errors.InvalidField: "models/x/versions/first",
    }
    for kind, name in asks.items():
        calls = (
            lambda name=name: models.GetModelVersion(pb.GetModelVersionRequest(name=name)),
            lambda name=name: models.LoadModelVersion(pb.LoadModelVersionRequest(name=name)),
            lambda name=name: models.UnloadModelVersion(pb.UnloadModelVersionRequest(name=name)),
            lambda name=name: next(
                models.ExportModelVersion(pb.ExportModelVersionRequest(name=name))
            ),
        )
        for call in calls:
            error = refused(call)
            assert (type(error), error.field) == (kind, "name" if error.field else "")


def test_what_was_put_into_the_store_by_hand_and_is_damaged_shows_why(
    models: rpc.ModelServiceStub, folder: Path, home: Path
) -> None:
    for _ in range(2):
        models.UploadModelVersion(upload(folder))
    (home / "store" / "x" / "1" / "config.json").write_text("{")
    page = models.ListModelVersions(pb.ListModelVersionsRequest(parent="models/x"))
    assert [v.state for v in page.versions] == [
        model_pb2.VERSION_STATE_FAILED,
        model_pb2.VERSION_STATE_UNLOADED,
    ]
    assert "config.json is not valid" in page.versions[0].state_message
    load = pb.LoadModelVersionRequest(name=page.versions[0].name)
    assert isinstance(refused(lambda: models.LoadModelVersion(load)), errors.WeightsInvalid)
    models.UploadModelVersion(upload(folder, "y"))
    (home / "store" / "x" / "aliases.json").write_text("?")
    page_of_models = models.ListModels(pb.ListModelsRequest())
    assert [model.name for model in page_of_models.models] == ["models/y"]


def test_an_unwritable_store_says_so(
    serve: Callable[..., RunningServer], tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    server = serve(store=tmp_path / "file" / "below", shipped=False)
    with grpc.insecure_channel(server.target) as channel:
        models = rpc.ModelServiceStub(channel)
        error = refused(lambda: models.UploadModelVersion(upload(folder)))
        assert isinstance(error, errors.StoreUnwritable)
        request = pb.ImportModelVersionRequest(parent="models/x", path="good")
        error = refused(lambda: models.ImportModelVersion(request))
        assert isinstance(error, errors.ImportRefused)
        assert not models.ListModels(pb.ListModelsRequest()).models
