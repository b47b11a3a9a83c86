"""Tokens: whose they are, and signing keys that come and go at the issuer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from carousel.client import Client
from carousel.errors import PermissionDenied, Unauthenticated
from carousel.server.access.caller import Caller
from carousel.server.access.grant import AccessError
from carousel.server.access.signing_keys import UNKNOWN_SECONDS, SigningKeys
from carousel.server.access.token_verifier import TokenVerifier, Trust
from carousel.server.settings import Settings, SettingsError
from tests.processes import PATIENCE
from tests.server.access.conftest import Fortress
from tests.server.access.issuer import AUDIENCE, ISSUER, Issuer, publish


class Site:
    """Where an issuer publishes its keys; counts how often it is asked."""

    def __init__(self) -> None:
        self.issuers: list[Issuer] = []
        self.asked = 0
        self.status = 200
        self.location = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked += 1
                self.send_response(site.status)
                if site.location:
                    self.send_header("Location", site.location)
                self.end_headers()
                self.wfile.write(json.dumps({"keys": [i.jwk() for i in site.issuers]}).encode())

            def log_message(self, format: str, *args: object) -> None:
                """The test counts."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/jwks"

    @contextmanager
    def open(self) -> Iterator[Site]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class Clock:
    """Time that passes when it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def site() -> Iterator[Site]:
    with Site().open() as site:
        yield site


def verifier(keys: SigningKeys, **trust: Any) -> TokenVerifier:
    said = {"tenant_claim": "tenant", "scopes_claim": "scope", "operator": None, **trust}
    return TokenVerifier(Trust(issuer=ISSUER, audience=AUDIENCE, **said), keys)


def test_claims_say_who_calls_for_whom_and_what_they_may(tmp_path: Path) -> None:
    issuer, file = Issuer(), tmp_path / "jwks.json"
    publish(file, issuer)
    one = verifier(
        SigningKeys(str(file)), tenant_claim="org", scopes_claim="roles", operator="operators"
    )
    token = issuer.token(org="shop", roles=["infer", "root", 7])
    assert one.verify(token).caller == Caller("jwt/alice", "shop", frozenset({"infer"}))
    token = issuer.token(org="operators", roles="infer admin openid", sub="bob\nroot")
    assert one.verify(token).caller == Caller("jwt/bob?root", "", frozenset({"infer", "admin"}))
    for tenant in (None, "", "Shop", 7, ["shop"]):
        with pytest.raises(Unauthenticated):
            one.verify(issuer.token(org=tenant))


def test_an_unknown_key_makes_the_issuer_be_asked_again_but_not_often(site: Site) -> None:
    clock, old, new = Clock(), Issuer("old"), Issuer("new")
    site.issuers = [old]
    one = verifier(SigningKeys(site.url, clock=clock))
    assert one.verify(old.token())
    assert one.verify(old.token())
    assert site.asked == 1
    site.issuers = [old, new]
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            one.verify(new.token())
    assert site.asked == 1
    clock.now += UNKNOWN_SECONDS
    assert one.verify(new.token())
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            one.verify(Issuer("foreign").token())
    assert site.asked == 2


def test_what_the_issuer_takes_back_is_good_no_longer(site: Site) -> None:
    clock, issuer = Clock(), Issuer()
    site.issuers = [issuer]
    one = verifier(SigningKeys(site.url, clock=clock))
    grant = one.verify(issuer.token())
    clock.now += 3600
    one.refresh()
    assert grant.holds(0)  # the same key is still there
    site.issuers = []
    clock.now += 3600
    one.refresh()
    assert not grant.holds(0)
    with pytest.raises(Unauthenticated):
        one.verify(issuer.token())


def test_while_the_issuer_is_away_its_last_keys_are_good(site: Site) -> None:
    clock, issuer = Clock(), Issuer()
    site.issuers = [issuer]
    one = verifier(SigningKeys(site.url, clock=clock))
    assert one.verify(issuer.token())
    site.status = 500
    clock.now += 3600
    one.refresh()
    assert one.verify(issuer.token())


def test_no_redirect_is_followed(site: Site) -> None:
    with Site().open() as elsewhere:
        elsewhere.issuers = [Issuer()]
        site.status, site.location = 302, elsewhere.url
        with pytest.raises(Unauthenticated):
            verifier(SigningKeys(site.url)).verify(elsewhere.issuers[0].token())
        assert (site.asked, elsewhere.asked) == (1, 0)


def test_a_file_of_signing_keys_is_read_again(fortress: Fortress) -> None:
    new = Issuer("new")
    token = new.token(tenant="shop")
    with Client(fortress.server.target, token=token, timeout=PATIENCE) as client:
        with pytest.raises(Unauthenticated):
            client.server_info()
        publish(fortress.jwks, fortress.issuer, new)
        fortress.look_again()
        assert client.server_info().version
        publish(fortress.jwks, fortress.issuer)
        fortress.look_again()
        with pytest.raises(Unauthenticated):
            client.server_info()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 1}', '{"keys": [1]}'])
def test_a_file_that_is_no_jwks_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(AccessError, match="JWKS"):
        SigningKeys(str(file))


def test_symmetric_keys_of_a_set_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"}
    file.write_text(json.dumps({"keys": [secret]}))
    file.chmod(0o600)
    assert SigningKeys(str(file)).find("secret") is None


@pytest.mark.parametrize("url", ["http://issuer.test/jwks", "ftp://localhost/x", "https://"])
def test_signing_keys_come_over_https_or_from_this_machine(url: str) -> None:
    given = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    with pytest.raises(SettingsError, match="must be a file or begin with https://"):
        Settings.read(None, **given, jwt_jwks=url)
    for good in ("http://127.0.0.1:1/jwks", "https://issuer.test/jwks", "/etc/jwks.json"):
        assert Settings.read(None, **given, jwt_jwks=good).knows_callers


def test_an_issuer_without_audience_or_keys_is_refused() -> None:
    with pytest.raises(SettingsError, match="given together, or none"):
        Settings.read(None, jwt_issuer=ISSUER)


def test_a_token_s_scopes_are_all_it_may(fortress: Fortress) -> None:
    token = fortress.issuer.token(scope="sessions")
    with Client(fortress.server.target, token=token, timeout=PATIENCE) as client:
        list(client.list_sessions())
        with pytest.raises(PermissionDenied, match="has not the scope models"):
            list(client.list_models())
