"""Rules: every RPC has one, what has none is not served, and what is public is listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from carousel.client import Client
from carousel.errors import Unauthenticated
from carousel.server.access import key_file
from carousel.server.access.caller import SCOPES
from carousel.server.access.gate import OpenGate
from carousel.server.access.rules import ANY, HEALTH, PUBLIC, REFLECTION, RULES, NoRule
from carousel.server.app import StartError
from carousel.server.guests import add_guests
from carousel.server.health_reports import HealthReports
from carousel.server.metrics import Metrics
from carousel.server.resets.tally import Arrivals
from carousel.server.rpc import add_service
from carousel.server.services import SERVICES
from tests.conftest import RunningServer
from tests.server.access.calls import RPCS, call
from tests.server.access.conftest import NOW, Fortress, bearer

SERVER = Path(__file__).parents[3] / "server/carousel/server"


def test_every_rpc_of_every_service_has_a_rule_and_every_rule_an_rpc() -> None:
    assert {rpc.name for rpc in RPCS} == set(RULES)
    assert {one for rule in RULES.values() for one in rule.split()} == {*SCOPES, ANY, PUBLIC}


def test_only_health_and_reflection_are_public() -> None:
    public = {name.partition("/")[0] for name, rule in RULES.items() if rule == PUBLIC}
    assert public == {HEALTH, REFLECTION}


def test_what_a_server_serves_is_what_the_attacks_try(fortress: Fortress) -> None:
    services = {rpc.method.containing_service.full_name for rpc in RPCS}
    [reflection] = [rpc for rpc in RPCS if rpc.name.startswith(REFLECTION)]
    assert call(fortress.channel, reflection, b"").code == grpc.StatusCode.UNAUTHENTICATED
    made: Any = fortress.server.server
    with fortress.over_tls(fortress.authority.client("spiffe://carousel.test/web")) as channel:
        served = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert set(served) == services
    assert made.tls_port


@pytest.mark.parametrize("missing", sorted(RULES))
def test_a_server_does_not_serve_an_rpc_without_a_rule(missing: str) -> None:
    gate = OpenGate({name: rule for name, rule in RULES.items() if name != missing})
    with pytest.raises(NoRule, match=missing):
        _register(gate)


def test_a_server_with_all_rules_registers_everything() -> None:
    _register(OpenGate(RULES))


class _Registrar:
    """Takes handlers as a server does; the tests above need no event loop that way."""

    def add_generic_rpc_handlers(self, handlers: object) -> None: ...

    def add_registered_method_handlers(self, service: str, handlers: object) -> None: ...


class _Servicer:
    def __getattr__(self, name: str) -> Any:
        return None


def _register(gate: OpenGate) -> None:
    server: Any = _Registrar()
    metrics = Metrics()
    for service in SERVICES.values():
        add_service(server, service, _Servicer(), metrics, gate)
    add_guests(server, gate, [], HealthReports().servicer, channelz=True)


def test_a_server_without_a_rule_does_not_start(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {name: rule for name, rule in RULES.items() if not name.endswith("/Step")}
    monkeypatch.setattr("carousel.server.access.rules.RULES", rules)
    with pytest.raises(StartError, match="InferenceService/Step has no rule"):
        serve(shipped=False)


def test_handlers_are_registered_behind_the_gate_alone() -> None:
    """Two of the files that do it ask the gate, and the third counts calls and answers none."""
    registering = {
        str(file.relative_to(SERVER))
        for file in SERVER.rglob("*.py")
        if "add_generic_rpc_handlers" in file.read_text()
        or "Servicer_to_server" in file.read_text()
    }
    assert registering == {"rpc.py", "guests.py", "resets/opening.py"}
    details: Any = None
    assert Arrivals().service(details) is None  # type: ignore[func-returns-value]


def test_health_and_reflection_need_no_credential_unless_they_are_closed(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.jsonl"
    key_file.create(keys, now=NOW, scopes=["infer"])
    server = serve(shipped=False, api_keys=keys)
    with Client(server.target) as client, pytest.raises(Unauthenticated, match="a credential"):
        client.server_info()
    with grpc.insecure_channel(server.target) as channel:
        public = [rpc for rpc in RPCS if RULES[rpc.name] == PUBLIC]
        for rpc in public:
            for credential in ((), bearer("wrong")):
                assert call(channel, rpc, b"", credential).code != grpc.StatusCode.UNAUTHENTICATED
        for rpc in [rpc for rpc in RPCS if rpc.is_ours]:
            assert call(channel, rpc, b"").code == grpc.StatusCode.UNAUTHENTICATED, rpc
