"""The exposition: metrics as messages, and as what Prometheus reads; shared by both ends.

A server answers `AdminService.GetStatistics` with `statistics` of its registry. Its own /metrics
and the exporter's make `families` of that message, and `routes` show them over HTTP, as text or
OpenMetrics, by prometheus_client's encoders. So all three say the same.
"""

from carousel.exposition._certificate import Certificate, CertificateError, Files, Secret
from carousel.exposition._families import families, merge, statistics
from carousel.exposition._http import Answer, Headers, Request, Route, routes
from carousel.exposition._http_server import HttpServer
from carousel.exposition._loopback import is_loopback

__all__ = [
    "Answer",
    "Certificate",
    "CertificateError",
    "Files",
    "Headers",
    "HttpServer",
    "Request",
    "Route",
    "Secret",
    "families",
    "is_loopback",
    "merge",
    "routes",
    "statistics",
]
