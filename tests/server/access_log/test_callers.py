"""The access log says who it was, by the name of the credential, and who was refused."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carousel.client import Client
from carousel.errors import PermissionDenied, Unauthenticated
from carousel.server.access import key_file
from tests.conftest import RunningServer
from tests.processes import PATIENCE
from tests.server.access_log.test_calls import Log


def test_who_it_was_and_who_was_refused(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.jsonl"
    key, secret = key_file.create(
        keys, now=datetime.now(UTC), tenant="shop", scopes=["infer", "sessions"]
    )
    server = serve(shipped=False, api_keys=keys)
    log = Log(server.settings.data_folder / "access.log")
    with Client(server.target, token=secret) as client:
        client.session("tiny", session_id="mine").close()
        with pytest.raises(PermissionDenied):
            client.set_alias("tiny", alias="stable", version=1)
        with pytest.raises(PermissionDenied):
            list(client.list_models())
    with Client(server.target, token="wrong") as client, pytest.raises(Unauthenticated):
        client.session("tiny", session_id="theirs")
    done, refused = log.of("CreateSession", 2)
    assert (done["caller"], done["tenant"], done["status"]) == (f"key/{key.id}", "shop", "OK")
    assert (refused["caller"], refused["tenant"]) == (None, None)
    assert (refused["status"], refused["reason"]) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert refused["resources"] == {"session_id": "theirs", "model": "models/tiny"}
    for method in ("SetModelAlias", "ListModels"):  # the second has no line when it is allowed
        [denied] = log.of(method)
        assert (denied["caller"], denied["tenant"]) == (f"key/{key.id}", "shop")
        assert denied["status"] == "PERMISSION_DENIED"
    assert secret not in log.path.read_text()
    assert secret.split("_", 2)[2] not in log.path.read_text()


def test_refusals_of_health_and_on_the_http_port_have_lines_and_answers_have_none(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.jsonl"
    key, secret = key_file.create(keys, now=datetime.now(UTC), tenant="shop", scopes=["infer"])
    server = serve(shipped=False, api_keys=keys, public_health=False)
    log = Log(server.settings.data_folder / "access.log")
    asked = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        health.Check(asked, metadata=(("authorization", f"Bearer {secret}"),))
        with pytest.raises(grpc.RpcError):
            health.Check(asked)
        with pytest.raises(grpc.RpcError):
            next(health.Watch(asked))
    for method in ("Check", "Watch"):
        [line] = log.of(method)
        assert (line["caller"], line["status"]) == (None, "UNAUTHENTICATED")
        assert line["method"] == f"grpc.health.v1.Health/{method}"
        assert line["peer"].startswith(("ipv4:127.0.0.1:", "ipv6:"))
    url = f"http://localhost:{server.server.http_port}"
    with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE):
        pass
    headers = {"Authorization": f"Bearer {secret}"}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", headers=headers))
    [line] = log.of("metrics")
    assert (line["method"], line["status"]) == ("/metrics", "PERMISSION_DENIED")
    assert (line["caller"], line["tenant"]) == (f"key/{key.id}", "shop")
    assert line["peer"].startswith(("http:127.0.0.1:", "http:[::1]:"))
