"""API keys: made, rotated and revoked while a server and its streams run."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.client import AsyncClient, Client, Event
from carousel.errors import PermissionDenied, Unauthenticated
from carousel.server.access import api_key, key_file
from carousel.server.access.caller import OPERATORS, SCOPES
from carousel.server.access.grant import AccessError
from carousel.server.access.key_verifier import KeyVerifier
from carousel.server.app import StartError
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1.inference_service_pb2_grpc import InferenceServiceStub
from carousel.v1.session_service_pb2 import CreateSessionRequest, GetSessionRequest
from carousel.v1.session_service_pb2_grpc import SessionServiceStub
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.access.conftest import NOW, Fortress, bearer
from tests.server.contract import error_of


@dataclass
class Guarded:
    """A server with a file of keys of its own."""

    server: RunningServer
    keys: Path
    operator: str

    def look_again(self) -> None:
        """What the server does every second."""
        for verifier, _ in self.server.server.gate._verifiers:  # type: ignore[attr-defined]
            verifier.refresh()

    def works(self, credential: str) -> bool:
        with Client(self.server.target, token=credential, timeout=PATIENCE) as client:
            try:
                client.server_info()
            except Unauthenticated:
                return False
            return True


def id_of(credential: str) -> str:
    return credential.split("_")[1]


@pytest.fixture
def guarded(serve: Callable[..., RunningServer], tmp_path: Path) -> Guarded:
    keys = tmp_path / "keys.jsonl"
    _, operator = key_file.create(keys, now=NOW, scopes=sorted(SCOPES))
    return Guarded(serve(shipped=False, api_keys=keys), keys, operator)


def test_keys_come_and_go_while_the_server_runs(guarded: Guarded) -> None:
    """The server itself looks at the file, every second; the tests below do not wait for that."""
    assert guarded.works(guarded.operator)
    _, second = key_file.create(guarded.keys, now=NOW, scopes=["infer"])
    until(lambda: guarded.works(second))
    key_file.revoke(guarded.keys, id_of(second))
    until(lambda: not guarded.works(second))
    assert guarded.works(guarded.operator)


def test_while_a_key_is_replaced_both_are_good(guarded: Guarded) -> None:
    _, new = key_file.replace(
        guarded.keys, id_of(guarded.operator), now=NOW, grace=timedelta(days=1)
    )
    guarded.look_again()
    assert guarded.works(new)
    assert guarded.works(guarded.operator)
    old, made = key_file.read(guarded.keys).values()
    assert (made.scopes, made.tenant, made.name) == (old.scopes, old.tenant, old.name)
    assert old.expire_time == NOW + timedelta(days=1)
    assert made.expire_time is None


def test_a_stream_ends_when_its_key_is_revoked(guarded: Guarded) -> None:
    """What was open does not stay open; a step after it is not taken."""
    operator, sender = bearer(guarded.operator), _Sender()
    with grpc.insecure_channel(guarded.server.target) as channel:
        sessions: Any = SessionServiceStub(channel)
        session = sessions.CreateSession(
            CreateSessionRequest(model="models/tiny"), metadata=operator
        )
        _, key = key_file.create(guarded.keys, now=NOW, scopes=["infer"])
        guarded.look_again()
        stub: Any = InferenceServiceStub(channel)
        answers = stub.StreamSteps(iter(sender), metadata=bearer(key), timeout=PATIENCE)
        sender.send(_step(session.handle, 0))
        assert next(answers).step.step_indexes == [0]
        key_file.revoke(guarded.keys, id_of(key))
        guarded.look_again()
        sender.send(_step(session.handle, 1))
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        sender.close()
        assert isinstance(error_of(ended.value), Unauthenticated)
        after = sessions.GetSession(GetSessionRequest(name=session.name), metadata=operator)
        assert after.step_index == 1


class _Sender:
    """Messages of a stream, one after the other."""

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._more = threading.Condition()

    def send(self, message: Any) -> None:
        with self._more:
            self._messages.append(message)
            self._more.notify()

    def close(self) -> None:
        self.send(None)

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._messages)
                message = self._messages.pop(0)
            if message is None:
                return
            yield message


def _step(handle: int, index: int) -> pb.StreamStepsRequest:
    inputs = tensors.encode(np.zeros((1, 3), np.float32))
    step = pb.StepRequest(handles=[handle], step_indexes=[index], inputs=inputs)
    return pb.StreamStepsRequest(step=step)


@pytest.mark.parametrize("broken", ["others may write it", "it is damaged", "it is gone"])
def test_no_key_is_good_once_the_file_can_not_be_trusted(guarded: Guarded, broken: str) -> None:
    assert guarded.works(guarded.operator)
    text = guarded.keys.read_text()
    if broken == "others may write it":
        guarded.keys.chmod(0o620)
    elif broken == "it is damaged":
        guarded.keys.write_text(text[:-20])
    else:
        guarded.keys.unlink()
    guarded.look_again()
    assert not guarded.works(guarded.operator)
    new = guarded.keys.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(guarded.keys)
    guarded.look_again()
    assert guarded.works(guarded.operator)


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_a_server_does_not_start_on_a_file_that_others_may_write(
    serve: Callable[..., RunningServer], tmp_path: Path, mode: int
) -> None:
    keys = tmp_path / "keys.jsonl"
    key_file.create(keys, now=NOW, scopes=["infer"])
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    keys.chmod(mode)
    with pytest.raises(StartError, match=f"its mode is {mode:04o}, and 0600 is allowed"):
        serve(shipped=False, api_keys=keys)


def test_a_server_does_not_start_without_the_file(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="can't be read: No such file"):
        serve(shipped=False, api_keys=tmp_path / "none.jsonl")


def test_the_file_holds_no_secret_and_no_two_keys_look_alike(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    made = [key_file.create(keys, now=NOW, scopes=["infer"])[1] for _ in range(3)]
    text = keys.read_text()
    for credential in made:
        assert api_key.parse(credential) is not None
        assert credential.split("_", 2)[2] not in text
    rows = [json.loads(line) for line in text.splitlines()]
    for field in ("id", "salt", "hash"):
        assert len({row[field] for row in rows}) == 3
    n, r, p = rows[0]["cost"]
    assert n * r * p >= 2**17  # what OWASP asks of scrypt


def test_a_key_is_verified_once_and_remembered(fortress: Fortress) -> None:
    """A hundred calls with it take far less than a hundred slow hashes: none but the first."""
    credential = fortress.key(["infer"])
    fortress.look_again()
    gate: Any = fortress.server.server.gate
    asked = []
    verifier, _ = gate._verifiers[0]
    assert isinstance(verifier, KeyVerifier)
    row = verifier._rows[id_of(credential)]

    class Counted(type(row.key)):  # type: ignore[misc]
        def fits(self, secret: str) -> bool:
            asked.append(threading.current_thread())
            return bool(super().fits(secret))

    row.key = Counted(**{name: getattr(row.key, name) for name in api_key.ApiKey.__slots__})
    target = fortress.server.target
    with (
        Client(target, token=credential, timeout=PATIENCE) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda _: client.server_info(), range(100)))
    assert 1 <= len(asked) <= 2  # two threads may have begun at once
    assert all(thread.name.startswith("key") for thread in asked)  # and not the event loop's


def test_changes_by_several_at_once_are_all_kept(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: key_file.create(keys, now=NOW, scopes=["infer"]), range(12)))
    assert set(key_file.read(keys)) == {key.id for key, _ in made}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1"),
        ("[]", "must be an object with id, name"),
        ('{"id": "x"}', "must be an object with id, name"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    keys = tmp_path / "keys.jsonl"
    keys.write_text(line)
    keys.chmod(0o600)
    with pytest.raises(AccessError, match=told):
        key_file.read(keys)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (
            "scopes",
            ["root"],
            "scopes are admin, infer, .*, got 'root'",
        ),
        ("scopes", "infer", "scopes are"),
        ("tenant", "Shop", "tenant must be at most 63"),
        ("tenant", None, "tenant must be"),
        ("id", "../x", "12 hexadecimal digits"),
        ("cost", [2**30, 8, 1], "cost must be"),
        ("cost", [0, 8, 1], "cost must be"),
        ("salt", "zz", "non-hexadecimal"),
        ("create_time", "2026-11-26", "times must be as in"),
        ("name", "a\nb", "printable"),
    ],
)
def test_what_a_key_can_not_be_is_refused(
    tmp_path: Path, field: str, value: Any, told: str
) -> None:
    keys = tmp_path / "keys.jsonl"
    key_file.create(keys, now=NOW, scopes=["infer"])
    row = json.loads(keys.read_text())
    keys.write_text(json.dumps({**row, field: value}))
    with pytest.raises(AccessError, match=told):
        key_file.read(keys)


def test_the_operator_may_act_for_any_tenant_and_others_for_none(fortress: Fortress) -> None:
    shop = fortress.key(SCOPES - OPERATORS, tenant="shop")
    fortress.look_again()
    target = fortress.server.target
    for credential, tenant in ((fortress.operator, "bank"), (shop, "shop"), (shop, "")):
        with Client(target, token=credential, tenant=tenant, timeout=PATIENCE) as client:
            assert client.server_info().version
    bank = Client(target, token=shop, tenant="bank", timeout=PATIENCE)
    with bank, pytest.raises(PermissionDenied, match="not of the tenant"):
        bank.server_info()


@pytest.mark.parametrize("scope", sorted(OPERATORS))
def test_no_tenant_sees_or_stops_the_server_of_all(fortress: Fortress, scope: str) -> None:
    with pytest.raises(ValueError, match=f"the scope {scope} .* operator, .* got tenant 'shop'"):
        fortress.key({scope}, tenant="shop")
    token = fortress.issuer.token(scope=f"infer {scope}", tenant="shop")
    with Client(fortress.server.target, token=token, timeout=PATIENCE) as client:
        call = client.statistics if scope == "metrics" else client.drain
        with pytest.raises(PermissionDenied, match=f"has not the scope {scope}"):
            call()


def test_clients_whose_key_is_revoked_are_told_and_do_not_try_again(guarded: Guarded) -> None:
    _, key = key_file.create(guarded.keys, now=NOW, scopes=["infer", "sessions"])
    guarded.look_again()
    inputs = np.zeros(3, np.float32)
    events: list[Event] = []

    async def step() -> None:
        client = AsyncClient(
            guarded.server.target, token=key, timeout=PATIENCE, on_event=events.append
        )
        async with client, client.session("tiny") as session:
            await session.step(inputs)
            key_file.revoke(guarded.keys, id_of(key))
            guarded.look_again()
            with pytest.raises(Unauthenticated):
                await session.step(inputs)

    with pytest.raises(Unauthenticated):  # to end the session needs the key too
        asyncio.run(step())
    assert "retry" not in [event.kind for event in events]
