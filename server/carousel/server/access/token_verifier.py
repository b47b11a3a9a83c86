"""Verifies tokens of an issuer (JWT, as OpenID Connect has them)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from carousel.server.access.caller import OPERATORS, SCOPES, TENANT_NAME, Caller
from carousel.server.access.grant import Grant, refused
from carousel.server.access.signing_keys import SigningKeys

LEEWAY_SECONDS = 30  # for clocks that differ
_OPTIONS: Any = {"require": ["exp", "iss", "aud", "sub"], "strict_aud": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What tokens must say, and where they say what their holders may do."""

    issuer: str
    audience: str
    tenant_claim: str
    scopes_claim: str
    operator: str | None  # the value of the tenant's claim that is the operator's


class TokenVerifier:
    """Takes any credential that is no API key."""

    kind = "jwt"

    def __init__(self, trust: Trust, keys: SigningKeys) -> None:
        self._trust = trust
        self._keys = keys

    def takes(self, credential: str) -> bool:
        return credential.count(".") == 2

    def refresh(self) -> None:
        self._keys.refresh()

    def verify(self, credential: str) -> Grant:
        try:
            key_id = jwt.get_unverified_header(credential).get("kid")
            key = self._keys.find(key_id)
            if key is None:
                raise refused("a token signed with a key that its issuer does not have")
            claims = jwt.decode(
                credential,
                key.jwk,
                algorithms=[key.jwk.algorithm_name],  # the key's own, never the token's
                issuer=self._trust.issuer,
                audience=self._trust.audience,
                leeway=LEEWAY_SECONDS,
                options=_OPTIONS,
            )
        except (jwt.PyJWTError, RecursionError) as error:
            raise refused(f"a token that does not hold: {type(error).__name__}") from None
        return Grant(
            caller=self._caller(claims),
            kind=self.kind,
            source=key,
            until=float(claims["exp"]) + LEEWAY_SECONDS,
        )

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        trust = self._trust
        named = claims.get(trust.tenant_claim)
        if trust.operator is not None and named == trust.operator:
            tenant = ""
        elif isinstance(named, str) and named and TENANT_NAME.fullmatch(named):
            tenant = named
        else:  # a token without a tenant must not be taken for the operator's
            raise refused(f"a token whose claim {trust.tenant_claim} names no tenant")
        subject = re.sub(r"[^\x21-\x7e]", "?", str(claims["sub"]))[:100]
        scopes = _scopes(claims.get(trust.scopes_claim))
        return Caller(f"jwt/{subject}", tenant, scopes - OPERATORS if tenant else scopes)


def _scopes(claim: Any) -> frozenset[str]:
    """Of `infer sessions` or of a list; what is none of ours is somebody else's."""
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else ()
    return SCOPES.intersection(word for word in words if isinstance(word, str))
