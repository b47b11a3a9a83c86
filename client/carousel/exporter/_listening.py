"""Where the exporter may listen, and what it shows there."""

from __future__ import annotations

from pathlib import Path

from carousel.exposition import Certificate, CertificateError, Files, is_loopback


def certificate(
    host: str, *, cert: Path | None, key: Path | None, client_ca: Path | None, insecure: bool
) -> Certificate | None:
    """What to show on `host`; None: nothing, and HTTP is spoken.

    Raises ValueError for files that are of no use, and for an address that others can reach
    without TLS or certificates of theirs, unless that is meant.
    """
    if (cert is None) != (key is None):
        raise ValueError("tls_cert and tls_key must be given both, or neither")
    if client_ca is not None and cert is None:
        raise ValueError("tls_client_ca needs tls_cert and tls_key")
    if client_ca is None and not (insecure or is_loopback(host)):
        raise ValueError(
            "host must be localhost or a loopback address without tls_cert, tls_key and "
            f"tls_client_ca, unless the flag --insecure is given, got {host!r}"
        )
    if cert is None or key is None:
        return None
    try:
        return Certificate(Files(cert, key, client_ca))
    except CertificateError as error:
        raise ValueError(str(error)) from error
