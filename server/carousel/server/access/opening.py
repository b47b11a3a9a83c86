"""Opens the gate that the settings describe."""

from __future__ import annotations

from carousel.server.access.gate import Gate, GuardedGate, OpenGate
from carousel.server.access.grant import Verifier
from carousel.server.access.key_verifier import KeyVerifier
from carousel.server.access.metrics import AccessMetrics
from carousel.server.access.rules import HEALTH, REFLECTION, closing
from carousel.server.access.signing_keys import SigningKeys
from carousel.server.access.spiffe import SpiffeTable
from carousel.server.access.token_verifier import TokenVerifier, Trust
from carousel.server.settings import Settings


def open_gate(settings: Settings, metrics: AccessMetrics) -> Gate:
    """Raises AccessError for a file of credentials that can't be used."""
    public = {HEALTH: settings.public_health, REFLECTION: settings.public_reflection}
    rules = closing(service for service, is_open in public.items() if not is_open)
    if not settings.knows_callers:
        return OpenGate(rules)
    verifiers: list[Verifier] = []
    if settings.api_keys is not None:
        verifiers.append(KeyVerifier(settings.api_keys))
    if settings.jwt_issuer and settings.jwt_audience and settings.jwt_jwks:
        trust = Trust(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            tenant_claim=settings.jwt_tenant_claim,
            scopes_claim=settings.jwt_scopes_claim,
            operator=settings.jwt_operator,
        )
        verifiers.append(TokenVerifier(trust, SigningKeys(settings.jwt_jwks)))
    table = None if settings.spiffe_ids is None else SpiffeTable(settings.spiffe_ids)
    return GuardedGate(rules, verifiers, table, metrics)
