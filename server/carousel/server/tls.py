"""TLS on the gRPC port: each new connection is shown the certificate of the moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from carousel.exposition import Certificate, Files, Secret


def open_certificate(files: Files | None, registry: CollectorRegistry) -> Certificate | None:
    """What both ports show; None: they speak plainly. Raises CertificateError."""
    if files is None:
        return None
    certificate = Certificate(files)
    CertificateGauges(certificate, registry=registry)
    return certificate


def add_port(server: grpc.aio.Server, address: str, certificate: Certificate | None) -> int:
    """Listen on an address: the port, or 0 or RuntimeError where that can't be."""
    if certificate is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials(certificate))


def credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Of TLS 1.2 and 1.3, which are gRPC's own bounds. Connections that are made already go on
    with what they were shown."""
    given = certificate.current

    def fetch() -> Any:  # None: as before, which the types do not know of
        nonlocal given
        secret = certificate.current
        if secret is given:
            return None
        given = secret
        return _configuration(secret)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        fetch,
        require_client_authentication=certificate.files.client_ca is not None,
    )


def _configuration(secret: Secret) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(secret.key, secret.certificate)], secret.client_ca
    )


class CertificateGauges(Collector):
    """Until when the certificate is good; to ask is to look for a new one."""

    def __init__(self, certificate: Certificate, *, registry: CollectorRegistry) -> None:
        self._certificate = certificate
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        expiry = self._certificate.current.not_after.timestamp()
        yield GaugeMetricFamily(
            "carousel_tls_certificate_expiry_seconds",
            "When the certificate that is served expires, in seconds since the epoch.",
            value=expiry,
        )
        yield GaugeMetricFamily(
            "carousel_tls_certificate_refused",
            "1: the files of the certificate are of no use, and the former one is served on.",
            value=float(self._certificate.wrong),
        )
