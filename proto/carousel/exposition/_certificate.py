"""The certificate that a port shows, read anew when its files change."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

log = logging.getLogger("carousel.tls")


class CertificateError(Exception):
    """The files are of no use as they are; the message says why."""


Look = tuple[int, int, int] | None
Looks = tuple[Look, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of a certificate (those of authorities between it and the root may follow in it),
    of its key, and of the authorities whose clients may come in (mutual TLS); None: any client.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        own = (self.certificate, self.key)
        return own if self.client_ca is None else (*own, self.client_ca)


@dataclass(frozen=True, slots=True)
class Secret:
    """What the files held when they fitted together; `context` is the same for Python's ssl."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    not_after: datetime
    context: ssl.SSLContext


class Certificate:
    """What is served, from the first on. Raises CertificateError if that is of no use.

    `current` looks whether the files have changed. What does not fit together, as while one file
    is new and the other old, has expired or is cut off, leaves what was served, and a line in the
    log. Safe to share.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._looked: Looks | None = _looks(files)
        self._secret = read(files)
        self._trouble = ""

    @property
    def current(self) -> Secret:
        with self._lock:
            looks = _looks(self.files)
            if looks != self._looked:
                self._renew()
                # What is still in the making is tried again, even if nothing seems to change.
                self._looked = None if self._trouble else looks
            return self._secret

    @property
    def wrong(self) -> bool:
        """Whether the files are not what is served, because they are of no use."""
        return bool(self._trouble)

    def _renew(self) -> None:
        try:
            secret = read(self.files)
        except CertificateError as error:
            if str(error) != self._trouble:
                log.error("the former certificate is served on: %s", error)
            self._trouble = str(error)
            return
        log.info("new certificate, good until %s", secret.not_after.isoformat())
        self._secret, self._trouble = secret, ""


def read(files: Files) -> Secret:
    """Raises CertificateError for files that can't be read, do not fit together or have expired."""
    certificate, key, client_ca = before = _contents(files)
    context = _context(files)
    if _contents(files) != before:
        raise CertificateError(f"{files.certificate} or {files.key} changed while it was read")
    try:
        own, *_ = x509.load_pem_x509_certificates(certificate)
    except ValueError as error:
        raise CertificateError(f"{files.certificate} is no certificate: {error}") from None
    now = datetime.now(UTC)
    if now >= own.not_valid_after_utc:
        until = own.not_valid_after_utc.isoformat()
        raise CertificateError(f"{files.certificate} has expired, on {until}")
    if now < own.not_valid_before_utc:
        since = own.not_valid_before_utc.isoformat()
        raise CertificateError(f"{files.certificate} is not valid before {since}")
    return Secret(certificate, key, client_ca, own.not_valid_after_utc, context)


def _contents(files: Files) -> tuple[bytes, bytes, bytes | None]:
    try:
        certificate, key, *more = (path.read_bytes() for path in files.paths)
    except OSError as error:
        raise CertificateError(f"{error.filename} can't be read: {error.strerror}") from None
    return certificate, key, more[0] if more else None


def _context(files: Files) -> ssl.SSLContext:
    """TLS 1.2 and 1.3. Clients are asked for a certificate where authorities are named; without
    one they are let in, and the HTTP port tells them nothing but health."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{files.key} is not the key of {files.certificate}") from None
        raise CertificateError(
            f"{files.certificate} and {files.key} must be PEM files of a certificate and of its "
            "key without a password"
        ) from None
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError:
            raise CertificateError(
                f"{files.client_ca} must be a PEM file of certificates, and is none"
            ) from None
    return context


def _looks(files: Files) -> Looks:
    """What changes with the files, also if they are links that are pointed elsewhere."""
    return tuple(_look(path) for path in files.paths)


def _look(path: Path) -> Look:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
