"""An issuer of tokens: its signing keys, its JWKS, and tokens that are right or wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.test", "carousel"


class Issuer:
    """Signs with RS256; `publish` writes the JWKS."""

    def __init__(self, key_id: str = "one") -> None:
        self.key_id = key_id
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwk(self) -> dict[str, Any]:
        found: dict[str, Any] = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {**found, "kid": self.key_id, "alg": "RS256", "use": "sig"}

    def token(self, *, lifetime: float = 600, **claims: Any) -> str:
        """Claims of None are left out."""
        now = time.time()
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": now,
            "exp": now + lifetime,
            "tenant": "shop",
            "scope": "infer sessions models train metrics admin",
            **claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self.key, algorithm="RS256", headers={"kid": self.key_id})


def publish(file: Path, *issuers: Issuer) -> None:
    text = json.dumps({"keys": [issuer.jwk() for issuer in issuers]})
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(file)


def with_hmac(token: str, secret: bytes) -> str:
    """The claims of a token, signed with HS256; PyJWT itself refuses a public key for that."""
    header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": "one"}).encode()
    signed = f"{_base64(header)}.{token.split('.')[1]}"
    return f"{signed}.{_base64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
