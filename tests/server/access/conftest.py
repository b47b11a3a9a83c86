"""A server that knows its callers in every way, with things worth attacking; one for all tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from carousel.server import Server
from carousel.server.access import key_file
from carousel.server.access.caller import SCOPES
from carousel.v1 import admin_service_pb2, model_service_pb2, session_service_pb2
from carousel.v1 import training_service_pb2 as training
from carousel.v1.admin_service_pb2_grpc import AdminServiceStub
from tests.conftest import RunningServer, settings_of
from tests.server.access.authority import Authority, Pair
from tests.server.access.calls import Metadata
from tests.server.access.issuer import AUDIENCE, ISSUER, Issuer, publish
from tests.server.contract import Wire
from tests.server.training.wire import Training

TRUST_DOMAIN = "spiffe://carousel.test"
NOW = datetime.now(UTC)


def bearer(credential: str) -> Metadata:
    return (("authorization", f"Bearer {credential}"),)


class TlsServer(Server):
    """The real server, with a second port that wants certificates of an authority."""

    authority: Authority

    def _add_services(self) -> None:
        super()._add_services()
        self.authority = Authority()
        credentials = grpc.ssl_server_credentials(
            [self.authority.server()],
            root_certificates=self.authority.pem,
            require_client_auth=True,
        )
        self.tls_port = self.calls.grpc.add_secure_port("localhost:0", credentials)


class Fortress:
    """The server, whoever may call it, and what it holds."""

    def __init__(self, server: RunningServer, folder: Path, issuer: Issuer) -> None:
        self.server = server
        self.keys = folder / "keys.jsonl"
        self.jwks = folder / "jwks.json"
        self.issuer = issuer
        self.operator = self.key(SCOPES)
        self.channel = grpc.insecure_channel(server.target)

    def key(self, scopes: Any, tenant: str = "", lifetime: timedelta | None = None) -> str:
        _, text = key_file.create(
            self.keys, now=NOW, scopes=sorted(scopes), tenant=tenant, lifetime=lifetime
        )
        return text

    def look_again(self) -> None:
        """What the server does every second."""
        for verifier, _ in self.server.server.gate._verifiers:  # type: ignore[attr-defined]
            verifier.refresh()

    def over_tls(self, pair: Pair | None, ca: bytes | None = None) -> grpc.Channel:
        made: Any = self.server.server
        key, certificate = pair or (None, None)
        credentials = grpc.ssl_channel_credentials(ca or made.authority.pem, key, certificate)
        return grpc.secure_channel(f"localhost:{made.tls_port}", credentials)

    @property
    def authority(self) -> Authority:
        made: Any = self.server.server
        found: Authority = made.authority
        return found

    def populate(self) -> None:
        """Something of each kind, all called `victim`."""
        authorized: Any = grpc.intercept_channel(self.channel, _Signing(self.operator))
        self.admin = AdminServiceStub(authorized)
        self.wire, self.training = Wire(authorized), Training(authorized)
        self.handle = self.wire.create(session_id="victim").handle
        self.training.upload("a,b\n1,2\n" * 100, name="victim.csv", id="victim")

    def state(self) -> list[str]:
        """All that a call could have changed."""
        info = self.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
        sessions = self.wire.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
        models = self.wire.models.ListModels(model_service_pb2.ListModelsRequest())
        versions = [
            self.wire.models.ListModelVersions(
                model_service_pb2.ListModelVersionsRequest(parent=model.name)
            )
            for model in models.models
        ]
        datasets = self.training.stub.ListDatasets(training.ListDatasetsRequest())
        jobs = self.training.stub.ListJobs(training.ListJobsRequest())
        return [str(one) for one in (info, sessions, models, *versions, datasets, jobs)]


class _Signing(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Adds the credential to the calls of stubs."""

    def __init__(self, credential: str) -> None:
        self._metadata = list(bearer(credential))

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(client_call_details._replace(metadata=self._metadata), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(client_call_details._replace(metadata=self._metadata), request_iterator)


@pytest.fixture(scope="session")
def fortress(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    folder = tmp_path_factory.mktemp("fortress")
    issuer = Issuer()
    publish(folder / "jwks.json", issuer)
    key_file.create(folder / "keys.jsonl", now=NOW, scopes=["infer"])
    (folder / "ids.toml").write_text(
        f'["{TRUST_DOMAIN}/web"]\ntenant = "shop"\nscopes = ["infer", "sessions"]\n'
        f'["{TRUST_DOMAIN}/operator"]\ntenant = ""\nscopes = {sorted(SCOPES)}\n'
    )
    (folder / "ids.toml").chmod(0o600)
    with tempfile.TemporaryDirectory() as data:
        settings = settings_of(
            Path(data),
            store=model_store,
            shipped=False,
            channelz=True,
            api_keys=folder / "keys.jsonl",
            jwt_issuer=ISSUER,
            jwt_audience=AUDIENCE,
            jwt_jwks=str(folder / "jwks.json"),
            jwt_operator="operators",
            spiffe_ids=folder / "ids.toml",
            public_health=False,
            public_reflection=False,
        )
        server = RunningServer(settings, made=TlsServer)
        made = Fortress(server, folder, issuer)
        made.look_again()
        try:
            made.populate()
            yield made
        finally:
            made.channel.close()
            server.stop()
