"""The options of `carousel serve` about certificates and credentials.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

from carousel.cli.serve_flag import flag, listening

_access = partial(flag, "Who may call")


def access_options(
    tls_cert: Annotated[
        Path | None,
        listening(
            "none",
            "PEM file of the certificate to show on both ports, read anew when it changes; unset: "
            "no TLS.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, listening("none", "PEM file of the key of tls_cert, without a password.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        listening(
            "none",
            "PEM file of authorities; only clients with a certificate of theirs may call.",
        ),
    ] = None,
    api_keys: Annotated[
        Path | None,
        _access("none", "File of the API keys that `carousel keys` makes; unset: there are none."),
    ] = None,
    jwt_issuer: Annotated[
        str | None,
        _access(
            "none",
            "Issuer whose tokens (JWT, OpenID Connect) are taken; unset: nobody's.",
            metavar="URL",
        ),
    ] = None,
    jwt_audience: Annotated[
        str | None, _access("none", "Audience that tokens must be meant for.")
    ] = None,
    jwt_jwks: Annotated[
        str | None,
        _access(
            "none",
            "The issuer's signing keys: a JWKS file, or an https:// address of one.",
            metavar="FILE|URL",
        ),
    ] = None,
    jwt_tenant_claim: Annotated[
        str | None, _access("tenant", "Claim of tokens that names the tenant.")
    ] = None,
    jwt_scopes_claim: Annotated[
        str | None, _access("scope", "Claim of tokens that lists the scopes.")
    ] = None,
    jwt_operator: Annotated[
        str | None,
        _access(
            "none",
            "What the tenant's claim of an operator says, who is over all tenants; unset: no token "
            "is an operator's.",
        ),
    ] = None,
    spiffe_ids: Annotated[
        Path | None,
        _access(
            "none",
            "TOML file of the tenant and scopes of each SPIFFE id in client certificates; unset: "
            "certificates identify nobody.",
        ),
    ] = None,
    public_health: Annotated[
        bool | None,
        _access("yes", "Answer grpc.health without a credential, where there are credentials."),
    ] = None,
    public_reflection: Annotated[
        bool | None,
        _access("yes", "Answer reflection without a credential, where there are credentials."),
    ] = None,
) -> None:
    """None means that the flag was not given; only the signature is used."""
