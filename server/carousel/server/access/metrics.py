"""The metrics of the gate."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

NONE = "none"  # the kind of a credential that nobody sent, or nobody could tell
KINDS = ("key", "jwt", "spiffe", NONE)
ADMITTED, UNAUTHENTICATED, DENIED = "admitted", "unauthenticated", "denied"


class AccessMetrics:
    """Every call that needs a credential counts once, on a server that knows its callers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = requests = Counter(
            "carousel_auth_requests",
            "Calls that need a credential, by its kind and what came of them.",
            ("credential", "result"),
            registry=registry,
        )
        self.admitted = {kind: requests.labels(kind, ADMITTED) for kind in KINDS[:-1]}
        self.unauthenticated = {kind: requests.labels(kind, UNAUTHENTICATED) for kind in KINDS}
        self.denied = {kind: requests.labels(kind, DENIED) for kind in KINDS[:-1]}
