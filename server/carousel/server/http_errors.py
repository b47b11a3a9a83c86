"""Errors on the HTTP port: the catalogue's, as a status and a body of JSON."""

from __future__ import annotations

import json
from http import HTTPStatus

import grpc

from carousel.errors import CarouselError
from carousel.exposition import Answer

CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
# Browsers ask for a password then, which may be any credential.
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="carousel", Bearer realm="carousel"'}


def trouble_of(error: CarouselError) -> Answer:
    return trouble(CODES.get(error.code, 500), error.reason, error.message)


def trouble(code: int, reason: str, message: str) -> Answer:
    body = {"error": {"reason": reason, "message": message}}
    headers = _CHALLENGE if code == HTTPStatus.UNAUTHORIZED else {}
    return Answer(json.dumps(body).encode(), "application/json", int(code), headers)
