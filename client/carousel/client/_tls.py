"""TLS: how to talk to a server over it, and what is wrong where that fails."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How to talk to a server over TLS.

    `ca`: PEM file of the authorities to trust; None: the system's. `cert` and `key`: PEM files
    that show the server who calls (mutual TLS), both or neither. `server_name`: the name to
    expect in the server's certificate, when it is not the target's.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("tls needs both cert and key, or neither")


def credentials(tls: TLS) -> grpc.ChannelCredentials:
    """Raises OSError for files that can't be read, ValueError for those that are of no use."""
    read = [
        None if path is None else Path(path).read_bytes() for path in (tls.ca, tls.key, tls.cert)
    ]
    _check(tls)
    return grpc.ssl_channel_credentials(*read)


def _check(tls: TLS) -> None:
    """Of wrong files gRPC would say only that it failed, at the first call."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is not None:
        try:
            context.load_verify_locations(tls.ca)
        except ssl.SSLError:
            raise ValueError(f"ca must be a PEM file of certificates; {tls.ca} is none") from None
    if tls.cert is not None and tls.key is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(
                    f"key must be that of the certificate {tls.cert}; {tls.key} is another one's"
                ) from None
            raise ValueError(
                "cert and key must be PEM files of a certificate and of its key without a "
                f"password; {tls.cert} and {tls.key} are not"
            ) from None


def explain(details: str, tls: TLS | None) -> str | None:
    """What is wrong with TLS, by what gRPC says of a connection that failed; None: nothing."""
    if tls is None:
        return None
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return _untrusted(details, tls)
    if "Hostname Verification Check failed" in details:
        return (
            "the server's certificate is for other names than the one that it was called by; "
            "server_name of TLS says which to expect"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return "the server does not speak TLS on this port, and was called over it"
    if details.startswith("failed to connect") and _closed(details):
        # With TLS 1.3 a client is done before the server has looked at its certificate.
        if tls.cert is None:
            return "the server wants a client certificate (cert and key of TLS), and got none"
        return (
            f"the server does not accept the client certificate {tls.cert}: it has expired, or is "
            "of an authority that the server does not trust"
        )
    if "handshake failed" in details.lower():
        return f"the connection could not be made secure: {details}"
    return None


def hint(details: str, tls: TLS | None) -> str:
    """To be added where a server may want TLS: it hangs up on those who speak plainly."""
    if tls is None and details.startswith("failed to connect") and _closed(details):
        return "; a server that wants TLS hangs up like this on a client without"
    return ""


def _untrusted(details: str, tls: TLS) -> str:
    if "expired" in details:
        return "the server's certificate has expired; it must be renewed there"
    if "not yet valid" in details:
        return "the server's certificate is not valid yet, by the clock of this machine"
    trusted = "the system's" if tls.ca is None else f"those in {tls.ca}"
    return (
        "the server's certificate is of none of the authorities that are trusted here, which are "
        f"{trusted}; ca of TLS names others"
    )


def _closed(details: str) -> bool:
    return "Socket closed" in details or "Connection reset" in details
