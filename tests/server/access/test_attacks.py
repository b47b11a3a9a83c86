"""Attacks: every RPC of every service, with everything that is no right credential for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from carousel.server.access import key_file
from carousel.server.access.caller import OPERATORS, SCOPES
from carousel.server.access.rules import ANY, PUBLIC, RULES
from carousel.v1 import training_pb2
from carousel.v1.model_service_pb2 import DeleteModelAliasRequest
from carousel.v1.session_service_pb2 import DeleteSessionRequest
from carousel.v1.training_service_pb2 import CreateJobRequest
from tests.server.access.authority import Authority
from tests.server.access.calls import RPCS, Metadata, Outcome, call, potent
from tests.server.access.conftest import NOW, TRUST_DOMAIN, Fortress, bearer
from tests.server.access.issuer import Issuer, with_hmac

MALFORMED = b"\xff\xff"

Attack = Callable[[Fortress], Metadata]


def _expired(fortress: Fortress) -> Metadata:
    return bearer(fortress.key(SCOPES, lifetime=timedelta(days=-1)))


def _revoked(fortress: Fortress) -> Metadata:
    key = fortress.key(SCOPES)
    key_file.revoke(fortress.keys, key.split("_")[1])
    return bearer(key)


def _replaced(fortress: Fortress) -> Metadata:
    key = fortress.key(SCOPES)
    key_file.replace(fortress.keys, key.split("_")[1], now=NOW, grace=timedelta(0))
    return bearer(key)


def _wrong_secret(fortress: Fortress) -> Metadata:
    return bearer(f"{fortress.operator[:-4]}AAAA")


def _unsigned(fortress: Fortress) -> Metadata:
    claims = jwt.decode(fortress.issuer.token(), options={"verify_signature": False})
    return bearer(jwt.encode(claims, "", algorithm="none", headers={"kid": "one"}))


def _public_key_as_secret(fortress: Fortress) -> Metadata:
    """Signed with HMAC and the public key, which everybody has."""
    public = fortress.issuer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bearer(with_hmac(fortress.issuer.token(), public))


ATTACKS: dict[str, Attack] = {
    "no credential": lambda fortress: (),
    "expired key": _expired,
    "revoked key": _revoked,
    "replaced key": _replaced,
    "foreign key": lambda fortress: bearer(f"carousel_{'0' * 12}_{'A' * 43}"),
    "wrong secret": _wrong_secret,
    "malformed key": lambda fortress: bearer("carousel_operator"),
    "no scheme": lambda fortress: (("authorization", fortress.operator),),
    "other scheme": lambda fortress: (("authorization", f"Token {fortress.operator}"),),
    "nothing after the scheme": lambda fortress: (("authorization", "Bearer "),),
    "two headers, both good": lambda fortress: (*bearer(fortress.operator),) * 2,
    "two headers, one good": lambda fortress: (*bearer("x"), *bearer(fortress.operator)),
    "another header": lambda fortress: (("x-api-key", fortress.operator),),
    "no kind of credential": lambda fortress: bearer("secret"),
    "expired token": lambda fortress: bearer(fortress.issuer.token(lifetime=-60)),
    "token of another issuer": lambda fortress: bearer(fortress.issuer.token(iss="https://evil")),
    "token for another audience": lambda fortress: bearer(fortress.issuer.token(aud="others")),
    "token not good yet": lambda fortress: bearer(fortress.issuer.token(nbf=2**40)),
    "token without an end": lambda fortress: bearer(fortress.issuer.token(exp=None)),
    "token without a tenant": lambda fortress: bearer(fortress.issuer.token(tenant=None)),
    "token with an empty tenant": lambda fortress: bearer(fortress.issuer.token(tenant="")),
    "foreign key under a known id": lambda fortress: bearer(Issuer().token()),
    "foreign key under its own id": lambda fortress: bearer(Issuer("two").token()),
    "unsigned token": _unsigned,
    "public key as secret": _public_key_as_secret,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_gets_in_without_a_valid_credential(fortress: Fortress, attack: str) -> None:
    """The same answer from every RPC, whatever is asked for, and nothing has changed."""
    before = fortress.state()
    metadata = ATTACKS[attack](fortress)
    fortress.look_again()
    outcomes = {
        call(fortress.channel, rpc, request, metadata)
        for rpc in RPCS
        for request in (
            potent(rpc, handle=fortress.handle, exists=True),
            potent(rpc, handle=fortress.handle, exists=False),
            MALFORMED,
        )
    }
    [outcome] = outcomes
    assert outcome.code == grpc.StatusCode.UNAUTHENTICATED
    assert fortress.state() == before


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_nobody_gets_in_without_the_scope(fortress: Fortress, scope: str) -> None:
    """A credential with all scopes but one, at the RPCs that need that one."""
    before = fortress.state()
    credentials = [fortress.key(SCOPES - {scope})]
    credentials.append(fortress.issuer.token(scope=" ".join(SCOPES - {scope}), tenant="operators"))
    fortress.look_again()
    wanted = [rpc for rpc in RPCS if scope in RULES[rpc.name].split()]
    assert wanted
    for credential in credentials:
        outcomes = {
            call(fortress.channel, rpc, request, bearer(credential))
            for rpc in wanted
            for request in (
                potent(rpc, handle=fortress.handle, exists=True),
                potent(rpc, handle=fortress.handle, exists=False),
            )
        }
        [outcome] = outcomes
        assert outcome.code == grpc.StatusCode.PERMISSION_DENIED
        assert scope in outcome.text
    assert fortress.state() == before


def test_nobody_has_a_job_write_to_the_models_without_their_scope(fortress: Fortress) -> None:
    """Not when it is made, since nobody calls when it ends; and else it is a job as any other."""
    before = fortress.state()
    [create] = [rpc for rpc in RPCS if rpc.method.name == "CreateJob"]

    def outcome(*scopes: str, model: str) -> Outcome:
        job = training_pb2.Job(dataset="datasets/victim")
        job.promotion.model = model
        request = CreateJobRequest(job_id="promoting", job=job, validate_only=True)
        metadata = bearer(fortress.key(scopes))
        fortress.look_again()
        return call(fortress.channel, create, request.SerializeToString(), metadata)

    for model in ("models/tiny", "models/nobody", "no model at all"):
        refused = outcome("train", model=model)
        assert refused.code == grpc.StatusCode.PERMISSION_DENIED
        assert refused.text == "the credential has not the scope models"
    for allowed in (outcome("train", model=""), outcome("train", "models", model="models/tiny")):
        assert allowed.code == grpc.StatusCode.INVALID_ARGUMENT  # of the recipe, which it lacks
        assert "recipe" in allowed.text
    assert fortress.state() == before


def test_nobody_names_another_tenant_than_their_own(fortress: Fortress) -> None:
    before = fortress.state()
    key = fortress.key(SCOPES - OPERATORS, tenant="shop")
    fortress.look_again()
    for rpc in RPCS:
        request = potent(rpc, handle=fortress.handle, exists=True)
        foreign = (*bearer(key), ("x-carousel-tenant", "bank"))
        outcome = call(fortress.channel, rpc, request, foreign)
        assert outcome.code == grpc.StatusCode.PERMISSION_DENIED, rpc
    assert fortress.state() == before


@pytest.mark.parametrize("kind", ["key", "token", "certificate"])
@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_whoever_has_the_scope_gets_past_the_gate(fortress: Fortress, rpc: Any, kind: str) -> None:
    """The positive control: what is refused then is the message, which nobody parsed before."""
    rule = RULES[rpc.name]
    scopes = [] if rule in (ANY, PUBLIC) else rule.split()
    channel = fortress.channel
    metadata: Metadata = ()
    if kind == "certificate":
        channel = fortress.over_tls(fortress.authority.client(f"{TRUST_DOMAIN}/operator"))
    elif kind == "token":
        token = fortress.issuer.token(scope=scopes, tenant="operators")
        metadata = bearer(token)
    else:
        metadata = bearer(_with_scope(fortress, rule))
    outcome = call(channel, rpc, MALFORMED if rpc.is_ours else b"", metadata)
    if rpc.is_ours:
        assert outcome.code == grpc.StatusCode.INVALID_ARGUMENT
        assert outcome.text == "the request is no message of this method's type"
    else:
        refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        assert outcome.code not in refused
    if kind == "certificate":
        channel.close()


_made: dict[str, str] = {}


def _with_scope(fortress: Fortress, rule: str) -> str:
    """A key with what this rule asks alone; for any credential, one with another scope."""
    if rule not in _made:
        _made[rule] = fortress.key(["infer"] if rule in (ANY, PUBLIC) else rule.split())
        fortress.look_again()
    return _made[rule]


def test_over_tls_nobody_gets_in_without_a_certificate_of_ours(fortress: Fortress) -> None:
    """Not even a connection, so that no RPC is asked at all."""
    before = fortress.state()
    foreign = Authority()
    operator = f"{TRUST_DOMAIN}/operator"
    made: Any = fortress.server.server
    attacks = {
        "without a certificate": fortress.over_tls(None),
        "with a foreign certificate": fortress.over_tls(foreign.client(operator)),
        "without encryption": grpc.insecure_channel(f"localhost:{made.tls_port}"),
    }
    for attack, channel in attacks.items():
        for rpc in RPCS:
            request = potent(rpc, handle=fortress.handle, exists=True)
            outcome = call(channel, rpc, request, bearer(fortress.operator))
            assert outcome.code == grpc.StatusCode.UNAVAILABLE, attack
        channel.close()
    assert fortress.state() == before


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [f"{TRUST_DOMAIN}/stranger"],
        [f"{TRUST_DOMAIN}/operator/below"],
        ["https://carousel.test/operator"],
        [f"{TRUST_DOMAIN}/operator", f"{TRUST_DOMAIN}/web"],
    ],
    ids=["none", "unknown", "below", "no-spiffe", "two"],
)
def test_a_certificate_of_ours_is_not_yet_a_caller(fortress: Fortress, uris: list[str]) -> None:
    before = fortress.state()
    channel = fortress.over_tls(fortress.authority.client(*uris))
    for rpc in RPCS:
        request = potent(rpc, handle=fortress.handle, exists=True)
        assert call(channel, rpc, request).code == grpc.StatusCode.UNAUTHENTICATED, rpc
    channel.close()
    assert fortress.state() == before


def test_a_certificate_has_the_scopes_of_its_row_and_no_more(fortress: Fortress) -> None:
    channel = fortress.over_tls(fortress.authority.client(f"{TRUST_DOMAIN}/web"))
    for rpc in RPCS:
        allowed = RULES[rpc.name] in ("infer", "sessions", ANY, PUBLIC)
        outcome = call(channel, rpc, MALFORMED if rpc.is_ours else b"")
        assert (outcome.code != grpc.StatusCode.PERMISSION_DENIED) == allowed, rpc
    channel.close()


def test_a_bad_credential_is_not_made_good_by_a_certificate(fortress: Fortress) -> None:
    channel = fortress.over_tls(fortress.authority.client(f"{TRUST_DOMAIN}/operator"))
    for rpc in RPCS:
        outcome = call(channel, rpc, b"", bearer("carousel_wrong"))
        assert outcome.code == grpc.StatusCode.UNAUTHENTICATED, rpc
    channel.close()


def test_the_attacks_would_do_harm_were_they_let_in(fortress: Fortress) -> None:
    """The negative control: the state that the tests above look at shows it."""
    before = fortress.state()
    harm = [("CreateSession", "new-victim"), ("SetModelAlias", "attacked")]
    for name, told in harm:
        [rpc] = [rpc for rpc in RPCS if rpc.method.name == name]
        request = potent(rpc, handle=fortress.handle, exists=True)
        outcome = call(fortress.channel, rpc, request, bearer(fortress.operator))
        assert outcome.code == grpc.StatusCode.OK
        assert told in "".join(fortress.state())
        assert told not in "".join(before)
    fortress.wire.sessions.DeleteSession(DeleteSessionRequest(name="sessions/new-victim"))
    fortress.wire.models.DeleteModelAlias(
        DeleteModelAliasRequest(name="models/tiny", alias="attacked")
    )
