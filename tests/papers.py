"""Certificates of the tests: made once, by what makes those of `carousel certs`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from carousel.cli.certificates import Authority, Identity
from carousel.client import TLS

LONG_AGO = datetime.now(UTC) - timedelta(days=40)
SPIFFE = "spiffe://example.org/tests"


class Papers:
    """A folder of files by name: an authority, what it signed, and what is no good."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, stranger = Authority.new(), Authority.new()
        self.put("ca", self.authority.identity)
        self.put("strange-ca", stranger.identity)
        self.put("server", self.authority.server())
        self.put("expired-server", self.authority.server(start=LONG_AGO))
        self.put("client", self.authority.client(spiffe=SPIFFE))
        self.put("strange-client", stranger.client())
        self.put("expired-client", self.authority.client(start=LONG_AGO))

    def put(self, name: str, identity: Identity) -> None:
        identity.write(self.cert(name), self.key(name))

    def cert(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def serving(self, name: str = "server", *, mutual: bool = False) -> dict[str, Any]:
        """Settings of a server that shows this certificate; `mutual`: and wants one."""
        own = {"tls_cert": self.cert(name), "tls_key": self.key(name)}
        return own | ({"tls_client_ca": self.cert("ca")} if mutual else {})

    def calling(self, name: str | None = None, *, ca: str = "ca", **more: Any) -> TLS:
        """A client that trusts `ca`, and shows this certificate."""
        if name is None:
            return TLS(ca=self.cert(ca), **more)
        return TLS(ca=self.cert(ca), cert=self.cert(name), key=self.key(name), **more)

    def flags(self, name: str | None = None) -> list[str]:
        """The same on a command line."""
        flags = ["--ca", str(self.cert("ca"))]
        if name is not None:
            flags += ["--cert", str(self.cert(name)), "--key", str(self.key(name))]
        return flags
