"""What an operator can choose of who may call, and how both ends show who they are."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from carousel.exposition import Files
from carousel.server.setting_types import Jwks, UserPath


class AccessSettings(BaseSettings):
    """Certificates and credentials."""

    tls_cert: UserPath | None = Field(
        None,
        description="PEM file of the certificate to show on both ports, read anew when it changes; "
        "unset: no TLS.",
    )
    tls_key: UserPath | None = Field(
        None, description="PEM file of the key of tls_cert, without a password."
    )
    tls_client_ca: UserPath | None = Field(
        None,
        description="PEM file of authorities; only clients with a certificate of theirs may call.",
    )
    api_keys: UserPath | None = Field(
        None, description="File of the API keys that `carousel keys` makes; unset: there are none."
    )
    jwt_issuer: str | None = Field(
        None, description="Issuer whose tokens (JWT, OpenID Connect) are taken; unset: nobody's."
    )
    jwt_audience: str | None = Field(
        None, description="Audience that tokens must be meant for.", min_length=1
    )
    jwt_jwks: Jwks | None = Field(
        None, description="The issuer's signing keys: a JWKS file, or an https:// address of one."
    )
    jwt_tenant_claim: str = Field(
        "tenant", description="Claim of tokens that names the tenant.", min_length=1
    )
    jwt_scopes_claim: str = Field(
        "scope", description="Claim of tokens that lists the scopes.", min_length=1
    )
    jwt_operator: str | None = Field(
        None,
        description="What the tenant's claim of an operator says, who is over all tenants; unset: "
        "no token is an operator's.",
        min_length=1,
    )
    spiffe_ids: UserPath | None = Field(
        None,
        description="TOML file of the tenant and scopes of each SPIFFE id in client certificates; "
        "unset: certificates identify nobody.",
    )
    public_health: bool = Field(
        True, description="Answer grpc.health without a credential, where there are credentials."
    )
    public_reflection: bool = Field(
        True, description="Answer reflection without a credential, where there are credentials."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key must be given both, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        issued = (self.jwt_issuer, self.jwt_audience, self.jwt_jwks)
        if any(issued) and not all(issued):
            raise ValueError("jwt_issuer, jwt_audience and jwt_jwks are given together, or none")
        return self

    @property
    def certificate_files(self) -> Files | None:
        """None: no TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Files(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def has_credentials(self) -> bool:
        """Whether callers must show who they are."""
        return self.knows_callers or self.tls_client_ca is not None

    @property
    def knows_callers(self) -> bool:
        """Whether calls need credentials."""
        return any((self.api_keys, self.jwt_issuer, self.spiffe_ids))
