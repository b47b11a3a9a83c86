"""Datasets: complete, checked and described, or not there; an upload that broke goes on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import grpc
import pytest

from carousel.errors import InvalidField
from carousel.model.data import Corpus
from carousel.server.training import prepare
from carousel.server.training.child import run_child
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.process import Share, preparing_command, start
from carousel.server.training.recipes import decode_recipe
from carousel.server.training.records import JobRecord
from carousel.v1 import dataset_pb2, training_pb2
from carousel.v1 import training_service_pb2 as pb
from tests.processes import PATIENCE
from tests.server.contract import error_of
from tests.server.training.conftest import Start
from tests.server.training.wire import FOX, PIECE, Training, pieces, recipe

TABLE = "day,load\n" + "".join(f"{day},{day % 7}\n" for day in range(400))


def refusal(training: Training, data: bytes | str, **header: object) -> str:
    with pytest.raises(grpc.RpcError) as failed:
        training.upload(data, **header)
    return str(error_of(failed.value))


def test_what_arrived_whole_is_ready_and_described(training: Training) -> None:
    made = training.upload(TABLE, name="loads.csv", id="loads")
    assert made.state == dataset_pb2.DATASET_STATE_READY
    assert made.format == dataset_pb2.DATASET_FORMAT_CSV
    assert made.received_bytes == made.size_bytes == len(TABLE)
    assert made.rows == 400
    assert [column.name for column in made.columns] == ["day", "load"]
    assert (made.columns[1].minimum, made.columns[1].maximum) == (0, 6)
    assert training.dataset("loads") == made
    assert training.upload(TABLE, name="loads.csv", id="loads") == made  # the same bytes again


def test_a_text_is_described(training: Training) -> None:
    text = "één\ntwee\n\nvier" * 100_000  # so large that a process of its own reads it
    made = training.upload(text, name="counting.txt", id="counting")
    assert (made.text.characters, made.text.lines, made.text.symbols) == (1_400_000, 300_001, 9)
    assert training.dataset("counting").text == made.text
    assert not training.upload(TABLE, name="loads.csv", id="loads").HasField("text")


def test_a_small_text_does_not_wait_for_somebody_s_large_file(start: Start) -> None:
    server, training = start()
    reading = server.server.office.uploads._describing
    turn = reading.of("somebody")
    server.run(turn.__aenter__())  # as while a process reads for long
    assert training.upload(FOX, name="fox.txt", id="fox").rows == len(FOX)
    assert reading.busy
    server.run(turn.__aexit__(None, None, None))


def test_json_lines_are_a_table(training: Training) -> None:
    lines = "".join(f'{{"day": {day}, "load": {day % 7}}}\n' for day in range(400))
    made = training.upload(lines, name="loads.jsonl", id="json-lines")
    assert made.format == dataset_pb2.DATASET_FORMAT_JSONL
    assert made.columns == training.upload(TABLE, name="loads.csv", id="loads").columns
    wanted = recipe(forecast=training_pb2.ForecastTask(targets=["lode"]))
    with pytest.raises(grpc.RpcError) as failed:
        training.create(dataset="json-lines", recipe=wanted, validate_only=True)
    assert "it has day, load" in str(error_of(failed.value))


def test_a_broken_upload_goes_on_where_it_broke(training: Training) -> None:
    data = FOX.encode()[: 3 * PIECE + 100]
    refused = refusal(training, data, name="a.txt", id="broken", spoil=2)
    assert "UPLOAD_DAMAGED" in refused
    there = training.dataset("broken")
    assert there.state == dataset_pb2.DATASET_STATE_UPLOADING
    assert there.received_bytes == 2 * PIECE  # what came before the damaged piece
    assert "INVALID_FIELD" in refusal(
        training, data, name="a.txt", id="broken", offset=2 * PIECE + 1
    )
    made = training.upload(data, name="a.txt", id="broken", offset=there.received_bytes)
    assert made.state == dataset_pb2.DATASET_STATE_READY
    assert made.sha256 == hashlib.sha256(data).digest()


def test_a_client_that_vanished_can_come_back(training: Training) -> None:
    vanish = threading.Event()

    def until_it_vanishes() -> Iterator[pb.UploadDatasetRequest]:
        yield from islice(pieces(FOX.encode(), name="a.txt", id="vanished"), 3)
        vanish.wait(PATIENCE)

    call = training.stub.UploadDataset.future(until_it_vanishes(), timeout=PATIENCE)
    listed = pb.ListDatasetsRequest(page_size=1000)
    while "datasets/vanished" not in {d.name for d in training.stub.ListDatasets(listed).datasets}:
        pass
    call.cancel()
    vanish.set()
    while True:
        there = training.dataset("vanished").received_bytes
        try:
            made = training.upload(FOX, name="a.txt", id="vanished", offset=there)
        except grpc.RpcError as error:
            if error_of(error).reason != "DATASET_IN_USE":  # the server has not noticed yet
                raise
        else:
            break
    assert made.state == dataset_pb2.DATASET_STATE_READY


def test_bytes_that_are_not_the_announced_ones_are_removed(training: Training) -> None:
    refused = refusal(training, FOX, name="a.txt", id="wrong", sha256=b"0" * 32)
    assert "UPLOAD_DAMAGED" in refused
    with pytest.raises(grpc.RpcError) as failed:
        training.dataset("wrong")
    assert error_of(failed.value).reason == "DATASET_NOT_FOUND"


def test_an_id_belongs_to_one_file(training: Training) -> None:
    assert "DATASET_EXISTS" in refusal(training, "other text", name="fox.txt", id="fox")
    assert "DATASET_EXISTS" in refusal(training, FOX, name="fox.npz", id="fox")


def test_what_cannot_be_read_is_refused_with_its_row(training: Training) -> None:
    torn = "a,b\n1,2\n1,2,3\n4,5\n"
    refused = refusal(training, torn, name="torn.csv", id="torn")
    assert "DATASET_INVALID" in refused
    assert "row 2" in refused
    assert "DATASET_INVALID" in refusal(training, b"\xff\xfe\xfd", name="x.txt", id="torn")


def test_headers_are_checked_before_bytes_are_taken(training: Training) -> None:
    assert "header.format" in refusal(training, FOX, name="fox.exe")
    assert "header.dataset_id" in refusal(training, FOX, name="a.txt", id="Not An Id")
    assert "header.size_bytes" in refusal(training, b"", name="a.txt")
    with pytest.raises(grpc.RpcError) as failed:
        training.stub.UploadDataset(iter([pb.UploadDatasetRequest(piece=pb.DatasetPiece())]))
    assert "the first message must be the header" in str(error_of(failed.value))


def test_an_upload_is_one_client_s_at_a_time(training: Training) -> None:
    go_on = threading.Event()

    def slowly() -> Iterator[pb.UploadDatasetRequest]:
        header, *rest = pieces(FOX.encode(), name="a.txt", id="shared")
        yield header
        go_on.wait(PATIENCE)
        yield from rest

    slow = training.stub.UploadDataset.future(slowly(), timeout=PATIENCE)
    listed = pb.ListDatasetsRequest(page_size=1000)
    while "datasets/shared" not in {d.name for d in training.stub.ListDatasets(listed).datasets}:
        pass  # its header is on the way
    assert "DATASET_IN_USE" in refusal(training, FOX, name="a.txt", id="shared")
    with pytest.raises(grpc.RpcError) as failed:
        training.stub.DeleteDataset(pb.DeleteDatasetRequest(name="datasets/shared"))
    assert error_of(failed.value).reason == "DATASET_IN_USE"
    go_on.set()
    assert slow.result().state == dataset_pb2.DATASET_STATE_READY


def test_datasets_are_listed_in_pages_and_deleted_when_nobody_needs_them(
    training: Training,
) -> None:
    training.upload("aa bb " * 50, name="a.txt", id="aaa")
    first = training.stub.ListDatasets(pb.ListDatasetsRequest(page_size=1))
    assert [d.name for d in first.datasets] == ["datasets/aaa"]
    second = training.stub.ListDatasets(
        pb.ListDatasetsRequest(page_size=1000, page_token=first.next_page_token)
    )
    names = [d.name for d in second.datasets]
    assert "datasets/fox" in names
    assert names == sorted(names)
    assert not second.next_page_token
    training.stub.DeleteDataset(pb.DeleteDatasetRequest(name="datasets/aaa"))
    assert training.stub.ListDatasets(pb.ListDatasetsRequest()).datasets[0].name != "datasets/aaa"


def test_a_uri_leads_nowhere_but_below_a_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret.txt"
    (root / "sub").mkdir(parents=True)
    outside.write_text("secret")
    (root / "sub" / "good.txt").write_text("good")
    (root / "link.txt").symlink_to(outside)
    (root / "inside").symlink_to(root / "sub")
    os.mkfifo(root / "pipe.txt")
    folder = DataFolder(tmp_path / "data", (root,))
    with folder.open_uri("sub/good.txt") as file:
        assert file.read() == b"good"
    for uri in (
        "", "/etc/passwd", "../secret.txt", "sub/../../secret.txt", "./sub/good.txt", "link.txt",
        "inside/good.txt", "pipe.txt", "sub", "missing.txt", "sub//good.txt", "a\0b",
    ):  # fmt: skip
        with pytest.raises(InvalidField):
            folder.open_uri(uri)
    with pytest.raises(InvalidField, match="no dataset_roots"):
        DataFolder(tmp_path / "data").open_uri("sub/good.txt")
    with pytest.raises(InvalidField, match="must lead to a file"):
        DataFolder(tmp_path / "data", (Path("/dev"),)).open_uri("null")


def test_who_reads_data_reads_what_was_checked_though_its_path_was_exchanged(
    tmp_path: Path,
) -> None:
    root, outside, same = tmp_path / "root", tmp_path / "secret.txt", tmp_path / "same.txt"
    (tmp_path / "want").mkdir()
    root.mkdir()
    outside.write_text("secret" * len(FOX))
    for file in (root / "fox.txt", same):
        file.write_text(FOX)
    given = {"recipe": decode_recipe(recipe()).to_dict()}
    for place in (tmp_path, tmp_path / "want"):
        (place / "job.json").write_text(json.dumps(given))
    folder = DataFolder(tmp_path / "data", (root,))
    job = JobRecord(id="a", dataset="", uri="fox.txt")
    with folder.source(job) as data:
        (root / "fox.txt").unlink()
        (root / "fox.txt").symlink_to(outside)
        described = run_child("describe", "text", share=Share(), seconds=60, data=data)
        assert described["rows"] == len(FOX)
        process = start(preparing_command("text", tmp_path), tmp_path, Share(), data=data)
        assert process.child is not None
        assert process.child.wait() == 0
    assert prepare.main(same, "text", tmp_path / "want")
    want = Corpus.open(tmp_path / "want" / "corpus").digest
    assert Corpus.open(tmp_path / "corpus").digest == want
    with pytest.raises(InvalidField, match="without links"):
        folder.source(job)


def test_a_uri_that_became_a_link_fails_its_job_unread(start: Start, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret.txt"
    root.mkdir()
    for file in (root / "fox.txt", outside):
        file.write_text(FOX)  # which could be learned from
    server, training = start(dataset_roots=(root,), training_jobs_at_once=0)
    training.create("swapped", uri="fox.txt")
    server.stop()
    (root / "fox.txt").unlink()
    (root / "fox.txt").symlink_to(outside)
    _, training = start(dataset_roots=(root,))
    job = training.finish("swapped")
    assert job.state == training_pb2.JOB_STATE_FAILED
    assert "must lead to a file below a dataset root, without links" in job.state_message
