"""Certificates for development: an authority, and what it signs for a server and its clients."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL = ("localhost", "127.0.0.1", "::1")
AUTHORITY_DAYS = 365
SKEW = timedelta(minutes=5)  # between the clocks of those who sign and those who check

_ALL_USES = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, certificate: Path, key: Path) -> None:
        """The key is readable for its owner alone, from its first byte on."""
        _write(key, self.key_pem, 0o600)
        _write(certificate, self.certificate_pem, 0o644)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates; whoever trusts it trusts them."""

    identity: Identity

    @classmethod
    def new(cls, *, days: float = AUTHORITY_DAYS, start: datetime | None = None) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Carousel development authority")
        builder = (
            _builder(name, key, days=days, start=start)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(**_ALL_USES | {"key_cert_sign": True, "crl_sign": True}),
                critical=True,
            )
        )
        return cls(Identity(builder.sign(key, hashes.SHA256()), key))

    @classmethod
    def read(cls, certificate: Path, key: Path) -> Authority:
        """Raises ValueError for what is no authority of ours, OSError where it can't be read."""
        found = load_pem_private_key(key.read_bytes(), None)
        signed = x509.load_pem_x509_certificate(certificate.read_bytes())
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key} must be an EC key, as carousel certs makes them")
        if found.public_key() != signed.public_key():
            raise ValueError(f"{key} must be the key of {certificate}; it is another one's")
        return cls(Identity(signed, found))

    def server(
        self, hosts: Iterable[str] = (), *, days: float = 30, start: datetime | None = None
    ) -> Identity:
        """For a server that is called by LOCAL and `hosts`, names or addresses."""
        names = [_host(host) for host in dict.fromkeys((*LOCAL, *hosts))]
        return self._sign("carousel server", names, ExtendedKeyUsageOID.SERVER_AUTH, days, start)

    def client(
        self,
        name: str = "client",
        *,
        spiffe: str | None = None,
        days: float = 30,
        start: datetime | None = None,
    ) -> Identity:
        """For a caller; `spiffe` is its id, as in spiffe://example.org/forecasts."""
        if spiffe is not None and not spiffe.startswith("spiffe://"):
            raise ValueError(f"a SPIFFE id begins with spiffe://, got {spiffe!r:.100}")
        names: list[x509.GeneralName] = []
        if spiffe is not None:
            names.append(x509.UniformResourceIdentifier(spiffe))
        return self._sign(name, names, ExtendedKeyUsageOID.CLIENT_AUTH, days, start)

    def _sign(
        self,
        name: str,
        names: list[x509.GeneralName],
        use: x509.ObjectIdentifier,
        days: float,
        start: datetime | None,
    ) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        signer = self.identity
        builder = (
            _builder(_name(name), key, days=days, start=start)
            .issuer_name(signer.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**_ALL_USES | {"digital_signature": True}), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Identity(builder.sign(signer.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: float, start: datetime | None
) -> x509.CertificateBuilder:
    begin = (datetime.now(UTC) if start is None else start) - SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + SKEW + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text.strip("[]")))
    except ValueError:
        return x509.DNSName(text)


def _write(file: Path, content: bytes, mode: int) -> None:
    """Whole or not at all: a server may be reading the former one."""
    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(handle)
    beside.rename(file)
